"""Keeps the grant near the send: calls are let through to the pool as fast as LiteLLM sends them.

From the choice of a deployment to the request on the wire LiteLLM needs milliseconds of CPU, and a
burst of calls takes its steps in turn: the first is sent when nearly all of them are ready. But a
granted owner refills on our side from the grant on, and on the provider's only from the send. What
lies between is spent early and refused. So of the calls of one event loop only a few are *on their
way*, granted and not yet sent; the others wait before they ask the pool.

The pool is told when a call is out (`Lease.sent`), and corrects itself. A store that processes
share takes no such news: there the gate is what keeps the two moments together, and threads, which
pass no gate, rely on the margin of the buckets and on the answers' headers.

A call whose way takes long though nothing is busy (a user's hook asks somebody) leaves the count
after `TICKS` ticks of the loop, and the gate is one wider until one comes through in time: then
it isn't the CPU that holds calls up. A loop that stands still, as while LiteLLM imports a part of
itself at the first answer, ticks once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

#: Calls on their way at a time: enough to keep LiteLLM's worker threads busy, and little enough
#: that the last is sent well within the margin that the buckets keep (0.25 s).
WIDTH: Final = 8
#: Ticks after which a call no longer counts, and seconds between them: a quarter of a second, of
#: which LiteLLM needs a tenth.
TICKS: Final = 5
TICK: Final = 0.05
#: Turns of the loop from LiteLLM's hook to the request in a new connection's socket.
TURNS: Final = 10


class SendPacer:
    """The gate of one event loop. Everything in it runs in that loop's thread."""

    __slots__ = ("_called", "_on_way", "_waiting", "_width")

    def __init__(self) -> None:
        self._width = WIDTH
        self._on_way = 0
        self._called = 0  # woken, and not awake yet
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Wait until there is room for one more on its way. First come, first served."""
        if self._on_way + self._called < self._width and not self._waiting:
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        finally:
            if not place.cancelled():
                self._called -= 1

    def enter(self) -> InFlightPermit:
        """Count a call as on its way."""
        self._on_way += 1
        return InFlightPermit(self)

    def _left(self) -> None:
        self._on_way -= 1
        if self._width > WIDTH:
            self._width -= 1
        self._let()

    def _widen(self) -> None:
        self._width += 1

    def _let(self) -> None:
        """Wake as many as there is room for."""
        before = self._called
        while self._waiting and self._on_way + self._called < self._width:
            place = self._waiting.popleft()
            if not place.done():  # else its task was cancelled
                place.set_result(None)
                self._called += 1
        if self._called > before and self._waiting:
            # Runs after those that were woken: whom the pool lets wait, and who was cancelled,
            # did not enter, and the room is the next one's.
            asyncio.get_running_loop().call_soon(self._let)


class InFlightPermit:
    """One call's way from the grant to the send. It is told from any thread; once counts."""

    __slots__ = ("_gate", "_loop", "_tell", "_ticks", "_timer")

    def __init__(self, gate: SendPacer) -> None:
        self._gate: SendPacer | None = gate
        self._loop = asyncio.get_running_loop()
        self._tell: Callable[[], None] | None = None
        self._ticks = 0
        self._timer = self._loop.call_later(TICK, self._tick)

    def leaves(self, tell: Callable[[], None]) -> None:
        """Say that the request goes to the HTTP client now; `tell` is called once it is out."""
        self._in_loop(self._leaves, tell)

    def end(self) -> None:
        """Say that it is out, or never will be."""
        self._in_loop(self._end)

    def _in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._gate is None:
            return
        if self._loop is _running():
            function(*arguments)
            return
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # its loop was closed: nobody waits there
            self._gate = None

    def _leaves(self, tell: Callable[[], None]) -> None:
        if self._gate is not None and self._tell is None:
            self._tell = tell
            self._turn(TURNS)

    def _turn(self, left: int) -> None:
        if left and self._gate is not None:
            self._loop.call_soon(self._turn, left - 1)
        else:
            self._end()

    def _end(self) -> None:
        gate, self._gate = self._gate, None
        if gate is None:
            return
        self._timer.cancel()
        if self._tell is not None:
            self._tell()
        gate._left()

    def _tick(self) -> None:
        if self._gate is None:
            return
        self._ticks += 1
        if self._ticks < TICKS:
            self._timer = self._loop.call_later(TICK, self._tick)
        else:
            self._gate._widen()
            self._end()


_gates: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, SendPacer]] = WeakKeyDictionary()


def gate() -> SendPacer:
    """Return the gate of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _gates.get(loop)
    if found is None:
        found = _gates[loop] = SendPacer()
    return found


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
