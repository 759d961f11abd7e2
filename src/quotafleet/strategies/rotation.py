"""Round robin: owners take turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..protocols import C
from ..usage import Demand


class RoundRobin:
    """Each call begins one owner further than the one before.

    Fair in calls, blind to sizes and limits: small owners are drained first, then skipped.
    """

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = -1

    def rank(self, candidates: Sequence[C], demand: Demand, now: float) -> Iterator[C]:
        """Yield the owners from the next one on."""
        self._turn = turn = (self._turn + 1) % len(candidates)
        return from_index(candidates, turn)


def from_index(candidates: Sequence[C], first: int) -> Iterator[C]:
    """Yield all candidates, cyclically, from an index on."""
    count = len(candidates)
    for index in range(first, count):
        yield candidates[index]
    for index in range(first):
        yield candidates[index]
