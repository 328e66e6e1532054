"""Prefix tuning: keys and values before those of each layer's attention learn.

    attention of layer i over [learnt keys and values | those of the text]

Stronger than vectors before the text alone, as every layer gets its own (Li & Liang, 2021,
arXiv:2101.00190). Texts are padded, not packed, and the context is P tokens shorter. No layer is
computed a second time to save memory: the learnt keys would be added twice. The result is a PEFT
adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.parts.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("prefix_tuning")
class PrefixTuning(VirtualTokens):
    """Learnt keys and values before those of every text, in each layer."""

    alone: ClassVar[str | None] = "its virtual tokens stand before the texts of one task"

    class Options(BaseModel):
        """How many, and what makes them."""

        model_config = ConfigDict(extra="forbid")

        length: int = Field(default=20, ge=1, le=2048, description="virtual tokens P")
        hidden: int | None = Field(
            default=None,
            ge=1,
            le=16384,
            description="width of a network that makes them while they learn, which steadies "
            "learning; null: they learn directly",
        )

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration."""
        from peft import PrefixTuningConfig

        from tunesmith.models.adapters import of_keys, with_head

        return PrefixTuningConfig(
            **with_head(model),
            **of_keys(model),
            num_virtual_tokens=self.options.length,
            prefix_projection=self.options.hidden is not None,
            encoder_hidden_size=self.options.hidden,
        )
