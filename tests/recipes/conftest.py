"""Members that stand in for real ones, so that these tests know every option of theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import OBJECTIVES, TASKS, TECHNIQUES, Registry


class Nested(BaseModel):
    """A section inside a member's options."""

    model_config = ConfigDict(extra="forbid")

    threshold: float = Field(default=0.5, ge=0, le=1, description="a threshold")


class Answer:
    """Answer prompts."""

    name = "instruct"

    class Options(BaseModel):
        """Options of the task."""

        model_config = ConfigDict(extra="forbid")

        max_new_tokens: int = Field(default=64, ge=1, description="longest answer in tokens")
        template: str | None = Field(default=None, description="chat template")
        nested: Nested = Field(default_factory=Nested, description="a section")


class Rank:
    """Put texts in order."""

    name = "ranking"

    class Options(BaseModel):
        """Options of which one must be given."""

        model_config = ConfigDict(extra="forbid")

        column: str = Field(description="column of the score")


class Adapter:
    """Low-rank updates."""

    name = "lora"

    class Options(BaseModel):
        """Options of the adapter."""

        model_config = ConfigDict(extra="forbid")

        rank: int = Field(default=16, ge=1, le=1024, description="rank of the update")
        alpha: float | None = Field(default=None, gt=0, description="scale of the update")
        targets: Literal["all-linear"] | tuple[str, ...] = Field(
            default="all-linear", description="which matrices"
        )


class Everything:
    """All parameters."""

    name = "full"

    class Options(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")


class Likelihood:
    """Log-likelihood of tokens."""

    name = "token_likelihood"

    class Options(BaseModel):
        """Options of the loss."""

        model_config = ConfigDict(extra="forbid")

        smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing")


def _fill(monkeypatch: pytest.MonkeyPatch, registry: Registry, *members: type) -> None:
    list(registry)  # what the stand-ins' tests import of the real members is registered already
    by_name = {member.name: member for member in members}
    monkeypatch.setattr(registry, "_members", by_name)
    monkeypatch.setattr(registry, "names", lambda: tuple(sorted(by_name)))


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins in place of all real members."""
    _fill(monkeypatch, TASKS, Answer, Rank)
    _fill(monkeypatch, TECHNIQUES, Adapter, Everything)
    _fill(monkeypatch, OBJECTIVES, Likelihood)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write recipe.yaml into the current folder, beside train.jsonl; returns its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')

    def write(text: str) -> str:
        (tmp_path / "recipe.yaml").write_text(text)
        return "recipe.yaml"

    return write
