"""Some layers, or only some of their parameters, learn; the result is a whole model.

    last, layers   numbered layers                 names          patterns of parameters
    find           the layers that score highest   only: biases   BitFit; or norms, or both

Upper layers are the most particular to a task; what lies below the lowest layer that learns is
never differentiated, which saves time and memory. Which layers matter for *these* records can be
found out beforehand: by the signal-to-noise ratio of their gradients, by Fisher information, or,
without records, by the spectrum of their weights (`models/layer_scores.py`). Biases alone often do
nearly as well as all weights (BitFit: Zaken et al., 2021, arXiv:2106.10199).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.errors import RecipeError
from tunesmith.registry import TECHNIQUES
from tunesmith.techniques.base import InTurn

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.models.layer_scores import GradientStatistics
    from tunesmith.models.model import Model

DEFAULT_LAST = 2

_CHOICES = ("last", "layers", "names", "find")
_MEANING = {
    "gradient": "signal-to-noise ratio of the gradients",
    "fisher": "Fisher information",
    "spectrum": "spectrum of the weights",
}


@TECHNIQUES.register("layers")
class Layers(InTurn):
    """Named layers, or parts of them, learn; a classification head always does."""

    class Options(BaseModel):
        """Which layers, and what else."""

        model_config = ConfigDict(extra="forbid")

        last: int | None = Field(
            default=None,
            ge=0,
            description=f"how many layers learn, counted from the top ({DEFAULT_LAST} where "
            "nothing else says which; all of them with `only`); 0: the head of a classification "
            "alone, and what `final_norm` says",
        )
        layers: list[Annotated[int, Field(ge=0)]] | None = Field(
            default=None,
            min_length=1,
            description="which layers learn, numbered from 0 at the bottom; in place of `last`",
        )
        names: list[Annotated[str, Field(min_length=1)]] | None = Field(
            default=None,
            min_length=1,
            description="which parameters learn, by names or patterns of modules or parameters, "
            "whole or from any dot on, such as `layers.0`, `*norm*` or `q_proj`; in place of "
            "`last`",
        )
        find: Literal["gradient", "fisher", "spectrum"] | None = Field(
            default=None,
            description="find out which layers learn, in place of `last`: those with the highest "
            "signal-to-noise ratio of gradients on training records, Fisher information, or "
            "signal in the spectrum of their weights",
        )
        count: int = Field(
            default=DEFAULT_LAST, ge=1, description="how many layers are found, with `find`"
        )
        records: int = Field(
            default=64,
            ge=8,
            le=100_000,
            description="training records whose gradients are looked at, with `find: gradient` and "
            "`fisher`",
        )
        only: Literal["all", "biases", "norms", "biases_and_norms"] = Field(
            default="all",
            description="what of these layers learns: everything, or biases (BitFit), norms, or "
            "both",
        )
        final_norm: bool = Field(
            default=True, description="whether the norm behind the last layer learns, if any"
        )
        output: bool = Field(
            default=False,
            description="whether the vocabulary layer learns (and the token embeddings, where the "
            "two share their weights)",
        )
        gradual: float = Field(
            default=0.0,
            ge=0,
            lt=1,
            description="share of the steps in which layers begin to learn one after another, from "
            "the top down (gradual unfreezing); 0: all learn from the first step",
        )

        @model_validator(mode="after")
        def _one_choice(self) -> Layers.Options:
            given = [name for name in _CHOICES if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"Give `{given[0]}` or `{given[1]}`, not both")
            if not given and self.only == "all":
                self.last = DEFAULT_LAST
            return self

    _found: Mapping[str, Any] | None = None

    @property
    def records_to_study(self) -> int:
        """Gradients of so many records are wanted, unless the choice is made already."""
        by_gradient = self.options.find in ("gradient", "fisher") and self._found is None
        return self.options.records if by_gradient else 0

    def study(self, statistics: GradientStatistics) -> None:
        """Take the scores of the layers from the gradients of records.

        Raises:
            RecipeError: there are fewer layers than are to be found, or the records say nothing.
        """
        by_gradient = self.options.find == "gradient"
        self._choose(statistics.signal_to_noise() if by_gradient else statistics.fisher())

    def prepare(self, model: Model) -> None:
        """Mark the layers, the norm behind them, and the task's head.

        Raises:
            RecipeError: the model has no such layer or parameter, or no vocabulary layer, or
                nothing would learn.
        """
        from tunesmith.models.layer_scores import spectrum
        from tunesmith.models.learning import freeze, learn, matching, widen

        if self.options.find == "spectrum" and self._found is None:
            self._choose(spectrum(model.module, model.anatomy))
        freeze(model.module)
        anatomy = model.anatomy
        names = list(anatomy.task_modules)
        if self.options.output:
            if anatomy.output is None:
                raise RecipeError(
                    "This model has no vocabulary layer that could learn.",
                    where="technique.output",
                    fix="Leave `output` out: the head of a classification always learns.",
                )
            names.append(anatomy.output)
        for name in names:
            learn(model.module.get_submodule(name))
        if self.options.names is not None:
            chosen = matching(model.module, self.options.names, "technique.names")
        else:
            chosen = self._of_layers(model)
        if not names and not chosen:
            raise RecipeError(
                "Nothing would learn: no layer, and this task has no head of its own.",
                where="technique.last",
                fix="Give 1 or more.",
            )
        for parameter in self._kept(model, chosen).values():
            widen(parameter)
            parameter.requires_grad_(True)

    def state(self) -> dict[str, Any]:
        """Return the scores and the choice, where layers were found."""
        return dict(self._found or {})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._found = state or None

    def facts(self) -> dict[str, str]:
        """Say which layers were found, and what each scored."""
        if self._found is None:
            return {}
        chosen = ", ".join(map(str, self._found["chosen"]))
        scores = [f"{number}: {score:.3g}" for number, score in enumerate(self._found["scores"])]
        return {
            "Layers that learn": f"{chosen} of {len(scores)}, found by the "
            f"{_MEANING[self._found['by']]}",
            "Score of each layer": ", ".join(scores),
        }

    def _choose(self, scores: list[float]) -> None:
        count = self.options.count
        if count > len(scores):
            raise RecipeError(
                f"{count} layers are to be found, but the model has {len(scores)}.",
                where="technique.count",
                fix=f"Give 1 to {len(scores)}.",
            )
        if not any(scores):
            raise RecipeError(
                f"The {_MEANING[self.options.find]} says nothing: every layer scores 0.",
                where="technique.find",
                fix="Study more `records`, or name the layers.",
            )
        best = sorted(range(len(scores)), key=lambda number: -scores[number])[:count]
        self._found = {"by": self.options.find, "scores": scores, "chosen": sorted(best)}

    def _of_layers(self, model: Model) -> dict[str, nn.Parameter]:
        """Return the parameters of the chosen layers and of the norm behind the last."""
        layers = model.anatomy.layers
        parts = [layers[number].name for number in self._numbers(len(layers))]
        parts += model.anatomy.final_norms if self.options.final_norm else ()
        prefixes = tuple(f"{part}." for part in parts)
        found = model.module.named_parameters()
        return {name: parameter for name, parameter in found if name.startswith(prefixes)}

    def _kept(self, model: Model, chosen: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Return those of the chosen parameters that `only` lets learn.

        Raises:
            RecipeError: there are none of that kind.
        """
        only = self.options.only
        if only == "all":
            return chosen
        norms = tuple(f"{norm}." for norm in model.anatomy.norms)
        kept = {
            name: parameter
            for name, parameter in chosen.items()
            if (only != "norms" and name.endswith("bias"))
            or (only != "biases" and name.startswith(norms))
        }
        if not kept:
            raise RecipeError(
                f"These layers have no {only.replace('_and_', ' and no ')} that could learn.",
                where="technique.only",
                fix="Choose another kind: models like Llama have norms, but no biases.",
            )
        return kept

    def _numbers(self, count: int) -> list[int]:
        if self._found is not None:
            return list(self._found["chosen"])
        if self.options.layers is None:
            wanted = count if self.options.last is None else self.options.last
            if wanted > count:
                raise RecipeError(
                    f"The last {wanted} layers are to learn, but the model has {count}.",
                    where="technique.last",
                    fix=f"Give 1 to {count}.",
                )
            return list(range(count - wanted, count))
        beyond = [number for number in self.options.layers if number >= count]
        if beyond:
            raise RecipeError(
                f"There is no layer {beyond[0]}: the model has {count}, numbered from 0.",
                where="technique.layers",
                fix=f"Give numbers from 0 to {count - 1}.",
            )
        return sorted(set(self.options.layers))
