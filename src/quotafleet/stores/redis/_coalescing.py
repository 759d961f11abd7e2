"""Claims that go to the server together: who asks while a step is on its way goes with the next.

Theory of operation. Of each group one step is under way at a time. Who finds none *leads*: it takes
along all that wait, goes to the server at once, and hands out what that answered. Who finds one
waits; when that step is back, the first of those that wait leads the next one. So a single caller
waits for nobody, and the more callers there are, the more of them share a round trip and a run of
the script, which serves them in the order in which they came.

What goes wrong with a step goes wrong for all that went with it: each then goes on by itself, as if
it had gone alone, and mostly asks again. Who gives up while it waits leaves the others alone; who
gives up on its way is the conversation's matter.

The threads of a process have rounds of their own, and so has each event loop: none waits for a loop
that is busy with something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..._clock import Clock
from ..._core.quota.account import Account
from ...errors import StoreError
from ._batches import BatchBuilder
from ._buffer import Batch
from ._connection import ConnectionLost
from ._process import pid
from ._step import ClaimRequest, Round, StepAnswer

#: What a claim of no accounts is told.
NOTHING: Final = StepAnswer(-1, -1, 0.0, 0.0, 0.0, b"", 0.0)
#: Claims of one step: they hold the server up for some 20 microseconds each.
AT_MOST: Final = 64


class CoalescedClaim:
    """One claim on its way."""

    __slots__ = ("answered", "ask", "error", "leads", "wake")

    def __init__(self, ask: ClaimRequest) -> None:
        self.ask = ask
        #: It is to carry the next step over.
        self.leads = False
        self.answered: StepAnswer | None = None
        self.error: StoreError | None = None
        #: Set by who waits; called when there is an answer, or when it leads.
        self.wake: Callable[[], None] | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.leads or self.answered is not None or self.error is not None

    def result(self) -> StepAnswer:
        """Return what was answered.

        Raises:
            StoreError: there was no answer, or a refusal.
        """
        if self.answered is None:
            raise self.error or AssertionError("only who is done has a result")
        return self.answered


class ClaimBatch:
    """Who goes with one step, the leader first, and the settlements that ride along."""

    __slots__ = ("batch", "group", "riders")

    def __init__(self, riders: list[CoalescedClaim], batch: Batch | None) -> None:
        self.group = riders[0].ask.group
        self.riders = riders
        self.batch = batch


class Coalescer:
    """The steps of one process's threads, or of one event loop. Its books' lock guards them."""

    __slots__ = ("_books", "_clock", "_lock", "_pid", "_waiting", "_waits")

    def __init__(self, books: BatchBuilder, *, clock: Clock, waits: Callable[[], bool]) -> None:
        self._books = books
        self._lock = books.lock
        self._clock = clock
        #: Whether this process stands in a row for slots.
        self._waits = waits
        #: Who waits, for each group of which a step is under way.
        self._waiting: dict[str, list[CoalescedClaim]] = {}
        self._pid = pid()

    def join(self, ask: ClaimRequest) -> CoalescedClaim:
        """Take a claim in: it leads, or waits to be woken."""
        rider = CoalescedClaim(ask)
        with self._lock:
            if self._pid != pid():  # forked: the parent's steps come back to the parent
                self._pid = pid()
                self._waiting.clear()
            waiting = self._waiting.get(ask.group)
            if waiting is None:
                self._waiting[ask.group] = []
                rider.leads = True
            else:
                waiting.append(rider)
        return rider

    def leave(self, leader: CoalescedClaim) -> ClaimBatch:
        """Return what a leader carries over, for itself and those that go along."""
        group = leader.ask.group
        with self._lock:
            waiting = self._waiting[group]
            others, self._waiting[group] = waiting[: AT_MOST - 1], waiting[AT_MOST - 1 :]
            return ClaimBatch([leader, *others], self._books.buffer.begin(group))

    def step(self, departure: ClaimBatch) -> Round:
        """Return the step that it is."""
        asks = [rider.ask for rider in departure.riders if rider.ask.accounts]
        with self._lock:
            sent = self._books.round(
                departure.group, asks, waits=self._waits(), batch=departure.batch
            )
            for rider in departure.riders:
                rider.ask.sent_at = sent.sent_at
        return sent

    def arrived(self, departure: ClaimBatch, sent: Round, answer: bytes) -> list[Account]:
        """Hand out what a step answered, and let the next one leave.

        Returns the accounts that have more, if who waits for them is to be told.
        """
        riders = departure.riders
        with self._lock:
            answers, freed = self._books.arrived(sent, answer, self._clock.now())
            left = iter(answers)
            for rider in riders:
                rider.answered = next(left) if rider.ask.accounts else NOTHING
            next_one = self._next(departure.group)
        self._wake(riders[1:], next_one)
        return freed if riders[0].ask.tells else []

    def failed(self, departure: ClaimBatch, error: BaseException) -> None:
        """Tell those that went along that their step failed, and let the next one leave.

        Where no answer came it is told to those that wait too: they have waited as long.
        """
        riders = departure.riders[1:]
        with self._lock:
            self._books.buffer.failed(departure.batch)
            if isinstance(error, ConnectionLost):
                waiting = self._waiting[departure.group]
                riders += waiting
                waiting.clear()
            for rider in riders:
                rider.error = _same(error)
            next_one = self._next(departure.group)
        self._wake(riders, next_one)

    def quit(self, rider: CoalescedClaim) -> None:
        """Take out who gives up before its step has left."""
        with self._lock:
            next_one, waiting = None, self._waiting.get(rider.ask.group, [])
            if rider.leads:
                next_one = self._next(rider.ask.group)
            elif rider in waiting:  # else its step has left
                waiting.remove(rider)
        self._wake([], next_one)

    def _next(self, group: str) -> CoalescedClaim | None:
        """Let the first that waits lead; if none does, no step is under way."""
        waiting = self._waiting[group]
        if not waiting:
            del self._waiting[group]
            return None
        leader = waiting.pop(0)
        leader.leads = True
        return leader

    @staticmethod
    def _wake(riders: list[CoalescedClaim], leader: CoalescedClaim | None) -> None:
        """Wake those that are done; the leader first, so that it is off while they go on."""
        for rider in (leader, *riders) if leader is not None else riders:
            wake = rider.wake  # set before `is_done` is read: whoever wakes goes the other way
            if wake is not None:
                wake()


def _same(error: BaseException) -> StoreError:
    """Return an error for another one that it befell; what stopped a leader is its own affair."""
    if isinstance(error, StoreError):
        return type(error)(*error.args)
    return ConnectionLost(f"the step was given up on its way ({type(error).__name__})")
