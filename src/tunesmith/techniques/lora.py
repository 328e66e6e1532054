"""Low-rank adapters (LoRA): beside chosen linear maps a small one learns, and all else is frozen.

        x ──────── W (frozen) ────────┐
        └── A (D x R) ── B (R x D) ──(+)── y          y = W x + (alpha / R) B A x

B starts at zero, so that the model starts as it was (Hu et al., 2021, arXiv:2106.09685). Variants:

    rank_stabilized   the factor is alpha / sqrt(R)               Kalajdzievski 2023, 2312.03732
    dora              length and direction of W learn apart       Liu et al. 2024, 2402.09353
    initial: pissa    A B begins as the largest part of W         Meng et al. 2024, 2404.02948
    initial: loftq    A B begins as what quantising took from W   Li et al. 2023, 2310.08659
    b_rate            B learns faster than A (LoRA+)              Hayou et al. 2024, 2402.12354

The result is a PEFT adapter on the base as it is published; classification heads learn whole
beside it. PiSSA takes the part that learns out of W while it trains; what is saved is the change,
an ordinary adapter of twice the rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.errors import RecipeError
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ALL_LINEAR, ParameterGroup, PeftTechnique, Targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from tunesmith.models.model import Model

_ITERATIONS = 16
"""Of the randomised decomposition; the authors of PiSSA find it as good as the exact one."""


@TECHNIQUES.register("lora")
class Lora(PeftTechnique):
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
        targets: Targets = Field(
            default=ALL_LINEAR,
            description="linear maps that get an adapter: all of the layers', or names such as "
            "`q_proj` or `mlp.up_proj`; by name also the weights of a mixture's experts, such as "
            "`experts.gate_up_proj`",
        )
        bias: Literal["none", "all", "lora_only"] = Field(
            default="none",
            description="which biases learn: none, all, or those of adapted maps; then even a "
            "switched-off adapter leaves the model changed",
        )
        rank_stabilized: bool = Field(
            default=False, description="scale by alpha / sqrt(rank), for high ranks (rsLoRA)"
        )
        dora: bool = Field(
            default=False,
            description="let the length of each column of the weight learn apart from its "
            "direction (DoRA): closer to full fine-tuning at low rank, and slower",
        )
        initial: Literal["zero", "pissa", "loftq"] = Field(
            default="zero",
            description="what an adapter begins with: nothing; the principal part of its weight "
            "(PiSSA), which learns faster, saved as an ordinary adapter of twice the rank; or the "
            "principal part of what quantising took from its weight (LoftQ), for a base that "
            "`base.quantize` stores in fewer bits",
        )
        new_tokens: bool = Field(
            default=False,
            description="let the rows of the tokens that surgery added learn, too; only these rows "
            "are saved beside the adapter",
        )
        b_rate: float = Field(
            default=1.0,
            ge=1.0,
            le=1000.0,
            description="learning rate of the second factor (B), as a multiple of the recipe's "
            "(LoRA+); about 16 is recommended",
        )

        @property
        def scale(self) -> float:
            """The alpha in use."""
            return 2.0 * self.rank if self.alpha is None else self.alpha

        @model_validator(mode="after")
        def _one_start(self) -> Lora.Options:
            if self.dora and self.initial == "pissa":
                raise ValueError(
                    "`dora` measures lengths on the whole weight, `initial: pissa` takes a part of "
                    "it away: choose one of the two"
                )
            return self

    _initial: dict[str, Tensor] | None = None

    @property
    def begins_as_base(self) -> bool:
        """LoftQ begins nearer to the base as it was before it was quantised."""
        return bool(self.options.initial != "loftq")

    def changes_base(self) -> str | None:
        """PiSSA takes a part out of the base's weights; biases that learn are the base's own."""
        if self.options.initial == "pissa":
            return "`initial: pissa` takes a part out of the base's weights"
        if self.options.bias != "none":
            return "`bias` lets weights of the base learn"
        return None

    def unsuited(self, head: str) -> str | None:
        """Vectors are read by sentence-transformers, which leaves out a part of DoRA."""
        if head == "embedding" and self.options.dora:
            return (
                "sentence-transformers leaves out what `dora` learns of lengths; leave `dora` out"
            )
        return None

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration.

        Raises:
            RecipeError: a target is not a linear map of this model, or is smaller than the rank
                where the adapter is made from it.
        """
        from peft import LoraConfig

        from tunesmith.models.adapters import (
            choose_experts,
            choose_targets,
            placed,
            smallest_side,
        )
        from tunesmith.models.added_tokens import added_tokens

        experts = choose_experts(model, self.options.targets)
        self._check_experts(experts)
        linears = self.options.targets
        if experts:
            linears = [name for name in linears if name not in experts.values()]
        wanted = choose_targets(model, linears)
        principal = self.options.initial == "pissa"
        if principal and smallest_side(model, wanted) < self.options.rank:
            raise RecipeError(
                f"A weight of {smallest_side(model, wanted)} rows or columns has no principal part "
                f"of rank {self.options.rank}.",
                where="technique.rank",
                fix="Lower it, or leave `initial` out.",
            )
        return LoraConfig(
            **placed(model, wanted),
            target_parameters=list(experts) or None,
            trainable_token_indices=added_tokens(model) if self.options.new_tokens else None,
            r=self.options.rank,
            lora_alpha=self.options.scale,
            lora_dropout=self.options.dropout,
            bias=self.options.bias,
            use_rslora=self.options.rank_stabilized,
            use_dora=self.options.dora,
            init_lora_weights=f"pissa_niter_{_ITERATIONS}" if principal else True,
        )

    def _check_experts(self, experts: Mapping[str, str]) -> None:
        """Refuse what PEFT does not do beside the weights of experts."""
        asked = {
            "dropout": self.options.dropout > 0,
            "dora": self.options.dora,
            "initial": self.options.initial != "zero",
        }
        name = next((name for name, wanted in asked.items() if wanted), None)
        if experts and name is not None:
            raise RecipeError(
                "PEFT does not do that beside the weights of experts"
                f" ({', '.join(dict.fromkeys(experts.values()))}).",
                where=f"technique.{name}",
                fix="Leave it out, or leave the experts out of technique.targets.",
            )

    def prepare(self, model: Model) -> None:
        """Add the adapters in place; `model.peft` becomes the wrapper that saves and switches them.

        Raises:
            RecipeError: a target is not a linear map of this model, or does not fit the options.
        """
        from tunesmith.models.adapters import low_rank_values
        from tunesmith.models.loftq import check_quantised_here, give_back

        if self.options.initial == "loftq":
            check_quantised_here(model)
        super().prepare(model)
        if self.options.initial == "pissa":
            self._initial = low_rank_values(model.module)
        elif self.options.initial == "loftq":
            give_back(model)

    def parameter_groups(self, model: Model) -> list[ParameterGroup]:
        """Return what learns, grouped; the second factors apart where they learn faster."""
        decayed, kept = super().parameter_groups(model)
        if self.options.b_rate == 1.0:
            return [decayed, kept]
        faster = {n: p for n, p in decayed.parameters.items() if ".lora_B." in n}
        rest = {n: p for n, p in decayed.parameters.items() if n not in faster}
        scale = self.options.b_rate
        return [ParameterGroup(rest), ParameterGroup(faster, learning_rate_scale=scale), kept]

    def between(self, name: str, start: Tensor, learnt: Tensor, share: float) -> Tensor:
        """Return a value on the straight line between the weights: the second factor is scaled.

        Where the factors began as parts of the weights, the line is that of their own values.
        """
        if self.options.initial == "zero" and ".lora_A." in name:
            return learnt
        return super().between(name, start, learnt, share)

    def save(self, model: Model, folder: Path) -> None:
        """Write the adapters, as PEFT reads them."""
        from tunesmith.models.adapters import as_difference

        if self._initial is None:
            super().save(model, folder)
            return
        with as_difference(model, self._initial):
            super().save(model, folder)
