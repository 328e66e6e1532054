"""Changes what is said of a whole text from: which of its tokens, and through how many maps.

    hidden_TD ──pooling──> rows_BD ──(hidden layer, ReLU)──> linear map ──> outputs_BC

The families' own heads read one token each, and no class of transformers pools otherwise. So the
model becomes its body with a head of ours, and the result a folder of sentence-transformers: what
`SentenceTransformer(folder).encode(texts)` gives are the outputs, one for each class, where texts
are given as the task writes them: no prompt is stored, nor how two texts are joined. Of a model
whose vectors are learnt (`embedding`) only the pooling can change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import RecipeError
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.heads import FeatureHead
    from tunesmith.models.model import Model

_OF_TEXTS = ("classification", "multi_label", "regression")


@OPERATIONS.register("text_head")
class TextHead(Operation):
    """Change the head that speaks of a whole text, and what it reads of it."""

    works_on: ClassVar[Literal["files", "loaded", "marked"]] = "loaded"
    replaces: ClassVar[bool] = True

    class Options(BaseModel):
        """What is read, and the maps on it."""

        model_config = ConfigDict(extra="forbid")

        pooling: Literal["auto", "mean", "max", "weighted_mean", "cls", "last"] = Field(
            default="auto",
            description="what of a text is read: the mean of its tokens, the largest value of each"
            " feature, a mean in which later tokens count more (in proportion to their place), the"
            " first token or the last; auto: as the model was made to, else the mean for encoders"
            " and the last token for decoders",
        )
        width: int = Field(
            default=0, ge=0, le=65536, description="units of a hidden layer with ReLU; 0: none"
        )
        dropout: float = Field(
            default=0.0, ge=0.0, lt=1.0, description="share of each map's inputs set to zero"
        )
        initial: Literal["zero", "random"] = Field(
            default="zero",
            description="what the last map begins with; with zero every class is equally likely",
        )

    def head(self, needed: str) -> str:
        """A body with a head of ours, where a whole text is spoken of.

        Raises:
            RecipeError: the task needs another head, or vectors themselves.
        """
        given = self.options.model_dump(exclude_defaults=True)
        if needed in _OF_TEXTS:
            return "features"
        if needed == "embedding" and set(given) <= {"pooling"}:
            return needed
        if needed == "embedding":
            raise RecipeError(
                "The task learns the pooled vectors themselves: nothing stands on them.",
                where=f"surgery.text_head.{next(name for name in given if name != 'pooling')}",
                fix="Leave it out, and give `pooling` alone.",
            )
        raise RecipeError(
            f"The task needs a head ({needed}) that does not speak of whole texts.",
            where="surgery.text_head",
            fix="Leave the operation out.",
        )

    def settle(self, model: Model) -> str:
        """Set the pooling, and put the maps on it."""
        from tunesmith.models.heads import FeatureModel

        module: Any = model.module
        if not isinstance(module, FeatureModel):
            if self.options.pooling != "auto":
                model.pooling = self.options.pooling
            return f"A text's vector is pooled by {model.pooling}."
        module.head = self._made_like(module.head)
        hidden = f", a hidden layer of {self.options.width}" if self.options.width else ""
        return f"A head of our own: pooled by {module.head.pooling}{hidden}."

    def _made_like(self, head: FeatureHead) -> FeatureHead:
        from tunesmith.models.heads import FeatureHead

        options = self.options
        made = FeatureHead(
            head.linear.in_features,
            head.linear.out_features,
            head.pooling if options.pooling == "auto" else options.pooling,
            options.width,
            dropout=options.dropout,
            zero=options.initial == "zero",
        )
        return made.to(head.linear.weight.device, head.linear.weight.dtype)
