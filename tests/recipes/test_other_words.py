"""What other programs call things is answered with what a recipe calls them."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipes import other_words, parse_recipe
from tunesmith.recipes.schema import Recipe
from tunesmith.registry import TASKS, TECHNIQUES

BASE: dict[str, Any] = {"model": "m", "task": "instruct", "data": {"train": "."}}
KINDS = {"task": TASKS, "technique": TECHNIQUES}


def options() -> set[str]:
    """Every option that a recipe may have, as `section.name`."""
    found = set(Recipe.model_fields)
    for section in ("data", "base", "training", "evaluation"):
        model: Any = Recipe.model_fields[section].annotation
        found |= {f"{section}.{name}" for name in model.model_fields}
    for kind, registry in KINDS.items():
        for member in registry:
            found |= {f"{kind}.{name}" for name in ("name", *member.Options.model_fields)}
    return found


def said(*overrides: str, **sections: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**BASE, **sections}, overrides)
    return str(caught.value)


def test_every_answer_is_an_option() -> None:
    assert set(other_words._OPTION.values()) <= options()
    for homes in other_words._IN_SECTION.values():
        assert set(homes.values()) <= options()
    assert set(other_words._REMARKS) <= set(other_words._OPTION.values())


def test_no_word_of_a_recipes_own_is_taken_for_anothers() -> None:
    own = {name.rpartition(".")[2] for name in options()}
    shared = {word for words in other_words._IN_SECTION.values() for word in words}
    assert not own & {*other_words._OPTION, *other_words._PLACE, *shared}
    assert not shared & set(other_words._OPTION)


def test_every_member_named_is_there_and_none_is_taken_for_another() -> None:
    for kind, words in other_words._MEMBER.items():
        names = KINDS[kind].names()
        assert {ours.split()[0] for ours in words.values()} <= set(names)
        assert not set(words) & set(names)


@pytest.mark.parametrize(
    ("override", "home"),
    [
        ("lora_r=8", "technique.rank"),
        ("training.num_train_epochs=1", "training.epochs"),
        ("training.per_device_train_batch_size=1", "training.batch_size"),
        ("training.gradient_accumulation_steps=1", "training.tokens_per_batch"),
        ("training.warmup_steps=1", "training.warmup (a share of the steps)"),
        ("training.save_steps=1", "training.checkpoint_every"),
        ("technique.target_modules=[q_proj]", "technique.targets"),
        ("base.load_in_4bit=true", "base.quantize"),
        ("val_set_size=0.1", "data.validation"),
        ("micro-batch-size=1", "training.batch_size"),
    ],
)
def test_an_option_of_another_program_is_told_its_home_here(override: str, home: str) -> None:
    assert f"Here that is {home}" in said(override)


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("task=ner", "Here that is tagging."),
        ("task=translation", "Here that is seq2seq."),
        ("technique=qlora", "Here that is lora with base.quantize: nf4."),
        ("technique=LoRA", "Did you mean 'lora'?"),
        ("training.precision=fp16", "Did you mean 'bfloat16'?"),
        ("base.quantize=4bit", "Did you mean 'nf4'?"),
        ("output_dir=out", "--runs-dir"),
        ("rank=8", "It belongs elsewhere: technique.rank."),
        ("data=train.jsonl", "Write data: {train: train.jsonl}."),
        ("data.test='20%'", "A share is a number above 0 and below 1"),
        ("retain=replay", "Put it into brackets"),
    ],
)
def test_what_is_meant_is_understood(override: str, answer: str) -> None:
    assert answer in said(override)


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("training.checkpoint=100", "Here that is training.checkpoint_every"),
        ("training.eval=5", "Here that is training.validate_every"),
        ("data.eval=e.jsonl", "Here that is data.validation."),
        ("data.path=x.jsonl", "Here that is data.train"),
        ("task.type=sft", "Here that is task.name."),
        ("technique.type=lora", "Here that is technique.name."),
        ("checkpoint=m", "Here that is model."),
        ("path=x.jsonl", "Here that is data.train"),
        ("training.path=x", "Known: "),
    ],
)
def test_a_word_of_several_meanings_is_taken_by_its_section(override: str, answer: str) -> None:
    assert answer in said(override)


@pytest.mark.parametrize(
    ("technique", "overrides", "name"),
    [
        ({"name": "ia3", "lora_r": 8}, (), "rank"),
        ({"name": "full", "use_dora": True}, (), "dora"),
        ("full", ("technique.r=8",), "rank"),
        ("full", ("r=8",), "rank"),
    ],
)
def test_an_option_that_this_technique_lacks_is_said_to_be_of_lora(
    technique: Any, overrides: tuple[str, ...], name: str
) -> None:
    message = said(*overrides, technique=technique)
    assert f"{name} of the technique lora, which is not the one chosen" in message
    assert "technique.rank" not in message
    assert "technique.dora" not in message


def test_every_answer_about_techniques_is_an_option_of_lora() -> None:
    named = {ours for ours in other_words._OPTION.values() if ours.startswith("technique.")}
    lora = TECHNIQUES.get("lora").Options.model_fields
    assert {ours.removeprefix("technique.") for ours in named} <= set(lora)


@pytest.mark.parametrize(
    ("section", "given", "fix"),
    [
        ("technique", {"type": "lora", "r": 8}, "Write name: lora in place of type: lora."),
        ("technique", {"peft_type": "LORA"}, "Write name: lora in place of peft_type: LORA."),
        ("task", {"type": "ner"}, "Write name in place of type. Here that is tagging."),
        ("technique", {"method": "lroa"}, "Write name in place of method. Did you mean 'lora'?"),
    ],
)
def test_a_name_under_a_word_of_other_programs_is_understood(
    section: str, given: dict[str, Any], fix: str
) -> None:
    message = said(**{section: given})
    assert "'name' is missing" in message
    assert fix in message


def test_an_option_that_this_task_lacks_is_not_advised() -> None:
    assert "Here that is task.labels" in said("task.num_classes=2", task="classification")
    assert "task.labels" not in said("task.num_classes=2")
