"""Settlements on their way to the server: each is taken in there once, in the order of batches.

A batch in flight has a number. If its answer is lost it stays, and is sent again under the same
number with the next step; the server skips what it has taken in already. So one batch of a group is
in flight at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ._codec import Ending

#: Settlements of one batch: they hold the server up for about 10 microseconds each.
AT_MOST: Final = 64


@dataclass(slots=True)
class Batch:
    """Settlements that travel together."""

    number: int
    endings: list[Ending]
    in_flight: bool = True


class Buffer:
    """The settlements of each group. Its store's lock guards it."""

    __slots__ = ("_batches", "_number", "_waiting")

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[str, list[Ending]] = {}
        self._batches: dict[str, Batch] = {}

    def __len__(self) -> int:
        waiting = sum(len(endings) for endings in self._waiting.values())
        return waiting + sum(len(batch.endings) for batch in self._batches.values())

    def others(self, batch: Batch | None) -> Iterator[Ending]:
        """Return the settlements that are still to be taken in, without those of a batch."""
        for waiting in self._waiting.values():
            yield from waiting
        for other in self._batches.values():
            if other is not batch:
                yield from other.endings

    def add(self, group: str, ending: Ending, *, first: bool = False) -> None:
        """Put a settlement in, behind the others or before them."""
        waiting = self._waiting.setdefault(group, [])
        waiting.insert(0 if first else len(waiting), ending)

    def first(self) -> str | None:
        """Return a group that has a batch to be sent."""
        for group, batch in self._batches.items():
            if not batch.in_flight:
                return group
        return next((group for group in self._waiting if group not in self._batches), None)

    def begin(self, group: str) -> Batch | None:
        """Return the batch to be sent along now; ``None`` = there is none, or one is in flight."""
        batch = self._batches.get(group)
        if batch is not None:
            if batch.in_flight:
                return None
            batch.in_flight = True
            return batch
        waiting = self._waiting.pop(group, None)
        if not waiting:
            return None
        if len(waiting) > AT_MOST:
            self._waiting[group] = waiting[AT_MOST:]
        self._number += 1
        batch = self._batches[group] = Batch(self._number, waiting[:AT_MOST])
        return batch

    def done(self, group: str, batch: Batch) -> None:
        """A batch was taken in."""
        if self._batches.get(group) is batch:
            del self._batches[group]

    @staticmethod
    def failed(batch: Batch | None) -> None:
        """A batch was perhaps not taken in: it is sent again."""
        if batch is not None:
            batch.in_flight = False
