"""Least used: the owner with the fewest calls in flight, then the fewest so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from ..protocols import C, Candidate
from ..usage import Demand
from .sampling import better_of_two

#: So many calls granted weigh as much as one in flight: they only break ties.
_TIES = 1e-9


class LeastUsed:
    """Prefers the owner with the fewest calls in flight: fast owners get more.

    Args:
        random: what the two are drawn with.
    """

    __slots__ = ("_random",)

    def __init__(self, random: Random) -> None:
        self._random = random

    def rank(self, candidates: Sequence[C], demand: Demand, now: float) -> Iterator[C]:
        """Yield the less used of two owners, then all others."""
        return better_of_two(candidates, self._random, _unused)


def _unused(candidate: Candidate) -> float:
    return -(candidate.in_flight + candidate.granted * _TIES)
