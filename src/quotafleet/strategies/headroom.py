"""Headroom-weighted: the owner with the largest share of its quota left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from ..protocols import C, Candidate
from ..usage import Demand
from .sampling import better_of_two


class HeadroomWeighted:
    """Prefers the owner whose scarcest limit has the largest share left after the call.

    Owners of unequal size are drained in proportion, so that none reaches its full bucket, where
    what refills is lost, while another is empty. The default.

    Args:
        random: what the two are drawn with.
    """

    __slots__ = ("_random",)

    def __init__(self, random: Random) -> None:
        self._random = random

    def rank(self, candidates: Sequence[C], demand: Demand, now: float) -> Iterator[C]:
        """Yield that of two owners with more headroom, then all others."""
        costs = demand.costs

        def headroom(candidate: Candidate) -> float:
            return candidate.headroom(costs, now)

        return better_of_two(candidates, self._random, headroom)
