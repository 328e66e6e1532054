"""Low-rank adapters (LoRA): beside chosen linear maps a small one learns, and all else is frozen.

        x ──────── W (frozen) ────────┐
        └── A (D x R) ── B (R x D) ──(+)── y          y = W x + (alpha / R) B A x

B starts at zero, so that the model starts as it was (Hu et al., 2021, arXiv:2106.09685). With
`rank_stabilized` the factor is alpha / sqrt(R) (Kalajdzievski, 2023, arXiv:2312.03732). The
result is a PEFT adapter; classification heads learn whole beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError, suggest
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import Technique

if TYPE_CHECKING:
    from tunesmith.models.model import Model

ALL_LINEAR: Literal["all-linear"] = "all-linear"


@TECHNIQUES.register("lora")
class Lora(Technique):
    """Low-rank adapters beside the linear maps of the layers."""

    class Options(BaseModel):
        """The adapters' size and place."""

        model_config = ConfigDict(extra="forbid")

        rank: int = Field(default=16, ge=1, le=1024, description="rank R of each adapter")
        alpha: float | None = Field(
            default=None,
            gt=0,
            allow_inf_nan=False,
            description="the adapters' output is scaled by alpha / rank; twice the rank where not "
            "given",
        )
        dropout: float = Field(
            default=0.0, ge=0.0, lt=1.0, description="share of an adapter's inputs set to zero"
        )
        targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
            default=ALL_LINEAR,
            description="linear maps that get an adapter: all of the layers', or names such as "
            "`q_proj` or `mlp.up_proj`",
        )
        bias: Literal["none", "all", "lora_only"] = Field(
            default="none",
            description="which biases learn: none, all, or those of adapted maps; then even a "
            "switched-off adapter leaves the model changed",
        )
        rank_stabilized: bool = Field(
            default=False, description="scale by alpha / sqrt(rank), for high ranks"
        )

        @property
        def scale(self) -> float:
            """The alpha in use."""
            return 2.0 * self.rank if self.alpha is None else self.alpha

    @classmethod
    def refuses(cls, head: str, kind: str) -> str | None:
        """Adapters need a head that learns by steps."""
        if head == "features":
            return "adapters learn by steps, but these features stay as they are"
        return None

    def prepare(self, model: Model) -> None:
        """Add the adapters in place; `model.peft` becomes the wrapper that saves and switches them.

        Raises:
            RecipeError: a target is not a linear map of this model.
        """
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        from tunesmith.models.learning import freeze, widen
        from tunesmith.models.quiet import quiet

        freeze(model.module)
        wanted = self._wanted(model)
        adapted = [model.module.get_submodule(name) for name in wanted]
        base, revision = model.source.reference
        config = LoraConfig(
            task_type="SEQ_CLS" if model.anatomy.head else "CAUSAL_LM",
            r=self.options.rank,
            lora_alpha=self.options.scale,
            lora_dropout=self.options.dropout,
            target_modules=_short_names(model, wanted),
            bias=self.options.bias,
            use_rslora=self.options.rank_stabilized,
            modules_to_save=list(model.anatomy.task_modules) or None,
            fan_in_fan_out=any(isinstance(part, Conv1D) for part in adapted),
            base_model_name_or_path=base,
            revision=revision,
        )
        with quiet():
            model.peft = get_peft_model(model.module, config)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                widen(parameter)

    def save(self, model: Model, folder: Path) -> None:
        """Write the adapters, as PEFT reads them."""
        from tunesmith.models.saving import save_adapter

        save_adapter(model, folder)

    def _wanted(self, model: Model) -> list[str]:
        """Full names of the linear maps that the options name."""
        linears = [name for layer in model.anatomy.layers for name in layer.linears]
        if self.options.targets == ALL_LINEAR:
            return linears
        chosen: set[str] = set()
        for target in self.options.targets:
            named = {name for name in linears if f".{name}".endswith(f".{target}")}
            if not named:
                known = {name.rsplit(".", 1)[-1] for name in linears}
                raise RecipeError(
                    f"The model has no linear map called {target!r} in its layers.",
                    where="technique.targets",
                    fix=suggest(target, known),
                )
            chosen |= named
        return [name for name in linears if name in chosen]


def _short_names(model: Model, wanted: list[str]) -> list[str]:
    """Return the shortest endings of names that pick `wanted` and nothing else in the model.

    Readers of adapters expect `q_proj`; BERT's `dense` would also pick its pooler's.
    """
    others = {name for name, _ in model.module.named_modules()} - set(wanted)
    short: dict[str, None] = {}
    for name in wanted:
        parts = name.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        short[next(e for e in endings if not any(f".{o}".endswith(f".{e}") for o in others))] = None
    return list(short)
