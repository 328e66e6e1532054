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
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.objectives.base import FurtherTerm, TokenStates
from tunesmith.objectives.distillation import TokenDivergence
from tunesmith.registry import RETAINERS
from tunesmith.retain.base import Retainer, Scene

if TYPE_CHECKING:
    from tunesmith.data.batch import Batch
    from tunesmith.engine.anchor import Anchor
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

    _anchor: Anchor | None = None
    _scene: Scene | None = None

    def refuses(self, scene: Scene) -> str | None:
        """Only a model that says something of tokens before and after can be held to it."""
        if not scene.names_tokens:
            return (
                "it holds on to what the base says of tokens, and with this task the model says "
                "nothing of them; choose l2_sp, replay with `data`, or interpolate"
            )
        return None

    def begin(self, scene: Scene) -> None:
        """Copy what learns, unless the base is found by switching the adapter off."""
        from tunesmith.engine.anchor import Anchor

        self._scene = scene
        if scene.begins_as_base:
            self._anchor = Anchor(scene.engine.optimizer.parameters)

    def further(self) -> FurtherTerm:
        """Return the divergence."""
        options = self.options
        return TokenDivergence("kl_to_base", self._base_states, options.weight, options.temperature)

    @property
    def nbytes(self) -> int:
        """The copy of what learns, the base's hidden states, and the logits of a chunk of rows."""
        from tunesmith.kernels.token_loss import CHUNK_BYTES

        if self._scene is None:
            return 0
        engine, tokens = self._scene.engine, self._scene.tokens
        anatomy = engine.model.anatomy
        rows = tokens * anatomy.hidden_size * engine.dtype.itemsize
        chunk = min(CHUNK_BYTES, 4 * 4 * tokens * anatomy.vocab_size)
        return rows + chunk + (self._anchor.nbytes if self._anchor else 0)

    def facts(self) -> dict[str, str]:
        """Say where the base's answers come from."""
        source = "the model without its adapter"
        if self._anchor is not None:
            source = f"a copy of what learns ({self._anchor.nbytes / 1e6:.3g} MB)"
        return {"Held to the base": f"{source}, one more forward pass"}

    def _base_states(self, batch: Batch) -> OutputRows:
        """Return the base's hidden states of the learnt tokens, and its output layer."""
        assert self._scene is not None
        engine = self._scene.engine
        if self._anchor is None:
            return _detached(engine.forward(batch, TokenStates, "off"))
        with self._anchor.in_place():
            return _detached(engine.forward(batch, TokenStates))


def _detached(states: TokenStates) -> OutputRows:
    """Let go of the parameters themselves, which get their present values back."""
    output = states.output
    bias_V = None if output.bias_V is None else output.bias_V.detach()
    return replace(output, weight_VD=output.weight_VD.detach(), bias_V=bias_V)
