"""Soup's side: its own command on a data set that is tokenised beforehand. It takes only paths
below the working directory.
"""

from __future__ import annotations

import json
import os

from report import encoded, save_encoded, start, watch_trainer


def main() -> None:
    job, settings, out, report = start()
    os.chdir(out)
    save_encoded(job, out / "tokenized")
    # It counts and checks these; what it learns from is the data set on disk.
    (out / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in encoded(job)))
    training = {
        "epochs": job["epochs"],
        "lr": job["learning_rate"],
        "batch_size": job["batch"],
        "seed": job["seed"],
        "scheduler": "linear",
        "warmup_ratio": 0.0,
        "quantization": "4bit" if job["kind"] == "qlora" else "none",
        "lora": {
            "r": job["rank"],
            "alpha": job["alpha"],
            "dropout": 0.0,
            "target_modules": "all-linear",
        },
        **settings,
    }
    recipe = {
        "base": job["path"],
        "task": "sft",
        "data": {
            "train": "records.jsonl",
            "format": "pre_tokenized",
            "tokenized_path": "tokenized",
            "val_split": 0.0,
            "max_length": max(job["longest"], 64),
        },
        "training": training,
        "output": "model",
    }
    (out / "soup.yaml").write_text(json.dumps(recipe))  # YAML reads JSON
    from soup_cli.cli import app

    watch_trainer(report)
    try:
        app(["train", "--config", "soup.yaml", "--yes"])
    except SystemExit as end:
        if end.code:
            raise
    report.saved()


if __name__ == "__main__":
    main()
