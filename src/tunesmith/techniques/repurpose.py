"""A frozen model serves a new purpose: only a small head on its features is fitted.

    text ──frozen body, up to a layer──> pooled features ──head──> logits of the classes

    logistic   a linear map by logistic regression: convex, one best answer, no learning rate
    ridge      a linear map by ridge regression: closed form, the fastest
    linear     a linear map by gradient steps, under the recipe's objective and learning rate
    mlp        a network of one hidden layer, likewise

The features are computed once, whatever the head. The strength of the penalty of the first two is
chosen on validation records, or by cross-validation. The result is saved as sentence-transformers
loads it: its embedding *is* the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import Technique

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.models.model import Model

_BY_STEPS = ("linear", "mlp")
_USUAL = {"classification": "logistic", "multi_label": "linear", "regression": "ridge"}
"""The head that is put there unless the recipe names one, by the head that the task needs."""

_WIDTH = 256


@TECHNIQUES.register("repurpose")
class Repurpose(Technique):
    """A small head on frozen features: solved at once, or learnt by steps."""

    alone: ClassVar[str | None] = (
        "it fits one head on a body that stays as it is, and there is nothing that several tasks"
        " would share"
    )

    class Options(BaseModel):
        """What is pooled, what is put on it, and how strongly the fit is held back."""

        model_config = ConfigDict(extra="forbid")

        head: Literal["auto", "logistic", "ridge", "linear", "mlp"] = Field(
            default="auto",
            description="logistic (convex) and ridge (closed form) are solved at once; linear and "
            "mlp learn by steps, as `training` says; `auto` is logistic for classes, ridge for "
            "numbers, linear for several classes and rankings",
        )
        layer: int = Field(
            default=-1,
            description="layer whose output the features are, numbered from 0 at the bottom, or "
            "from -1 at the top; those above it are left out",
        )
        pooling: Literal["auto", "mean", "cls", "last"] = Field(
            default="auto",
            description="what stands for a text: the mean over its tokens, its first, or its last; "
            "`auto` is what the model was made with, else mean for encoders, last for decoders",
        )
        strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
            default="auto",
            description="inverse of the L2 penalty on standardised features (scikit-learn's C, or "
            "1 / alpha of ridge); `auto` chooses it on validation records",
        )
        width: int = Field(default=_WIDTH, ge=1, description="hidden units of an mlp")

        @model_validator(mode="after")
        def _of_this_head(self) -> Repurpose.Options:
            if self.strength != "auto" and self.head in _BY_STEPS:
                raise ValueError(_not_solved(self.head))
            if self.width != _WIDTH and self.head != "mlp":
                raise ValueError(f"width is of the head mlp, and {self.head} has no hidden units")
            return self

    @property
    def solver(self) -> Repurpose | None:
        """Itself, where the head is solved at once."""
        return None if self._kind(self.needed) in _BY_STEPS else self

    @classmethod
    def refuses(cls, head: str, kind: str) -> str | None:
        """Writing text takes more than a small head on a frozen model."""
        if head not in _USUAL:
            does = {
                "causal_lm": "writes nothing",
                "seq2seq_lm": "writes nothing",
                "embedding": "moves no vector",
            }.get(head, "says nothing of a part of it")
            return (
                f"it fits a linear map of one vector a text, which names classes but {does}; "
                "choose lora, layers or full"
            )
        return None

    def unsuited(self, head: str) -> str | None:
        """What is solved at once is solved for one class a text, or by ridge for a number."""
        chosen = self._kind(head)
        if chosen in _BY_STEPS:
            return None if self.options.strength == "auto" else _not_solved(chosen)
        if head == "classification":
            return None
        if head == "regression" and chosen == "ridge":
            return None
        others = "ridge, linear or mlp" if head == "regression" else "linear or mlp"
        return f"its head {chosen} names one class a text; choose {others}"

    def _kind(self, needed: str) -> str:
        """The head that is put on the features for a task that needs this one."""
        chosen: str = self.options.head
        return _USUAL.get(needed, "logistic") if chosen == "auto" else chosen

    def head(self, needed: str) -> str:
        """The body alone, with a linear map on one vector of each text."""
        return "features"

    def prepare(self, model: Model) -> None:
        """Freeze the body up to the layer, and put the head on what is pooled there.

        Raises:
            RecipeError: there is no such layer.
        """
        from tunesmith.models.feature_files import wider
        from tunesmith.models.learning import freeze, learn
        from tunesmith.models.lower_layers import keep_lower
        from tunesmith.models.surgery.base import layer_numbers

        module: Any = model.module
        depth = len(model.anatomy.layers)
        (top,) = layer_numbers([self.options.layer], depth, "technique.layer")
        keep_lower(model, top + 1)
        if self.options.pooling != "auto":
            module.head.pooling = self.options.pooling
        if self.options.head == "mlp":
            module.head = wider(module.head, self.options.width)
        freeze(module)
        learn(module.head)

    def fit(
        self,
        model: Model,
        features_BD: Tensor,
        labels_B: Tensor,
        validation: tuple[Tensor, Tensor] | None = None,
        *,
        seed: int = 0,
    ) -> dict[str, float]:
        """Fit the linear map at once, in place; of the heads `logistic` and `ridge`.

        The features are standardised for the fit and the scales folded into the map afterwards,
        so that one penalty suits all models. The penalty is chosen by the log-likelihood of the
        validation records, or of held-out folds where there are none.

        Args:
            features_BD: one vector of each training record.
            labels_B: the class index of each; or the number, of a task that learns one.
            validation: the same two, of the validation records.
            seed: from which the folds are drawn.

        Returns:
            `strength`, and `loss`: the mean negative log-likelihood of the training records, or
            their mean squared error.

        Raises:
            DataError: a class has no training record.
        """
        import torch

        from tunesmith.models.logistic import Samples, fit_logistic
        from tunesmith.models.ridge import fit_ridge, fit_ridge_numbers

        module: Any = model.module
        linear: torch.nn.Linear = module.head.linear
        held_out = None if validation is None else Samples.of(*validation)
        strength = None if self.options.strength == "auto" else self.options.strength
        samples = Samples.of(features_BD, labels_B)
        if labels_B.is_floating_point():
            fitted = fit_ridge_numbers(samples, held_out=held_out, strength=strength, seed=seed)
        else:
            solve = fit_ridge if self._kind(self.needed) == "ridge" else fit_logistic
            fitted = solve(
                samples,
                classes=linear.out_features,
                held_out=held_out,
                strength=strength,
                seed=seed,
            )
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(fitted.weight_CD))
            linear.bias.copy_(torch.from_numpy(fitted.bias_C))
        return {"strength": fitted.strength, "loss": fitted.loss}

    def save(self, model: Model, folder: Path) -> None:
        """Write body, pooling and head, as sentence-transformers reads them."""
        from tunesmith.models.saving import save_features

        save_features(model, folder)


def _not_solved(head: str) -> str:
    return (
        f"strength is of the heads that are solved, and {head} learns by steps;"
        " training.weight_decay holds it back"
    )
