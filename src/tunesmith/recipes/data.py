"""Which records a recipe learns from and is judged by: its section `data`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from tunesmith.recipes.section import STRICT, conflict


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _share_or_file(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise PydanticCustomError(
            "share_or_file", "Input should be a file or a share between 0 and 1"
        )
    if isinstance(value, int | float) and not 0 < value < 1:
        raise PydanticCustomError(
            "share_or_file", "Input should be a file or a share between 0 and 1 (both excluded)"
        )
    return value


Share = Annotated[float, Field(gt=0, lt=1)]


class DataOptions(BaseModel):
    """Which records are learnt from, and which are kept apart to judge the result."""

    model_config = STRICT

    train: Annotated[list[str], BeforeValidator(_one_or_many)] = Field(
        min_length=1,
        description="file, folder or hub data set (hub:owner/name[:split]) to learn from, or a "
        "list of them; relative paths start at the recipe's folder",
    )
    test: Annotated[str | Share, BeforeValidator(_share_or_file)] = Field(
        default=0.2,
        description="file of test records, or the share of train to hold out; read for the final "
        "verdict only",
    )
    validation: Annotated[str | Share | None, BeforeValidator(_share_or_file)] = Field(
        default=None,
        description="file of validation records, or the share of train to hold out; null: a tenth "
        "where training.validate_every needs it",
    )
    format: Literal[
        "auto",
        "alpaca",
        "chat",
        "sharegpt",
        "prompt_completion",
        "source_target",
        "translation",
        "document_summary",
        "text_summary",
        "dialogue_summary",
        "article_highlights",
        "text",
        "text_label",
        "pair_label",
        "inference",
        "text_labels",
        "text_score",
        "pair_score",
        "query_documents",
        "tokens_tags",
        "tokens_iob1",
        "text_entities",
        "squad",
        "anchor_positive",
        "scored_pair",
    ] = Field(default="auto", description="record format; auto recognises it and says which")
    group: str | None = Field(
        default=None,
        min_length=1,
        description="column whose equal values stay on one side of every split",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="columns to rename, as name that the format expects: name in the file",
    )
    stratify: bool = Field(
        default=True, description="keep the balance of classes in splits by share"
    )
    unlearnable: Literal["error", "drop"] = Field(
        default="error",
        description="a record of which nothing would be learnt (no answer, an empty text, no "
        "answer left once it is cut to fit): error refuses the data, drop leaves the record out "
        "and names it",
    )
    streaming: bool = Field(
        default=False,
        description="read train window by window while it is learnt from, so that it need not fit "
        "memory or disk; needs training.max_steps and a file for test",
    )
    window: int = Field(
        default=4096,
        ge=1,
        description="records of a stream that are read, checked and shuffled at once; two windows "
        "are in memory",
    )

    @model_validator(mode="after")
    def _a_stream_is_not_parted(self) -> DataOptions:
        shares = {name: getattr(self, name) for name in ("test", "validation")}
        wrong = [name for name, value in shares.items() if isinstance(value, float | int)]
        if self.streaming and (wrong or self.group is not None):
            name = wrong[0] if wrong else "group"
            what = f"{name} is a share of it" if wrong else "records cannot be grouped"
            raise conflict(
                name,
                f"With streaming, train is never seen whole, so {what}",
                f"Name a file under data.{name}." if wrong else "Leave data.group out.",
            )
        return self
