"""P-tuning: vectors before each text learn through a small network that makes them.

    learnt codes ── LSTM or feed-forward network ──> [v1 v2 ... vP] text

The network ties the vectors to each other, which steadies learning (Liu et al., 2021,
arXiv:2103.10385); only what it makes is saved. Texts are padded, not packed, and the context is P
tokens shorter. The result is a PEFT adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.parts.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("p_tuning")
class PTuning(VirtualTokens):
    """Vectors that are read before each text, made by a small network that learns."""

    alone: ClassVar[str | None] = "its virtual tokens stand before the texts of one task"

    class Options(BaseModel):
        """How many vectors, and the network that makes them."""

        model_config = ConfigDict(extra="forbid")

        length: int = Field(default=20, ge=1, le=2048, description="virtual tokens P")
        network: Literal["mlp", "lstm"] = Field(
            default="mlp", description="what makes the vectors: three linear maps, or an LSTM"
        )
        hidden: int = Field(default=128, ge=1, le=16384, description="width of the network")

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration."""
        from peft import PromptEncoderConfig

        from tunesmith.models.adapters import of_embeddings, with_head

        return PromptEncoderConfig(
            **with_head(model),
            **of_embeddings(model),
            num_virtual_tokens=self.options.length,
            encoder_reparameterization_type=self.options.network.upper(),
            encoder_hidden_size=self.options.hidden,
        )
