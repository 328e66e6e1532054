"""Axolotl's side: its own training function on a tokenised data set (its type `empty`)."""

from __future__ import annotations

import json
import os

from report import save_encoded, start, watch_trainer


def main() -> None:
    job, settings, out, report = start()
    os.chdir(out)
    tuned = {
        "lora": {"adapter": "lora"},
        "qlora": {"adapter": "qlora", "load_in_4bit": True},
        "full": {},
    }
    recipe = {
        "base_model": job["path"],
        "datasets": [{"path": save_encoded(job, out / "tokenized"), "ds_type": "arrow"}],
        "dataset_prepared_path": str(out / "prepared"),
        "output_dir": str(out / "model"),
        "sequence_len": max(job["longest"], 64),
        "lora_r": job["rank"],
        "lora_alpha": job["alpha"],
        "lora_target_linear": True,
        "learning_rate": job["learning_rate"],
        "num_epochs": job["epochs"],
        "micro_batch_size": job["batch"],
        "gradient_accumulation_steps": 1,
        "optimizer": "adamw_torch",
        "lr_scheduler": "linear",
        "seed": job["seed"],
        "save_strategy": "no",
        **tuned[job["kind"]],
        **settings,
    }
    (out / "axolotl.yaml").write_text(json.dumps(recipe))  # YAML reads JSON
    from axolotl.cli.train import do_cli

    watch_trainer(report)
    do_cli(config=str(out / "axolotl.yaml"))
    report.saved()


if __name__ == "__main__":
    main()
