"""TRL's side: SFTTrainer on the token ids, with the settings of `sides.py`."""

from __future__ import annotations

from report import encoded, start, watch_trainer


def main() -> None:
    job, settings, out, report = start()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    watch_trainer(report)
    rows = [
        {"input_ids": r["input_ids"], "completion_mask": [int(x != -100) for x in r["labels"]]}
        for r in encoded(job)
    ]
    adapter = LoraConfig(
        r=job["rank"],
        lora_alpha=job["alpha"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    options = {
        "output_dir": str(out / "trainer"),
        "learning_rate": job["learning_rate"],
        "num_train_epochs": job["epochs"],
        "per_device_train_batch_size": job["batch"],
        "seed": job["seed"],
        "completion_only_loss": True,
        "use_cpu": not torch.cuda.is_available(),
        "max_length": None,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    quantised = {}
    if job["kind"] == "qlora":
        from transformers import BitsAndBytesConfig

        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
        quantised = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **nf4)}
    trainer = SFTTrainer(
        model=job["path"],
        args=SFTConfig(**{**options, **settings}, model_init_kwargs=quantised or None),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job["path"]),
        peft_config=None if job["kind"] == "full" else adapter,
    )
    trainer.train()
    trainer.save_model(str(out / "model"))
    report.saved()


if __name__ == "__main__":
    main()
