"""LitGPT's side: its own fine-tuning script on the token ids, given as a data module of ours.

LitGPT reads a format of its own: the checkpoint is converted before (`convert`, not timed) and the
result afterwards (`restore`, not timed). What it learns is counted where its loader hands it out.
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from report import Report, encoded, start


def main() -> None:
    stage = sys.argv[4] if len(sys.argv) > 4 else "train"
    job, settings, out, report = start()
    {"train": train, "convert": convert, "restore": restore}[stage](job, settings, out, report)


def convert(job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report) -> None:
    from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint

    source = out / settings["litgpt_name"]
    shutil.copytree(job["path"], source)
    convert_hf_checkpoint(source, model_name=settings["litgpt_name"])


def train(job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report) -> None:
    from litgpt.args import EvalArgs, TrainArgs

    arguments = {
        "checkpoint_dir": out / settings["litgpt_name"],
        "out_dir": out / "lit",
        "data": data_module(job, report),
        "train": TrainArgs(
            global_batch_size=job["batch"],
            micro_batch_size=settings.get("micro_batch_size", job["batch"]),
            lr_warmup_steps=1,  # with none it divides by zero
            epochs=job["epochs"],
            save_interval=None,
        ),
        "eval": EvalArgs(interval=10**9, max_new_tokens=1, max_iters=0, final_validation=False),
        "precision": settings.get("precision"),
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": job["learning_rate"], "weight_decay": 0.0},
        },
        "seed": job["seed"],
    }
    if job["kind"] == "full":
        from litgpt.finetune.full import setup
    else:
        from litgpt.finetune.lora import setup

        places = ("query", "key", "value", "projection", "mlp")
        arguments |= {f"lora_{place}": True for place in places}
        arguments |= {"lora_r": job["rank"], "lora_alpha": job["alpha"], "lora_dropout": 0.0}
        if job["kind"] == "qlora":
            arguments |= {"quantize": "bnb.nf4", "precision": "bf16-true"}
    report.note("its warm-up cannot be left out: the first step has a learning rate of 0")
    places = ("query", "key", "value", "projection", "mlp", "r", "alpha")
    given = {f"lora_{place}": arguments.get(f"lora_{place}") for place in places}
    # It writes down the command line that it was called with, and reads that for the merge.
    sys.argv = ["litgpt", str(arguments["checkpoint_dir"])]
    sys.argv += [f"--{name}={value}" for name, value in given.items() if value is not None]
    setup(**arguments)
    report.saved()


def restore(job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report) -> None:
    import torch
    from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint
    from safetensors.torch import save_file

    convert_lit_checkpoint(out / "lit" / "final", out / "restored")
    weights = torch.load(out / "restored" / "model.pth", map_location="cpu", weights_only=True)
    folder = out / "model"
    keep = shutil.ignore_patterns("*.safetensors", "*.bin", "*.pth")
    shutil.copytree(job["path"], folder, ignore=keep)
    weights = {name: tensor.float().contiguous().clone() for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def data_module(job: dict[str, Any], report: Report) -> Any:
    import torch
    from litgpt.data import DataModule
    from litgpt.data.base import get_sft_collate_fn
    from litgpt.prompts import Default
    from torch.utils.data import DataLoader

    def row(record: dict[str, list[int]]) -> dict[str, Any]:
        counts = {"raw": len(record["input_ids"]), "raw_plus_prompt_template": 0}
        tensors = {name: torch.tensor(ids) for name, ids in record.items()}
        return {**tensors, "token_counts": counts}

    class Encoded(DataModule):
        """The records as token ids; each batch that is handed out is reported."""

        prompt_style = Default()
        test_dataset = SimpleNamespace(data=[{"instruction": "-"}])  # it continues one at the end

        def connect(self, tokenizer: Any = None, batch_size: int = 1, *_: Any, **__: Any) -> None:
            self.batch_size = batch_size

        def train_dataloader(self) -> Any:
            pad = get_sft_collate_fn()

            left = math.ceil(len(encoded(job)) / self.batch_size) * job["epochs"]

            def collate(rows: list[dict[str, Any]]) -> Any:
                nonlocal left
                left -= 1
                if left < 0:  # it draws once more to see that the epochs are over
                    report.trained()
                else:
                    tokens = sum(len(r["input_ids"]) for r in rows)
                    report.batch(tokens, sum(int((r["labels"] != -100).sum()) for r in rows))
                return pad(rows)

            rows = [row(record) for record in encoded(job)]
            generator = torch.Generator().manual_seed(job["seed"])
            return DataLoader(
                rows, self.batch_size, shuffle=True, generator=generator, collate_fn=collate
            )

        def val_dataloader(self) -> Any:
            rows = [row(record) for record in encoded(job)[:1]]
            return DataLoader(rows, 1, collate_fn=get_sft_collate_fn())

    return Encoded()


if __name__ == "__main__":
    main()
