"""What `plan` prints: what training would take."""

from __future__ import annotations

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document


class DevicePlanDetails(Details):
    """One technique on one device."""

    device: str = Field(description="`here`, or the size of its memory")
    capacity: int = Field(description="bytes that training may take there")
    peak: int = Field(description="bytes predicted for the recipe's micro-batches")
    largest: int | None = Field(
        description="tokens of the largest micro-batch that fits; null: not one document, or "
        "nothing is learnt by steps"
    )
    largest_twice: int | None = Field(
        description="the same where every layer is computed twice to save memory"
    )


class TechniquePlanDetails(Details):
    """What the recipe would take with one technique."""

    technique: str = Field(description="its name")
    refused: str | None = Field(description="why it cannot do this, or null")
    trainable: int = Field(description="parameters that learn")
    memory: dict[str, int] = Field(
        description="bytes at the peak of a step on this machine, by what they are for"
    )
    peak: int = Field(description="their sum")
    seconds: float | None = Field(description="estimated time of the training loop")
    tokens_per_second: float | None = Field(description="the same as a rate")
    devices: list[DevicePlanDetails] = Field(description="this machine, and others by their size")


class PlanDocument(Document):
    """`tunesmith plan --json`: what training would take with each technique."""

    model: str = Field(description="the model")
    task: str = Field(description="the task")
    chosen: str = Field(description="the recipe's own technique, which stands first")
    tokens: int = Field(description="tokens that the whole training reads")
    micro_batch: int = Field(description="tokens of the largest micro-batch")
    weights: bool = Field(
        description="whether the model's weights are on this machine; else its shape was planned"
    )
    tokenizer: bool = Field(
        description="whether its tokenizer is; else tokens are taken to be four characters long"
    )
    techniques: list[TechniquePlanDetails] = Field(description="each technique")
