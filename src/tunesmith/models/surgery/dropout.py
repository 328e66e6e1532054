"""Changes the rates of dropout, under the names that the family's configuration has for them.

Most models are published with none. Rates hold in training alone; the saved configuration carries
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.errors import RecipeError, suggest
from tunesmith.models.surgery.base import Operation
from tunesmith.registry import OPERATIONS

if TYPE_CHECKING:
    from tunesmith.models.draft import Draft

Rate = Annotated[float, Field(ge=0, lt=1)]


@OPERATIONS.register("dropout")
class Dropout(Operation):
    """Change dropout."""

    class Options(BaseModel):
        """The rates."""

        model_config = ConfigDict(extra="forbid")

        rate: Rate | None = Field(
            default=None, description="every rate that the configuration has; layers that are "
            "dropped whole (layerdrop) are not meant"
        )  # fmt: skip
        rates: dict[str, Rate] = Field(
            default={},
            description="single rates, under the names that the family's configuration has",
        )

        @model_validator(mode="after")
        def _something(self) -> Dropout.Options:
            if self.rate is None and not self.rates:
                raise ValueError("Give `rate` or `rates`")
            return self

    def alter(self, draft: Draft) -> str:
        """Set the rates.

        Raises:
            RecipeError: the family has no dropout, or none of that name.
        """
        config = draft.text_config
        known = _rates(config)
        if not known:
            raise RecipeError(
                f"The family {draft.anatomy.family} has no dropout.", where="surgery.dropout",
                fix="Adapters have one of their own: technique.dropout.",
            )  # fmt: skip
        unknown = [name for name in self.options.rates if name not in known]
        if unknown:
            raise RecipeError(
                f"The family {draft.anatomy.family} has no rate called {unknown[0]!r}.",
                where="surgery.dropout.rates",
                fix=suggest(unknown[0], known),
            )
        chosen = dict.fromkeys(known, self.options.rate) if self.options.rate is not None else {}
        chosen |= self.options.rates
        for name, rate in chosen.items():
            setattr(config, name, rate)
        said = ", ".join(f"{name} {known[name]} → {rate}" for name, rate in chosen.items())
        return f"Changed dropout: {said}."


def _rates(config: Any) -> dict[str, float | None]:
    return {
        name: value
        for name, value in config.to_dict().items()
        if "drop" in name and "layerdrop" not in name.replace("_", "")
        and isinstance(value, int | float | None) and not isinstance(value, bool)
    }  # fmt: skip
