"""Lets PyTorch's own modules drop what our kernels drop, so that results can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor, nn

from tunesmith.kernels.dropout import dropout


@contextmanager
def stock_modules_drop_alike() -> Iterator[None]:
    """Within, `nn.Dropout` draws as our kernels do, from the same generator."""

    def forward(self: nn.Dropout, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Dropout, "forward", forward)
        yield
