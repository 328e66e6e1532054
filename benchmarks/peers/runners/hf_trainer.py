"""HF Trainer's side: transformers' Trainer with PEFT on the token ids; all of an encoder with a
classifier on it; and a head on a frozen encoder, which it runs anew in every epoch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import Report, encoded, start, watch_trainer


def main() -> None:
    job, settings, out, report = start()
    watch_trainer(report)
    kinds = {"head": head, "classifier": classifier}
    kinds.get(job["kind"], language_model)(job, settings, out, report)


def arguments(job: dict[str, Any], settings: dict[str, Any], out: Path) -> Any:
    import torch
    from transformers import TrainingArguments

    options = {
        "output_dir": str(out / "trainer"),
        "learning_rate": job["learning_rate"],
        "num_train_epochs": job["epochs"],
        "per_device_train_batch_size": job["batch"],
        "seed": job["seed"],
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return TrainingArguments(**{**options, **settings})


def language_model(
    job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        DataCollatorForSeq2Seq,
        Trainer,
    )

    quantised = {}
    if job["kind"] == "qlora":
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
        quantised = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **nf4)}
    dtype = "bfloat16" if job["kind"] == "qlora" else "float32"
    model = AutoModelForCausalLM.from_pretrained(job["path"], dtype=dtype, **quantised)
    if job["kind"] != "full":
        adapter = LoraConfig(
            r=job["rank"],
            lora_alpha=job["alpha"],
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(job["path"])
    trainer = Trainer(
        model=model,
        args=arguments(job, settings, out),
        train_dataset=encoded(job),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train()
    model.save_pretrained(out / "model")
    report.saved()


def classifier(job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report) -> None:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
    )

    names = dict(enumerate(job["labels"]))
    model = AutoModelForSequenceClassification.from_pretrained(
        job["path"], id2label=names, label2id={name: index for index, name in names.items()}
    )
    trainer = Trainer(
        model=model,
        args=arguments(job, settings, out),
        train_dataset=encoded(job),
        data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(job["path"])),
    )
    trainer.train()
    model.save_pretrained(out / "model")
    report.saved()


def head(job: dict[str, Any], settings: dict[str, Any], out: Path, report: Report) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding, Trainer

    class Classifier(torch.nn.Module):
        """The mean of the frozen body's last hidden states, and a linear map that learns."""

        def __init__(self) -> None:
            super().__init__()
            self.body = AutoModel.from_pretrained(job["path"]).requires_grad_(False)
            self.linear = torch.nn.Linear(self.body.config.hidden_size, len(job["labels"]))

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any, **rest: Any) -> Any:
            hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, **rest)[0]
            mask = attention_mask[..., None].to(hidden.dtype)
            logits = self.linear((hidden * mask).sum(1) / mask.sum(1))
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    model = Classifier()
    tokenizer = AutoTokenizer.from_pretrained(job["path"])
    trainer = Trainer(
        model=model,
        args=arguments(job, {"remove_unused_columns": False, **settings}, out),
        train_dataset=encoded(job),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    (out / "model").mkdir()
    weights = {name: tensor.detach() for name, tensor in model.linear.state_dict().items()}
    save_file(weights, out / "model" / "head.safetensors")
    (out / "model" / "head.json").write_text(json.dumps({"normalised": False}))
    report.saved()


if __name__ == "__main__":
    main()
