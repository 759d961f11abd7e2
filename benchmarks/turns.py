"""Two ways to do the same, which take turns in being measured."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What one way costs beside another.

    Args:
        ratio: ours over theirs, the median of all rounds.
        low: a quarter of the rounds are below.
        high: a quarter of them are above.
        ours: CPU seconds of a call, the median.
        theirs: likewise.
    """

    ratio: float
    low: float
    high: float
    ours: float
    theirs: float


def compare(
    ours: Callable[[int], object], theirs: Callable[[int], object], *, rounds: int, times: int
) -> Compared:
    """Measure calls in CPU time.

    Both take turns in short rounds, and in who goes first: each round gives a ratio, and a slow
    moment of the machine hits both. Against itself anything gets 0.99 to 1.01 so, on a machine
    that other work keeps busy; the cheapest of some long rounds is luck there. Garbage is
    collected as in a program, except that what modules hold is not looked at.

    Args:
        ours: makes so many calls.
        theirs: likewise.
        rounds: how many.
        times: calls of each in a round.
    """
    for way in (ours, theirs):
        way(10 * times)
    gc.collect()
    gc.freeze()
    spent: dict[Callable[[int], object], list[float]] = {ours: [], theirs: []}
    for number in range(rounds):
        for way in (ours, theirs) if number % 2 else (theirs, ours):
            began = time.process_time()
            way(times)
            spent[way].append((time.process_time() - began) / times)
    ratios = [mine / other for mine, other in zip(spent[ours], spent[theirs], strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return Compared(
        ratio=median(ratios),
        low=low,
        high=high,
        ours=median(spent[ours]),
        theirs=median(spent[theirs]),
    )
