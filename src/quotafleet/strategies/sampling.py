"""The power of two choices: the better of two random owners, then all others.

Looking at every owner would cost a call time in proportion to their number. The better of two
random ones is nearly as good as the best: it leaves the fullest of n at ln ln n instead of ln n
above the mean (Mitzenmacher, "The power of two choices in randomized load balancing", 2001), and
whatever the ranking, the store takes the first that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from ..protocols import C
from .rotation import from_index


def better_of_two(
    candidates: Sequence[C], random: Random, score: Callable[[C], float]
) -> Iterator[C]:
    """Yield the better of two random candidates, the other, then all others in turn."""
    count = len(candidates)
    first = int(random.random() * count)
    one = candidates[first]
    if count == 1:
        yield one
        return
    second = (first + 1 + int(random.random() * (count - 1))) % count
    other = candidates[second]
    if score(other) > score(one):
        one, other = other, one
    yield one
    yield other
    for candidate in from_index(candidates, first):
        if candidate is not one and candidate is not other:
            yield candidate
