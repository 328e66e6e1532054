"""From results to the README: tables with every side in them, between marks, and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.cells import table
from benchmarks.tables import (
    memory_table,
    peers_table,
    regenerate,
    scaling_table,
    section,
    techniques_table,
    verbs_table,
    wrong_labels_table,
)

ABOUT = {
    "hardware": {"cpu": "A processor", "threads": 2, "features": ["avx512f"], "gpu": None},
    "date": "2026-11-21",
    "command": "python -m benchmarks.peers lora",
}


def spread(median: float, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    return {"median": median, "least": least or median, "most": most or median}


def row(title: str, **changes: Any) -> dict[str, Any]:
    return {
        "side": title.lower(),
        "title": title,
        "status": "finished",
        "rounds": 2,
        "tokens_per_second": spread(200, 190, 210),
        "seconds_to_finished": spread(30),
        "peak_memory_bytes": spread(3 * 2**30),
        "held_out_loss": spread(1.7274),
        "targets": 50,
        "same_targets": True,
        **changes,
    }


@pytest.fixture
def peers() -> dict[str, Any]:
    work = {"kind": "lora", "model": "a-model", "records": 4, "tokens": 1035, "targets": 50}
    return {
        **ABOUT,
        "benchmark": "peers",
        "work": {**work, "epochs": 1, "batch": 8},
        "environments": {"peer": {"requirements": ["peer==1"], "versions": {}}},
        "summary": [
            row("Tunesmith"),
            row(
                "TRL",
                same_targets=False,
                targets=64,
                speed_ratio=spread(2.0, 1.9, 2.1),
                finished_ratio=spread(1.5),
                memory_ratio=spread(0.5),
            ),
            {
                "side": "unsloth",
                "title": "Unsloth",
                "status": "failed",
                "rounds": 0,
                "error": "Traceback\nNotImplementedError: You need a GPU.",
                "tokens": 1200,
                "batches": 3,
                "stopped_after_seconds": 12.3,
            },
        ],
        "outcomes": [],
    }


def write(folder: Path, name: str, report: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(report))
    return path


def shown(folder: Path, report: dict[str, Any]) -> str:
    text = section(write(folder, "results", report))
    assert text is not None
    return text


def test_a_table_says_each_figure_with_its_range(tmp_path: Path, peers: dict[str, Any]) -> None:
    lines = shown(tmp_path, peers).splitlines()
    (ours,) = [line for line in lines if line.startswith("| Tunesmith |")]
    assert ours == "| Tunesmith | 200 (190–210) | 30 | 3.0 | 1.727 | the same | – | – | – |"
    (theirs,) = [line for line in lines if line.startswith("| TRL |")]
    assert theirs.endswith("| 64, **not the same** | 2.00 (1.90–2.10) × | 1.50 × | 0.50 × |")


def test_a_side_that_failed_is_in_the_table_with_its_error_below(
    tmp_path: Path, peers: dict[str, Any]
) -> None:
    text = shown(tmp_path, peers)
    assert "| Unsloth | – | – | – | – | – | – | – | failed |" in text
    assert "NotImplementedError: You need a GPU." in text
    assert "it had read 1,200 tokens in 3 micro-batches" in text


def test_what_was_refused_of_a_peer_that_installed_is_told(
    tmp_path: Path, peers: dict[str, Any]
) -> None:
    peers["environments"]["peer"] |= {
        "failure": "$ pip install peer==2\nERROR: needs Python 3.12",
        "removed": ["torchvision"],
    }
    text = shown(tmp_path, peers)
    assert "peer==1, since `pip install peer==2` ended with `ERROR: needs Python 3.12`" in text
    assert "torchvision do not load beside this build of torch" in text


def test_the_readme_keeps_its_words_and_gets_its_tables_anew(
    tmp_path: Path, peers: dict[str, Any]
) -> None:
    write(tmp_path, "peers-a", peers)
    readme = tmp_path / "README.md"
    begin, end = "<!-- results: peers-a -->", "<!-- end -->"
    readme.write_text(f"# Words\n\n{begin}\nold table\n{end}\n\nmore words\n")
    made = regenerate(readme, tmp_path)
    assert made.startswith("# Words\n")
    assert made.endswith("more words\n")
    assert "old table" not in made
    assert "| Tunesmith |" in made
    readme.write_text(made)
    assert regenerate(readme, tmp_path) == made


def test_results_of_another_kind_are_left_to_their_own_script(tmp_path: Path) -> None:
    write(tmp_path, "other", {"benchmark": "other"})
    (tmp_path / "README.md").write_text("# Words\n")
    assert regenerate(tmp_path / "README.md", tmp_path) == "# Words\n"


def test_results_without_a_place_get_one_at_the_end(tmp_path: Path, peers: dict[str, Any]) -> None:
    write(tmp_path, "peers-b", peers)
    readme = tmp_path / "README.md"
    readme.write_text("# Words\n")
    made = regenerate(readme, tmp_path)
    assert made.startswith("# Words\n\n## peers-b\n\n<!-- results: peers-b -->\n")


def test_the_plot_is_the_same_for_the_same_figures(tmp_path: Path, peers: dict[str, Any]) -> None:
    path = write(tmp_path, "peers-a", peers)
    pictures = []
    for _ in range(2):
        section(path)
        pictures.append(path.with_suffix(".svg").read_text())
    assert pictures[0] == pictures[1]
    assert "<svg" in pictures[0]


def test_a_classifier_is_shown_by_its_accuracy_and_by_texts(peers: dict[str, Any]) -> None:
    peers["summary"] = [row("Tunesmith", held_out_accuracy=spread(0.9))]
    header, _, first, *_ = (line for line in peers_table(peers).splitlines() if line[:1] == "|")
    assert "| accuracy | trained texts | Tunesmith is faster, tokens/s |" in header
    assert "| 0.900 |" in first
    assert first.count("|") == header.count("|")


def test_a_head_is_shown_by_its_accuracy_and_not_by_tokens(
    tmp_path: Path, peers: dict[str, Any]
) -> None:
    peers["work"]["kind"] = "head"
    peers["summary"] = [row("Tunesmith", held_out_accuracy=spread(0.861))]
    text = shown(tmp_path, peers)
    assert "accuracy" in text
    assert "0.861" in text
    assert "tokens/s" not in text.split("\n\n")[1]


def test_a_ladder_shows_each_gain(tmp_path: Path, peers: dict[str, Any]) -> None:
    rungs = [
        {**row("plain"), "rung": "plain", "last_loss": spread(1.2)},
        {**row("+ packed"), "rung": "packed", "of_first": 2.5, "of_before": 2.5},
        {"rung": "fused", "title": "+ fused", "status": "failed", "error": "no"},
    ]
    report = {**peers, "benchmark": "ladder", "summary": rungs}
    text = shown(tmp_path, report)
    assert "| plain | 200 (190–210) | 1 | 1 | 30 | 3.00 | 1.2000 |" in text
    assert "| + packed | 200 (190–210) | 2.50 | 2.50 | 30 | 3.00 | – |" in text
    assert "| + fused | – | – | – | – | – | failed |" in text


def test_a_curve_shows_each_point_and_those_that_did_not_finish() -> None:
    done = {"status": "finished", "tokens_per_second": 250.4, "peak_memory_bytes": 2**30}
    late = {"status": "timed out", "tokens_per_second": None, "peak_memory_bytes": 2**31}
    points = [{"length": 256, **done}, {"length": 4096, **late}]
    text = scaling_table({**ABOUT, "curves": {"length": points}})
    assert "| 256 | 250 | 1.00 |  |" in text
    assert "| 4096 | – | 2.00 | timed out |" in text


def test_a_cell_cannot_break_a_table() -> None:
    assert table(["a"], [["x | y\nz"]]).splitlines()[-1] == "| x \\| y z |"


def test_the_committed_readme_is_what_the_results_say() -> None:
    here = Path(__file__).parents[2] / "benchmarks"
    readme = here / "README.md"
    assert regenerate(readme, here / "results") == readme.read_text(encoding="utf-8")


def test_wrong_labels_are_averaged_over_the_draws_and_every_level_has_its_row() -> None:
    def draw(found: int, share: float) -> dict[str, Any]:
        figures = {"found": found, "recall": share, "precision": share}
        return {
            "flipped": 10,
            "all": figures,
            "sure": {"0.7": figures},
            "accuracy": {"original labels": share},
        }

    rounds = [draw(10, 0.5), draw(20, 0.7)]
    about = {**ABOUT, "encoder": "an-encoder", "records": 100, "tested": 40, "rounds": rounds}
    shown = wrong_labels_table(about)
    assert "100 sentences, 10 labels flipped, 2 draws" in shown
    assert "| all that `check --deep` names | 15 | 60% | 60% |" in shown
    assert "| of these, with `clean --sure 0.7` | 15 | 60% | 60% |" in shown
    assert "| original labels | 60.0% |" in shown


def test_memory_says_by_how_much_a_prediction_is_off_and_which_case_failed() -> None:
    case = {
        "model": "random:small",
        "technique": {"name": "full"},
        "documents": 4,
        "length": 256,
        "training": {"optimizer": "adamw_8bit"},
        "checkpointed": 3,
    }
    done = {**case, "status": "finished", "predicted": 1.8e9, "measured": 2.0e9}
    shown = memory_table({**ABOUT, "cases": [done, {**case, "status": "failed"}]})
    name = "| small | full (optimizer: adamw_8bit), 3 layers twice | 4 × 256 tokens |"
    assert f"{name} 1.80 | 2.00 | -10% |" in shown
    assert f"{name} – | – | failed |" in shown
    assert "budget" not in shown


def test_memory_says_whether_the_largest_micro_batch_fits_its_budget() -> None:
    case = {
        "model": "small",
        "technique": {"name": "lora"},
        "documents": 7,
        "length": 256,
        "training": {},
        "checkpointed": 0,
        "budget": 4.0e9,
        "status": "finished",
        "whole": 3.8e9,
    }
    shown = memory_table({**ABOUT, "cases": [case]})
    assert "| small | lora | 7 × 256 tokens | 4.00 | 3.80 | 95% |" in shown


def technique(title: str, **changes: Any) -> dict[str, Any]:
    return {
        "job": "instruct",
        "technique": title,
        "verdict": "improved",
        "metric": "log_likelihood",
        "before": -3.1,
        "after": -2.4,
        "interval": [0.61, 0.82],
        "n": 160,
        "general": {"before": 19.9, "after": 20.4, "worse": True},
        "trainable_parameters": 4_884_480,
        "tokens": 2_575,
        "seconds": 10.2,
        "peak_memory_bytes": 2 * 2**30,
        **changes,
    }


def test_a_technique_is_shown_with_what_it_brought_cost_and_forgot() -> None:
    shown = techniques_table({**ABOUT, "rows": [technique("lora")]})

    assert "**instruct**: log_likelihood on 160 records, -3.100 before" in shown
    assert "| lora | -2.400 | +0.610 to +0.820 | improved |" in shown
    assert "| 19.90 → 20.40, worse | 4,884,480 | 10 | 2.0 |" in shown


def test_every_job_has_a_table_of_its_own_and_no_probe_is_a_dash() -> None:
    rows = [technique("lora"), technique("repurpose", job="classification", general=None)]

    shown = techniques_table({**ABOUT, "rows": rows})

    assert shown.index("**instruct**") < shown.index("**classification**")
    assert "| improved | – |" in shown


def test_each_kind_of_work_at_the_verbs_has_a_table_with_both_sides() -> None:
    figures = {"peak_memory_bytes": spread(2**30), "last_loss": spread(0.69)}
    ours = {"kind": "t5", "title": "Tunesmith", "status": "finished", **figures}
    theirs = {**ours, "title": "transformers", "tokens_per_second": spread(100)}
    rows = [
        {**ours, "tokens_per_second": spread(300)},
        {**theirs, "faster": spread(3.0)},
        {"kind": "marian", "title": "transformers", "status": "timed out"},
    ]
    shown = verbs_table({**ABOUT, "steps": 4, "summary": rows})

    assert "| Tunesmith | 300 | 1.0 | 0.6900 | – |" in shown
    assert "| transformers | 100 | 1.0 | 0.6900 | 3.00 × |" in shown
    assert "| transformers | – | – | – | timed out |" in shown
    assert shown.index("T5-small") < shown.index("OPUS-MT")
