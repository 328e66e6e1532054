"""Unsloth's side: its patched model under TRL's SFTTrainer, as its own notebooks call it."""

from __future__ import annotations

from report import encoded, start, watch_trainer


def main() -> None:
    job, settings, out, report = start()
    from unsloth import FastLanguageModel  # isort: skip  (it has to be imported first)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        job["path"],
        max_seq_length=max(job["longest"], 64),
        load_in_4bit=job["kind"] == "qlora",
        full_finetuning=job["kind"] == "full",
    )
    if job["kind"] != "full":
        model = FastLanguageModel.get_peft_model(
            model,
            r=job["rank"],
            lora_alpha=job["alpha"],
            lora_dropout=0.0,
            use_gradient_checkpointing="unsloth",
            random_state=job["seed"],
        )
    watch_trainer(report)
    rows = [
        {"input_ids": r["input_ids"], "completion_mask": [int(x != -100) for x in r["labels"]]}
        for r in encoded(job)
    ]
    options = {
        "output_dir": str(out / "trainer"),
        "learning_rate": job["learning_rate"],
        "num_train_epochs": job["epochs"],
        "per_device_train_batch_size": job["batch"],
        "seed": job["seed"],
        "completion_only_loss": True,
        "report_to": "none",
        "save_strategy": "no",
    }
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**{**options, **settings}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    model.save_pretrained(str(out / "model"))
    report.saved()


if __name__ == "__main__":
    main()
