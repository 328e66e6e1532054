"""LLaMA-Factory's side: its own training function on a data set that is tokenised before."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types

from report import save_encoded, start, watch_trainer


def main() -> None:
    job, settings, out, report = start()
    if stand_in("torchaudio"):
        report.note("an empty stand-in for torchaudio, which does not load beside this torch")
    from llamafactory.train.tuner import run_exp

    watch_trainer(report)
    tuned = {
        "lora": {"finetuning_type": "lora"},
        "qlora": {"finetuning_type": "lora", "quantization_bit": 4, "quantization_method": "bnb"},
        "full": {"finetuning_type": "full"},
    }
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": job["path"],
            "dataset": "records",
            "tokenized_path": save_encoded(job, out / "tokenized"),
            "template": "empty",
            "cutoff_len": max(job["longest"], 16),
            "lora_rank": job["rank"],
            "lora_alpha": job["alpha"],
            "lora_target": "all",
            "learning_rate": job["learning_rate"],
            "num_train_epochs": job["epochs"],
            "per_device_train_batch_size": job["batch"],
            "seed": job["seed"],
            "output_dir": str(out / "model"),
            "overwrite_output_dir": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            **tuned[job["kind"]],
            **settings,
        }
    )
    report.saved()


def stand_in(name: str) -> bool:
    """Put an empty module in place of one that is imported and, for text, never used.

    Returns whether that was needed.
    """
    if importlib.util.find_spec(name):
        return False
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
    return True


if __name__ == "__main__":
    main()
