"""Tunesmith's side: a loop of one's own over the engine, as the README shows it; it encodes inside
its time. A head is fitted by the technique `repurpose`, by the command `tunesmith train` with the
report and both evaluations that belong to it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import Report, raw, start


def main() -> None:
    job, settings, out, report = start()
    (head if job["kind"] == "head" else loop)(job, settings, out, report)


def loop(job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report) -> None:
    import tunesmith
    from tunesmith.registry import TASKS

    lora = {"name": "lora", "rank": job["rank"], "alpha": job["alpha"]}
    quantised = {"quantize": "nf4", "double_quantize": False}
    name = "classification" if job["kind"] == "classifier" else "instruct"
    data = tunesmith.read(records(job, out), TASKS.get(name)())
    engine, task = tunesmith.load(
        job["path"],
        task=name,
        technique=lora if job["kind"] in ("lora", "qlora") else "full",
        base=quantised if job["kind"] == "qlora" else {},
        data=data,
        training={"seed": job["seed"], **settings.get("training", {})},
    )
    objective = tunesmith.objective(task)
    plan = tunesmith.plan(
        task,
        data,
        batch_size=job["batch"],
        epochs=job["epochs"],
        seed=job["seed"],
        **settings.get("plan", {}),
    )
    for number, step in enumerate(plan):
        for batch in step:
            report.batch(batch.tokens, targets(batch))
            engine.forward_backward(batch, objective, step.counts)
        engine.optimizer_step(job["learning_rate"] * (1 - number / len(plan)))
    report.trained()
    save(engine.model, out / "model")
    report.saved()


def records(job: dict[str, Any], out: Path) -> str:
    """Return the file of records, with the names of their classes."""
    given = Path(job["folder"]) / "train.jsonl"
    return str(named(job, "train", out) if job["kind"] == "classifier" else given)


def named(job: dict[str, Any], part: str, out: Path) -> Path:
    rows = [{"text": r["text"], "label": job["labels"][r["label"]]} for r in raw(job, part)]
    file = out / f"{part}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def targets(batch: Any) -> int:
    """Return how many tokens, or texts, a batch learns."""
    if batch.text.weights_T is None:
        return len(batch.text.lengths)
    return int((batch.text.weights_T != 0).sum())


def save(model: Any, folder: Path) -> None:
    from tunesmith.models.saving import save_adapter, save_full

    (save_full if model.peft is None else save_adapter)(model, folder)


def head(job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report) -> None:
    names = job["labels"]
    recipe = {
        "model": job["path"],
        "task": "classification",
        "technique": "repurpose",
        "data": {
            "train": str(named(job, "train", out)),
            "test": str(named(job, "held_out", out)),
        },
        "training": {"seed": job["seed"]},
    }
    file = out / "recipe.yaml"  # every JSON document is one of YAML
    file.write_text(json.dumps(recipe))
    report.batch(job["tokens"], job["targets"])
    command = [sys.executable, "-m", "tunesmith", "train", str(file)]
    subprocess.run([*command, "--name", "run", "--runs-dir", str(out)], check=True)
    report.trained()
    write_head(out / "run" / "model", out / "model", names)
    report.saved()


def write_head(result: Path, folder: Path, names: list[str]) -> None:
    """Write the fitted map in the plain form that every side of this work writes."""
    from safetensors.numpy import load_file, save_file

    linear = load_file(result / "2_Dense" / "model.safetensors")
    config = json.loads((result / "config.json").read_text())
    order = [int(config["label2id"][name]) for name in names]
    folder.mkdir()
    parts = {name: linear[f"linear.{name}"][order] for name in ("weight", "bias")}
    save_file(parts, folder / "head.safetensors")
    (folder / "head.json").write_text(json.dumps({"normalised": False}))


if __name__ == "__main__":
    main()
