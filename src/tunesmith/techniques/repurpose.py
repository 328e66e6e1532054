"""A frozen encoder serves a new purpose: only a linear map of its features is fitted.

    text ──frozen body──> pooled features ──logistic regression──> logits of the classes

Fitting is convex, so there is one best answer, found in seconds without steps or learning rate.
The strength of the penalty is chosen on validation records, or by cross-validation. The result
is saved as sentence-transformers loads it: its embedding *is* the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import Technique

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.models.model import Model


@TECHNIQUES.register("repurpose")
class Repurpose(Technique):
    """A linear map of frozen features, fitted as a convex problem."""

    class Options(BaseModel):
        """What is pooled, and how strongly the fit is held back."""

        model_config = ConfigDict(extra="forbid")

        pooling: Literal["auto", "mean", "cls", "last"] = Field(
            default="auto",
            description="what stands for a text: the mean over its tokens, its first, or its last; "
            "`auto` is what the model was made with, else mean for encoders, last for decoders",
        )
        strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
            default="auto",
            description="inverse of the L2 penalty on standardised features (scikit-learn's C); "
            "`auto` chooses it on validation records",
        )

    @classmethod
    def refuses(cls, head: str, kind: str) -> str | None:
        """Writing text takes more than a linear map of a frozen model."""
        if head != "classification":
            does = {
                "causal_lm": "writes nothing",
                "embedding": "moves no vector",
                "multi_label": "always exactly one",
                "regression": "gives no number",
            }.get(head, "says nothing of a part of it")
            return (
                f"it fits a linear map of one vector a text, which names classes but {does}; "
                "choose lora, layers or full"
            )
        return None

    def head(self, needed: str) -> str:
        """The body alone, with a linear map on one vector of each text."""
        return "features"

    def prepare(self, model: Model) -> None:
        """Freeze the body, and set how a text becomes one vector."""
        from tunesmith.models.learning import freeze, learn

        module: Any = model.module
        freeze(module)
        learn(module.head)
        if self.options.pooling != "auto":
            module.head.pooling = self.options.pooling

    def fit(
        self,
        model: Model,
        features_BD: Tensor,
        labels_B: Tensor,
        validation: tuple[Tensor, Tensor] | None = None,
        *,
        seed: int = 0,
    ) -> dict[str, float]:
        """Fit the linear map, in place.

        The features are standardised for the fit and the scales folded into the map afterwards,
        so that one penalty suits all models. The penalty is chosen by the log-likelihood of the
        validation records, or of held-out folds where there are none.

        Args:
            features_BD: one vector of each training record.
            labels_B: the class index of each.
            validation: the same two, of the validation records.
            seed: from which the folds are drawn.

        Returns:
            `strength`, and `loss`: the mean negative log-likelihood of the training records.

        Raises:
            DataError: a class has no training record.
        """
        import torch

        from tunesmith.models.logistic import Samples, fit_logistic

        module: Any = model.module
        linear: torch.nn.Linear = module.head.linear
        fitted = fit_logistic(
            Samples.of(features_BD, labels_B),
            classes=linear.out_features,
            held_out=None if validation is None else Samples.of(*validation),
            strength=None if self.options.strength == "auto" else self.options.strength,
            seed=seed,
        )
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(fitted.weight_CD))
            linear.bias.copy_(torch.from_numpy(fitted.bias_C))
        return {"strength": fitted.strength, "loss": fitted.loss}

    def save(self, model: Model, folder: Path) -> None:
        """Write body, pooling and linear map, as sentence-transformers reads them."""
        from tunesmith.models.saving import save_features

        save_features(model, folder)
