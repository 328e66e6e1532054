"""What `predict` and `chat` print: what a model answers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document


class SpanDetails(Details):
    """A part of an input that the model points at."""

    start: int = Field(description="its first character, counted from 0")
    end: int = Field(description="the character behind its last")
    text: str = Field(description="what stands there")
    label: str = Field(description="what it is")
    probability: float = Field(description="0 to 1")


class RankedDetails(Details):
    """A document that was put in order."""

    place: int = Field(description="its place in the input, counted from 0")
    text: str = Field(description="the document")
    relevance: float = Field(description="how relevant it is, 0 to 1")


class PredictionDetails(Details):
    """The answer to one input."""

    input: Any = Field(description="the text, the object, or the list")
    text: str = Field(description="the answer, the class (or classes), or the document in front")
    probabilities: dict[str, float] = Field(
        description="probability of each class; empty where no class is asked for"
    )
    spans: list[SpanDetails] = Field(
        default=[],
        description="what was found in the input; of a list of words: in these with spaces between",
    )
    vector: list[float] = Field(default=[], description="of the input, where the task makes one")
    score: float | None = Field(default=None, description="the number, where one is asked for")
    ranking: list[RankedDetails] = Field(
        default=[], description="the documents of the input, the most relevant first"
    )


class PredictDocument(Document):
    """`tunesmith predict --json`."""

    run: str = Field(description="path of the run directory")
    predictions: list[PredictionDetails] = Field(description="one for each input, in order")


class TurnDetails(Details):
    """One turn of a chat."""

    user: str = Field(description="what the user said")
    tuned: str | None = Field(description="what the fine-tuned model answered; null with --base")
    base: str | None = Field(
        description="what the base model answered; null without --base and --compare"
    )


class ChatDocument(Document):
    """`tunesmith chat --json`: the user's turns are the lines of standard input."""

    run: str = Field(description="path of the run directory")
    turns: list[TurnDetails] = Field(description="the conversation")
