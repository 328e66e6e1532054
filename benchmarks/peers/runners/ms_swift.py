"""ms-swift's side: its own training function. It encodes by a template of its own, inside its time:
what it learns is counted and stands beside its figures.
"""

from __future__ import annotations

import json
from typing import Any

from report import raw, start, watch_trainer


def main() -> None:
    job, settings, out, report = start()
    from swift.pipelines import sft_main

    watch_trainer(report)
    tuned = {
        "lora": {"tuner_type": "lora"},
        "qlora": {"tuner_type": "lora", "quant_method": "bnb", "quant_bits": 4},
        "full": {"tuner_type": "full"},
    }
    system = system_prompt(job["path"])
    rows = [conversation(record, system) for record in raw(job)]
    records = out / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {
        "model": job["path"],
        "model_type": "llama",
        "template": "chatml",
        "dataset": str(records),
        "lora_rank": job["rank"],
        "lora_alpha": job["alpha"],
        "target_modules": "all-linear",
        "learning_rate": job["learning_rate"],
        "num_train_epochs": job["epochs"],
        "per_device_train_batch_size": job["batch"],
        "seed": job["seed"],
        "output_dir": str(out / "model"),
        "add_version": "false",
        "split_dataset_ratio": 0,
        "report_to": "none",
        "dataloader_num_workers": 0,
        **tuned[job["kind"]],
        **settings,
    }
    sft_main([text for name, value in options.items() for text in (f"--{name}", str(value))])
    report.saved()


def conversation(record: dict[str, str], system: str | None) -> dict[str, list[dict[str, str]]]:
    """Return an Alpaca record as messages."""
    given = record.get("input", "").strip()
    question = f"{record['instruction']}\n\n{record['input']}" if given else record["instruction"]
    messages = [("system", system)] if system else []
    messages += [("user", question), ("assistant", record["output"])]
    return {"messages": [{"role": role, "content": text} for role, text in messages]}


def system_prompt(path: str) -> str | None:
    """Return what the model's own template puts before the first question."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "-"}], tokenize=False)
    _, _, after = text.partition("<|im_start|>system\n")
    return after.partition("<|im_end|>")[0] or None


if __name__ == "__main__":
    main()
