"""The values that what learns had at one moment, to come back to while it goes on learning.

    parameters ──Anchor──> a copy of their values ──in_place──> the model answers as it did then

Takes the memory of what learns, once: nothing for a frozen base, little for an adapter, a second
copy of the weights where all of them learn. It knows no loss and no technique.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Anchor:
    """A copy of the values of some parameters.

    Args:
        parameters: what learns, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.values: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in parameters.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes that the copy takes."""
        return sum(tensor.nbytes for tensor in self.values.values())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the parameters have the values of then; nothing is copied.

        Only for passes without gradients.
        """
        now = {name: parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = self.values[name]
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = now[name]
