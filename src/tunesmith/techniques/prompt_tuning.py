"""Prompt tuning: vectors before each text learn, in place of a prompt that somebody writes.

    [v1 v2 ... vP] what is the capital of France?       the model itself stays as it is

The smallest result of all, some thousand numbers (Lester et al., 2021, arXiv:2104.08691); it works
the better the larger the model is. It wants a high learning rate (0.1 and more). Texts are padded,
not packed, and the context is P tokens shorter. The result is a PEFT adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.parts.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from tunesmith.models.model import Model


@TECHNIQUES.register("prompt_tuning")
class PromptTuning(VirtualTokens):
    """Learnt vectors that are read before each text."""

    alone: ClassVar[str | None] = "its virtual tokens stand before the texts of one task"

    class Options(BaseModel):
        """How many vectors, and what they begin as."""

        model_config = ConfigDict(extra="forbid")

        length: int = Field(default=20, ge=1, le=2048, description="virtual tokens P")
        text: str | None = Field(
            default=None,
            min_length=1,
            description="text whose embeddings the vectors begin as, repeated to the length; null: "
            "those of tokens drawn at random",
        )

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration."""
        from peft import PromptTuningConfig, PromptTuningInit

        from tunesmith.models.adapters import of_embeddings, with_head

        return PromptTuningConfig(
            **with_head(model),
            **of_embeddings(model),
            num_virtual_tokens=self.options.length,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        )

    def prepare(self, model: Model) -> None:
        """Put the vectors before every text.

        Raises:
            RecipeError: the family cannot read them.
        """
        super().prepare(model)
        if self.options.text is not None:
            from tunesmith.models.virtual_tokens import begin_as

            begin_as(model, model.tokenizer(self.options.text, add_special_tokens=False).input_ids)
