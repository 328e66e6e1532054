"""Cuts what is too long into windows that overlap, so that nothing is read without its neighbours.

    0 ............................ length
    [──── window ────]
                [──── window ────]
    owns: ......|.......|......          each place belongs to the window with most around it

It knows lengths only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Places `start` to `end` of something long; `own_start` to `own_end` are this window's own."""

    start: int
    end: int
    own_start: int
    own_end: int

    def owns(self, place: int) -> bool:
        """Return whether a place belongs to this window rather than to a neighbour."""
        return self.own_start <= place < self.own_end


def windows(length: int, room: int, overlap: int) -> list[Window]:
    """Return windows of at most `room` places that cover `length`, each place owned once.

    Args:
        overlap: places that neighbours have in common; less than `room`. The first half of them is
            owned by the earlier window.
    """
    if length <= room:
        return [Window(0, length, 0, length)]
    starts = list(range(0, length - overlap, room - overlap))
    found = []
    own_start = 0
    for start in starts:
        end = min(start + room, length)
        own_end = length if start == starts[-1] else end - overlap // 2
        found.append(Window(start, end, own_start, own_end))
        own_start = own_end
    return found
