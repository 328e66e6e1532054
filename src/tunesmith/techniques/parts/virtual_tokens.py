"""Techniques that put something learnt before every text, by PEFT's adapters."""

from __future__ import annotations

from tunesmith.techniques.base import PeftTechnique


class VirtualTokens(PeftTechnique):
    """Something learnt that is read before each text; the model itself stays as it is."""

    in_sentence_transformers = False

    @property
    def begins_as_base(self) -> bool:
        """What is put before each text is new."""
        return False

    @classmethod
    def refuses(cls, head: str, kind: str) -> str | None:
        """Virtual tokens need a model of one stack that PEFT knows."""
        if head == "masked_lm":
            return (
                "virtual tokens need a model of PEFT's, which has none that fills in words; choose"
                " lora, layers or full"
            )
        if kind == "encoder-decoder":
            return (
                "virtual tokens stand before one text, but an encoder-decoder reads one and writes"
                " another; choose lora, ia3, layers or full"
            )
        return super().refuses(head, kind)
