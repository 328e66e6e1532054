"""Events: whole lines only, and cut back to the checkpoint on resume."""

from tunesmith.training.events import Events, read_events


def test_a_resumed_file_reads_as_if_never_interrupted(tmp_path):
    path = tmp_path / "events.jsonl"
    first = Events(path)
    for step in (1, 2, 3, 4):
        first.write(step=step, loss=1.0 / step)
    first.close()
    again = Events(path, after_step=2)
    for step in (3, 4):
        again.write(step=step, loss=1.0 / step)
    again.close()
    assert [event["step"] for event in read_events(path)] == [1, 2, 3, 4]


def test_half_a_line_of_a_killed_process_is_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_events(path) == [{"step": 1}]
    Events(path, after_step=5).close()
    assert path.read_text() == '{"step": 1}\n'
