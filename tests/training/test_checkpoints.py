"""Checkpoints: whole or absent, verified, and the newest found again."""

import pytest
import torch

from tunesmith.errors import RunError
from tunesmith.training.checkpoints import Checkpoints, Progress


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weights/a": torch.full((3,), value), "optimizer/a/step": torch.tensor(value)}


def test_the_latest_is_read_back_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(Progress(step=1), state(1))
    checkpoints.save(Progress(step=2, tokens=20, best=0.5, best_step=1), state(2), best=state(1))
    found = checkpoints.latest()
    assert found.progress == Progress(step=2, tokens=20, best=0.5, best_step=1)
    assert torch.equal(found.state["weights/a"], state(2)["weights/a"])
    assert torch.equal(found.best["weights/a"], state(1)["weights/a"])


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(Progress(step=step), state(step))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000002", "step-000003"]


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    target = checkpoints.save(Progress(step=1), state(1))
    file = target / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"state\.safetensors is not what was written"):
        checkpoints.latest()


def test_a_missing_file_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    target = checkpoints.save(Progress(step=1), state(1))
    (target / "progress.json").unlink()
    with pytest.raises(RunError, match=r"progress\.json"):
        checkpoints.latest()


def test_no_checkpoint_is_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path / "none", keep=1).latest() is None


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(Progress(step=1), state(1))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunesmith.training.checkpoints.save_file", full)
    with pytest.raises(RunError, match="No space left on device"):
        checkpoints.save(Progress(step=2), state(2))
    assert checkpoints.latest().progress.step == 1
    assert [p.name for p in tmp_path.glob("*step-*")] == ["step-000001"]
