"""What other programs and papers call things, and what a recipe calls them.

    "lora_alpha" ──option──> "technique.alpha"          "ner" ──member──> "tagging"

In: a word of which a recipe knows nothing. Out: where to write it here, or None. Only words of
which the nearest spelling would be the wrong one, or none, need to stand here: those of
transformers, TRL, PEFT, Axolotl and LLaMA-Factory, and what beginners write. Words that mean
another thing in each section stand here once for each. It knows no schema; a test holds every
answer against it.
"""

from __future__ import annotations

_OPTIONS = {
    "model": "base_model model_name model_name_or_path pretrained_model_name_or_path",
    "data.train": "dataset datasets dataset_name dataset_path train_file train_data train_dataset"
    " data_path data_files",
    "data.validation": "val val_set_size val_size val_file eval_file eval_dataset dev"
    " validation_split",
    "data.test": "test_file test_split test_size test_dataset",
    "data.format": "dataset_format dataset_type data_format",
    "data.streaming": "stream_dataset",
    "technique": "adapter peft peft_config peft_type finetuning_type method use_peft lora"
    " lora_config use_lora lora_enable",
    "technique.rank": "r lora_r lora_rank",
    "technique.alpha": "lora_alpha",
    "technique.dropout": "lora_dropout",
    "technique.targets": "target_modules lora_target lora_target_modules lora_target_linear"
    " modules",
    "technique.rank_stabilized": "use_rslora rslora",
    "technique.dora": "use_dora peft_use_dora",
    "base.quantize": "load_in_4bit load_in_8bit quantization quantization_bit bits"
    " bnb_4bit_quant_type",
    "base.double_quantize": "bnb_4bit_use_double_quant double_quant",
    "training.learning_rate": "lr",
    "training.epochs": "num_epochs num_train_epochs n_epochs max_epochs",
    "training.max_steps": "steps num_steps total_steps train_steps iterations",
    "training.batch_size": "per_device_train_batch_size micro_batch_size train_batch_size"
    " global_batch_size per_device_batch_size",
    "training.tokens_per_batch": "gradient_accumulation_steps gradient_accumulation",
    "training.schedule": "lr_scheduler lr_scheduler_type scheduler",
    "training.warmup": "warmup_steps warmup_ratio lr_warmup_steps num_warmup_steps",
    "training.optimizer": "optim optimizer_type",
    "training.max_grad_norm": "gradient_clipping clip_grad clip grad_clip max_norm",
    "training.precision": "bf16 fp16 fp8 fp32 tf32 dtype torch_dtype mixed_precision half",
    "training.packing": "sample_packing padding_free group_by_length pad_to_sequence_len",
    "training.memory_gb": "gradient_checkpointing activation_checkpointing",
    "training.validate_every": "eval_steps eval_strategy evaluation_strategy evals_per_epoch"
    " eval_every",
    "training.patience": "early_stopping early_stopping_patience",
    "training.keep_best": "load_best_model_at_end save_best",
    "training.checkpoint_every": "save_steps save_strategy saves_per_epoch save_every",
    "training.keep_checkpoints": "save_total_limit",
    "training": "trainer train_args training_args training_arguments hyperparameters",
    "evaluation.metric": "metric_for_best_model metrics",
    "task.max_length": "max_seq_length max_seq_len sequence_len seq_length cutoff_len"
    " model_max_length context_length",
    "task.template": "chat_template",
    "task.system": "system_prompt system_message",
    "task.train_on": "train_on_inputs assistant_only_loss completion_only_loss train_on_prompt",
    "task.labels": "num_labels num_classes classes id2label label_names",
}
_IN_SECTION = {  # by the section in which it was written; "": none
    "": {
        "checkpoint": "model", "eval": "evaluation", "path": "data.train", "type": "data.format",
    },
    "data": {"path": "data.train", "type": "data.format", "eval": "data.validation"},
    "task": {"type": "task.name"},
    "technique": {"type": "technique.name"},
    "training": {"checkpoint": "training.checkpoint_every", "eval": "training.validate_every"},
}  # fmt: skip
_REMARKS = {
    "training.warmup": "a share of the steps",
    "training.tokens_per_batch": "what is computed at once; batch_size is what makes a step, and"
    " it is accumulated where it is more",
    "training.batch_size": "records of a whole step, accumulated over passes where they are many",
    "training.memory_gb": "as few layers are computed twice as fit into it",
    "training.precision": "auto takes the format that this machine is fast at",
    "training.packing": "on by default",
    "training.patience": "with training.validate_every",
    "training.keep_best": "with training.validate_every",
    "training.validate_every": "a number of steps",
    "training.checkpoint_every": "a number of steps",
    "task.labels": "a list, found in the records where it is left out",
    "task.train_on": "only answers are ever learnt: those of all turns or of the last",
    "technique": "such as `technique: {name: lora, rank: 16}`",
    "base.quantize": "int8 or nf4",
    "data.train": "a file, a folder or `hub:owner/name`",
}
_ELSEWHERE = {
    "Say it on the command line: --runs-dir, --name.": "output_dir out_dir save_dir run_name",
    "Say it on the command line: --resume RUN.": "resume_from_checkpoint resume"
    " auto_resume_from_checkpoints",
    "Every step is written to the run's events.jsonl and drawn in its report.": "logging_steps"
    " logging_dir report_to wandb_project wandb_entity use_tensorboard logging_strategy",
}
_MEMBERS = {
    "task": {
        "instruct": "sft chat conversation instruction instructions instruction_tuning chatbot qa",
        "classification": "classify sentiment text_classification sequence_classification nli cls",
        "tagging": "ner token_classification named_entities pos",
        "extraction": "question_answering squad extractive_qa",
        "seq2seq": "translation translate summarization summarisation text2text seq2seq_lm",
        "language_modeling": "clm causal_lm pretrain pretraining completion lm language_modelling",
        "masked_language_modeling": "mlm masked_lm masked_language_modelling",
        "embedding": "embeddings sentence_similarity retrieval sbert",
        "reranking": "rerank reranker ranking cross_encoder",
        "multi_label": "multilabel multi_label_classification",
    },
    "technique": {
        "full": "none full_finetune full_finetuning full_fine_tuning finetune fine_tuning sft",
        "lora with base.quantize: nf4": "qlora",
        "lora with dora: true": "dora",
        "lora with initial: pissa": "pissa",
        "lora with rank_stabilized: true": "rslora",
        "layers": "freeze frozen last_layers bitfit partial",
        "repurpose": "feature_extraction linear_probe head frozen_features setfit",
        "prefix_tuning": "prefix",
        "prompt_tuning": "prompt soft_prompt",
        "p_tuning": "ptuning",
    },
}
_VALUES = {
    "bfloat16": "bf16 fp16 half float16",
    "float32": "fp32 full float",
    "float8": "fp8",
    "nf4": "4bit int4 4 fp4",
    "int8": "8bit 8",
    "adamw": "adam adamw_torch adamw_torch_fused adamw_hf",
    "adamw_8bit": "adamw_bnb_8bit paged_adamw_8bit adamw8bit",
}


def _turned(table: dict[str, str]) -> dict[str, str]:
    return {word: ours for ours, theirs in table.items() for word in theirs.split()}


_OPTION, _PLACE, _VALUE = _turned(_OPTIONS), _turned(_ELSEWHERE), _turned(_VALUES)
_MEMBER = {kind: _turned(names) for kind, names in _MEMBERS.items()}


def option(word: str, section: str = "") -> str | None:
    """Say in a sentence where a recipe has what other programs call `word`.

    Args:
        section: where it was written, such as `training`.
    """
    plain = _plain(word)
    if plain in _PLACE:
        return _PLACE[plain]
    ours = home(word, section)
    remark = _REMARKS.get(ours or "")
    return f"Here that is {ours}{f' ({remark})' if remark else ''}." if ours else None


def home(word: str, section: str = "") -> str | None:
    """Return the option, as `section.name`, that is meant by `word` where it was written."""
    plain = _plain(word)
    return _OPTION.get(plain) or _IN_SECTION.get(section, {}).get(plain)


def member(kind: str, word: str) -> str | None:
    """Say in a sentence which member of a registry serves for what `word` names elsewhere."""
    ours = _MEMBER.get(kind, {}).get(_plain(word))
    return f"Here that is {ours}." if ours else None


def value(word: str) -> str | None:
    """Return the value that a recipe has for what other programs call `word`."""
    return _VALUE.get(_plain(word))


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_")
