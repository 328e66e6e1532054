"""The held-out loss of what each side saved, by transformers alone, in float32, outside its time.

    python -m benchmarks.peers.scoring JOB OUT OUT …  ──> one JSON line {side: {held_out_loss, …}}

A language model is loaded from `model/` as transformers or PEFT load it, and its loss is taken over
the held-out answers, one record at a time. A head is applied to the mean of the body's last hidden
states; a classifier is loaded as transformers loads it. Nothing of Tunesmith and nothing of the
peers is used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def main(job_folder: Path, outs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return the held-out figures of each result, by the name of its folder."""
    job = json.loads((job_folder / "job.json").read_text())
    lines = (job_folder / "held_out_encoded.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        if job["kind"] == "head":
            return _heads(job, rows, outs, device)
        if job["kind"] == "classifier":
            return {out.name: _classifier(job, rows, out, device) for out in outs}
        return {out.name: _language_model(job, rows, out, device) for out in outs}


def _language_model(
    job: dict[str, Any], rows: Sequence[Any], out: Path, device: str
) -> dict[str, float]:
    from transformers import AutoModelForCausalLM

    folder = result_folder(out)
    adapted = (folder / "adapter_config.json").exists()
    source = job["path"] if adapted else str(folder)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    if adapted:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    model.eval().to(device)
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=device)
        labels = torch.tensor(row["labels"], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        learnt = labels[1:] != -100
        loss = torch.nn.functional.cross_entropy(
            logits[learnt], labels[1:][learnt], reduction="sum"
        )
        total, count = total + float(loss), count + int(learnt.sum())
    return {"held_out_loss": total / count}


def _classifier(
    job: dict[str, Any], rows: Sequence[Any], out: Path, device: str
) -> dict[str, float]:
    from transformers import AutoModelForSequenceClassification

    read = AutoModelForSequenceClassification.from_pretrained
    model = read(result_folder(out), dtype=torch.float32).eval().to(device)
    order = [int(model.config.label2id[name]) for name in job["labels"]]
    texts = [torch.tensor([row["input_ids"]], device=device) for row in rows]
    logits_BC = torch.cat([model(input_ids=ids).logits for ids in texts]).cpu()[:, order]
    return _of_classes(logits_BC, torch.tensor([row["labels"] for row in rows]))


def _of_classes(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> dict[str, float]:
    right = (logits_BC.argmax(1) == labels_B).float().mean()
    loss = torch.nn.functional.cross_entropy(logits_BC, labels_B)
    return {"held_out_loss": float(loss), "held_out_accuracy": float(right)}


def result_folder(out: Path) -> Path:
    """Return where under `model/` the weights lie: some peers put them a folder deeper."""
    root = out / "model"
    names = ("adapter_config.json", "model.safetensors", "model.safetensors.index.json")
    found = [path.parent for name in names for path in root.rglob(name)]
    if not found:
        raise SystemExit(f"{out.name} saved no weights")
    return min(found, key=lambda folder: len(folder.parts))


def _heads(
    job: dict[str, Any], rows: Sequence[Any], outs: Sequence[Path], device: str
) -> dict[str, dict[str, float]]:
    from transformers import AutoModel

    body = AutoModel.from_pretrained(job["path"], dtype=torch.float32).eval().to(device)
    features = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=device)
        features.append(body(input_ids=ids)[0][0].mean(0))
    features_BD = torch.stack(features).cpu()
    labels_B = torch.tensor([row["labels"] for row in rows])
    return {out.name: _head(out / "model", features_BD, labels_B) for out in outs}


def _head(folder: Path, features_BD: torch.Tensor, labels_B: torch.Tensor) -> dict[str, float]:
    if json.loads((folder / "head.json").read_text())["normalised"]:
        features_BD = torch.nn.functional.normalize(features_BD, dim=1)
    parts = load_file(folder / "head.safetensors")
    logits_BC = features_BD @ parts["weight"].T.float() + parts["bias"].float()
    return _of_classes(logits_BC, labels_B)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), [Path(out) for out in sys.argv[2:]])))
