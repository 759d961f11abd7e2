"""How many texts go into one embedding request: as many as the owners' token limits bear.

A request must fit a full bucket of whichever owner is asked, so the smallest owner decides.
A request of a whole bucket would wait until the bucket is full, and leave the others' idle
meanwhile; a quarter of it can be served four at a time and still needs few requests. Where an
owner has fewer requests than that to spend, each one is made as large as its tokens allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase as fnmatch
from math import inf
from typing import Final

from quotafleet import Demand, KeyPool

Text = str | list[int]

#: Share of the smallest full token bucket that one request may take.
SHARE: Final = 0.25


def budget(pool: KeyPool, model: str) -> float:
    """Return the tokens that one request for a model should hold at most; infinite = not known.

    Raises:
        ConfigError: no key may be used for the model.
    """
    pool.eta(Demand(model=model))  # so that the status knows the model's owners
    caps = []
    for scope in pool.status().scopes:
        if scope.family and not (model.startswith(scope.family) or fnmatch(model, scope.family)):
            continue
        limits = {level.name: level.limit for level in scope.levels}
        tokens = min((limits[name] for name in ("tpm", "itpm") if name in limits), default=inf)
        each = tokens / limits["rpm"] if limits.get("rpm") else 0.0
        caps.append(max(tokens * SHARE, min(each, tokens)))
    return min(caps, default=inf)


def packed(texts: Sequence[Text], most: float) -> Iterator[Sequence[Text]]:
    """Yield the texts in order, in pieces of at most `most` tokens, each of at least one text."""
    start, held = 0, 0
    for place, one in enumerate(texts):
        tokens = size(one)
        if place > start and held + tokens > most:
            yield texts[start:place]
            start, held = place, 0
        held += tokens
    if start < len(texts):
        yield texts[start:]


def halves(texts: Sequence[Text]) -> tuple[Sequence[Text], Sequence[Text]]:
    """Return the first and the second half."""
    middle = len(texts) // 2
    return texts[:middle], texts[middle:]


def size(text: Text) -> int:
    """Return what an embedding limiter counts for a text: 1 for 4 bytes, or for each token id."""
    return max(1, len(text.encode()) // 4 if isinstance(text, str) else len(text))
