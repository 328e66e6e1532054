"""KL to the base: what the model says of each learnt token must not go far from what it said.

    loss + weight * mean over learnt tokens of KL(base || model)

(Li & Hoiem, 2016, arXiv:1606.09282, on the records that are learnt.) The base is the same model
with the values of before: what learns is swapped for a copy of its first values for one more
forward pass. So it costs a forward pass a step and the memory of what learns (of an adapter next
to nothing; of `full` the weights a second time), and never holds a whole table of logits. An
adapter that does not begin as its base is switched off instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.objectives.base import FurtherTerm, Term, TokenStates
from tunesmith.registry import RETAINERS
from tunesmith.retain.base import Retainer, Scene

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch
    from tunesmith.engine.anchor import Anchor
    from tunesmith.engine.engine import Engine
    from tunesmith.kernels.divergence import OutputRows


@RETAINERS.register("kl")
class Kl(Retainer):
    """What the model says of each learnt token stays near what its base says."""

    class Options(BaseModel):
        """How near."""

        model_config = ConfigDict(extra="forbid")

        weight: float = Field(
            default=0.1,
            gt=0,
            le=1000,
            description="weight of the divergence, in nats a learnt token, beside the loss",
        )
        temperature: float = Field(
            default=1.0,
            gt=0,
            le=100,
            description="logits of both are divided by it: above 1 unlikely tokens count more",
        )

    _term: ToBase | None = None

    def refuses(self, scene: Scene) -> str | None:
        """Only a model that says something of tokens before and after can be held to it."""
        if not scene.writes:
            return (
                "it holds on to what the base says of the next token, and this model has a new "
                "head; choose l2_sp, replay with `data`, or interpolate"
            )
        return None

    def begin(self, scene: Scene) -> None:
        """Copy what learns, unless the base is found by switching the adapter off."""
        from tunesmith.engine.anchor import Anchor

        anchor = Anchor(scene.engine.optimizer.parameters) if scene.begins_as_base else None
        self._term = ToBase(
            scene.engine, anchor, self.options.weight, self.options.temperature, scene.tokens
        )

    def further(self) -> FurtherTerm | None:
        """Return the divergence."""
        return self._term

    @property
    def nbytes(self) -> int:
        """The copy of what learns, and the logits of both for a chunk of rows."""
        return self._term.nbytes if self._term else 0

    def facts(self) -> dict[str, str]:
        """Say where the base's answers come from."""
        if self._term is None:
            return {}
        return {"Held to the base": self._term.source}


class ToBase(FurtherTerm):
    """The divergence from a base to the model as it is.

    Args:
        anchor: the first values of what learns; None: the base is the model without its adapter.
        tokens: most tokens of a micro-batch, for `nbytes`.
    """

    name = "kl_to_base"
    readout = TokenStates

    def __init__(
        self,
        engine: Engine,
        anchor: Anchor | None,
        weight: float = 0.1,
        temperature: float = 1.0,
        tokens: int = 2048,
    ) -> None:
        self._engine = engine
        self._anchor = anchor
        self._weight = weight
        self._temperature = temperature
        self._tokens = tokens

    def before(self, batch: Batch) -> OutputRows:
        """Return the base's hidden states of the learnt tokens, and its output layer."""
        if self._anchor is None:
            return self._states(batch, adapter="off")
        with self._anchor.in_place():
            return self._states(batch, adapter="on")

    def count(self, batch: Batch) -> float:
        """Return the number of learnt tokens."""
        weights_T = batch.text.weights_T
        return 0.0 if weights_T is None else float((weights_T != 0).sum())

    def loss(self, readout: TokenStates, batch: Batch, before: OutputRows) -> Term:
        """Return the summed divergence over the learnt tokens."""
        import torch

        from tunesmith.kernels.divergence import linear_divergence

        ones_N = torch.ones(len(readout.rows_N), device=readout.rows_N.device)
        total = linear_divergence(readout.output, before, ones_N, temperature=self._temperature)
        return Term(total, self.count(batch), self._weight)

    @property
    def nbytes(self) -> int:
        """Bytes that are held while a step is computed."""
        from tunesmith.kernels.token_loss import CHUNK_BYTES

        anatomy = self._engine.model.anatomy
        rows = self._tokens * anatomy.hidden_size * self._engine.dtype.itemsize
        chunk = min(CHUNK_BYTES, 4 * 4 * self._tokens * anatomy.vocab_size)
        return rows + chunk + (self._anchor.nbytes if self._anchor else 0)

    @property
    def source(self) -> str:
        """Where the base's answers come from, in words."""
        if self._anchor is None:
            return "the model without its adapter, one more forward pass"
        return f"a copy of what learns ({self._anchor.nbytes / 1e6:.3g} MB), one more forward pass"

    def _states(self, batch: Batch, adapter: Any) -> OutputRows:
        found: TokenStates = self._engine.forward(batch, TokenStates, adapter)
        output = found.output
        # Detached: the parameter itself gets its present values back.
        bias_V = None if output.bias_V is None else output.bias_V.detach()
        return replace(output, weight_VD=output.weight_VD.detach(), bias_V=bias_V)
