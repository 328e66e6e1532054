"""AdaLoRA: low-rank adapters whose rank goes to the weights that need it.

    y = W x + (alpha / R) B diag(E) A x       rows of A and columns of B nearly orthogonal

Every adapter begins with more ranks than it will keep. While it learns, the ranks that matter
least, by their values times their gradients, are switched off, until `rank` are left on average
(Zhang et al., 2023, arXiv:2303.10512). E starts at zero, so that the model starts as it was. The
allocator is PEFT's; what it has seen is kept in the checkpoints. The result is a PEFT adapter of
the ranks that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import ALL_LINEAR, PeftTechnique, Targets

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.models.model import Model

_FACTORS = (".lora_A.", ".lora_B.")
_SCORES = ("exp_avg_ipt", "exp_avg_unc")


@TECHNIQUES.register("adalora")
class AdaLora(PeftTechnique):
    """Low-rank adapters that share out their ranks among the linear maps as they learn."""

    in_sentence_transformers = False

    class Options(BaseModel):
        """The adapters' size and place, and when ranks are taken away."""

        model_config = ConfigDict(extra="forbid")

        rank: int = Field(
            default=8, ge=1, le=1024, description="ranks that an adapter keeps, on average"
        )
        start_rank: int = Field(
            default=12, ge=2, le=2048, description="ranks that every adapter begins with"
        )
        alpha: float | None = Field(
            default=None,
            gt=0,
            allow_inf_nan=False,
            description="the adapters' output is scaled by alpha / start_rank; twice start_rank "
            "where not given",
        )
        dropout: float = Field(
            default=0.0, ge=0.0, lt=1.0, description="share of an adapter's inputs set to zero"
        )
        targets: Targets = Field(
            default=ALL_LINEAR,
            description="linear maps that get an adapter: all of the layers', or names such as "
            "`q_proj` or `mlp.up_proj`",
        )
        warmup: float = Field(
            default=0.1, ge=0, lt=0.5, description="share of the steps before ranks are taken away"
        )
        settle: float = Field(
            default=0.3, ge=0, le=0.5, description="share of the steps after the last was taken"
        )
        every: int = Field(default=10, ge=1, description="steps from one taking to the next")
        orthogonal: float = Field(
            default=0.5,
            ge=0,
            le=100,
            description="weight of what keeps the factors orthogonal, beside the loss",
        )

        @model_validator(mode="after")
        def _something_to_take(self) -> AdaLora.Options:
            if self.start_rank <= self.rank:
                raise ValueError(
                    f"`start_rank` is {self.start_rank} and `rank` {self.rank}: there is nothing to"
                    " take away; raise `start_rank`, or choose the technique lora"
                )
            return self

    _gradients: dict[str, Tensor | None] | None = None

    def config(self, model: Model) -> Any:
        """Return PEFT's configuration.

        Raises:
            RecipeError: a target is not a linear map of this model.
        """
        from peft import AdaLoraConfig

        from tunesmith.models.adapters import choose_targets, placed

        wanted = choose_targets(model, self.options.targets)
        alpha = self.options.alpha or 2.0 * self.options.start_rank
        return AdaLoraConfig(
            **placed(model, wanted),
            init_r=self.options.start_rank,
            target_r=self.options.rank,
            lora_alpha=alpha,
            lora_dropout=self.options.dropout,
            orth_reg_weight=self.options.orthogonal,
            deltaT=self.options.every,
            total_step=2**31,  # told by `begin`
        )

    def prepare(self, model: Model) -> None:
        """Add the adapters in place; `model.peft` becomes the wrapper that saves and switches them.

        Raises:
            RecipeError: a target is not a linear map of this model.
        """
        super().prepare(model)
        self._adapter = model.peft.base_model

    def begin(self, model: Model, steps: int) -> None:
        """Lay out when ranks are taken away, over so many steps."""
        config = self._config
        config.total_step = steps
        config.tinit = int(steps * self.options.warmup)
        config.tfinal = min(int(steps * self.options.settle), max(0, steps - config.tinit - 2))

    def before_update(self, step: int) -> dict[str, float]:
        """Add what keeps the factors orthogonal, as PEFT does; hold on to the gradients."""
        import torch

        learnt = dict(self._adapter.model.named_parameters())
        factors = {n: p for n, p in learnt.items() if any(kind in n for kind in _FACTORS)}
        total = 0.0
        if self.options.orthogonal:
            weight = self.options.orthogonal / len(factors)
            with torch.enable_grad():
                for name, parameter in factors.items():
                    across = parameter if _FACTORS[0] in name else parameter.T
                    unit = torch.eye(len(across), device=across.device, dtype=across.dtype)
                    penalty = weight * torch.norm(across @ across.T - unit)
                    penalty.backward()
                    total += float(penalty.detach())
        self._gradients = {n: p.grad for n, p in learnt.items() if "lora_" in n}
        return {"orthogonal": total} if self.options.orthogonal else {}

    def after_update(self, step: int) -> None:
        """Let PEFT's allocator score the ranks, and take away those that matter least."""
        import torch

        assert self._gradients is not None
        learnt = dict(self._adapter.model.named_parameters())
        for name, gradient in self._gradients.items():
            learnt[name].grad = torch.zeros_like(learnt[name]) if gradient is None else gradient
        if self._scores_at(step) or self._allocator.exp_avg_ipt or self._config.rank_pattern:
            self._adapter.update_and_allocate(step + 1)  # without scores there is nothing to take
        for name in self._gradients:
            learnt[name].grad = None
        self._gradients = None

    def _scores_at(self, step: int) -> bool:
        """Whether the ranks are scored after a step, so that some can be taken away."""
        return bool(step + 1 < self._config.total_step - self._config.tfinal)

    def tensors(self) -> dict[str, Tensor]:
        """Return what the allocator has seen, and which ranks are left."""
        import torch

        found = {
            f"{kind}/{name}": tensor
            for kind in _SCORES
            for name, tensor in getattr(self._allocator, kind).items()
        }
        pattern = self._config.rank_pattern or {}
        return found | {f"left/{name}": torch.tensor(kept) for name, kept in pattern.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        device = next(self._adapter.model.parameters()).device
        allocator = self._allocator
        scored = [name for name, _ in self._adapter.model.named_parameters() if "lora_" in name]
        if not self._scores_at(0):  # too few steps for any rank to be taken
            scored = []
        for kind in _SCORES:
            setattr(allocator, kind, {n: tensors[f"{kind}/{n}"].to(device) for n in scored})
        allocator.ipt = {n: t.clone() for n, t in allocator.exp_avg_ipt.items()}
        left = {n.removeprefix("left/"): t for n, t in tensors.items() if n.startswith("left/")}
        self._config.rank_pattern = {name: kept.tolist() for name, kept in left.items()} or None

    def between(self, name: str, start: Tensor, learnt: Tensor, share: float) -> Tensor:
        """Return a value on the straight line between the weights: E is scaled."""
        if any(kind in name for kind in _FACTORS):
            return learnt
        return super().between(name, start, learnt, share)

    def facts(self) -> dict[str, str]:
        """Say how many ranks are left, and where most and fewest."""
        if getattr(self, "_adapter", None) is None or not self._config.rank_pattern:
            return {}
        kept = {name.rpartition(".lora_E")[0]: sum(k) for name, k in self._left().items()}
        most, fewest = max(kept, key=lambda n: kept[n]), min(kept, key=lambda n: kept[n])
        return {
            "Ranks left": f"{sum(kept.values())} of {len(kept) * self.options.start_rank}; most in "
            f"{most} ({kept[most]}), fewest in {fewest} ({kept[fewest]})"
        }

    def save(self, model: Model, folder: Path) -> None:
        """Write the adapters with the ranks that are left, as PEFT reads them."""
        config = model.peft.peft_config["default"]
        before = config.rank_pattern
        config.rank_pattern = self._left()
        try:
            super().save(model, folder)
        finally:
            config.rank_pattern = before

    def _left(self) -> dict[str, list[bool]]:
        """Which ranks change anything: those whose E is not zero."""
        return {
            name: (parameter.detach() != 0).view(-1).tolist()
            for name, parameter in self._adapter.model.named_parameters()
            if ".lora_E." in name
        }

    @property
    def _config(self) -> Any:
        return self._adapter.peft_config["default"]

    @property
    def _allocator(self) -> Any:
        return self._adapter.rankallocator
