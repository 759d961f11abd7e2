"""What becomes of an answer's body: holds the lease until it ends, and reads usage from its tail.

Nothing here knows httpx. A `StreamWatcher` is fed the chunks as they pass, keeps the last of them,
and at the end tells the lease how it went: whole, an error inside the stream, or dropped half-way.

Whoever drops a body without closing it leaves the lease to the garbage collector, and that may
run anywhere: inside the pool's lock, the store's or httpcore's. So a destructor takes no lock; it
hands the rest over to one thread, which is started with the first stream (`bury`).
"""

from __future__ import annotations

import gc
import zlib
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread, get_ident
from typing import TYPE_CHECKING, Final

from .._core.call.flow import ABANDONED

if TYPE_CHECKING:
    from .._lease import Lease
    from ..outcomes import Outcome
    from ..protocols import Plan, Provider
    from ..usage import Usage

#: Bytes of the end of a body that are kept: a usage object with its details takes some 500, and
#: several empty chunks may follow it.
TAIL: Final = 16_384
#: Seconds that reading on after ``[DONE]`` may take. The terminator is under way by then; to wait
#: longer than a new connection takes would be no gain.
DRAIN_FOR: Final = 0.25

_DONE: Final = b"[DONE]"
_EVENTS: Final = b"text/event-stream"


class StreamWatcher:
    """One answer's body on its way to the caller, and the lease that it holds.

    The methods that end it do so once; their ``a...`` twins are for stores that suspend.
    """

    __slots__ = (
        "_chunks",
        "_inflate",
        "_kept",
        "_lease",
        "_plan",
        "_provider",
        "_streams",
        "done",
        "note",
    )

    def __init__(
        self, lease: Lease, provider: Provider, plan: Plan, content_type: str, encoding: str
    ) -> None:
        self.done = False
        #: Is told the beginning of the body, once.
        self.note: Callable[[bytes, str], None] | None = None
        self._lease = lease
        self._provider = provider
        self._plan = plan
        self._streams = content_type.startswith("text/event-stream")
        self._inflate = _inflater(encoding)
        self._chunks: deque[bytes] = deque()
        self._kept = 0

    def feed(self, chunk: bytes) -> None:
        """Keep the end of what passed. It runs for every chunk, so nothing is parsed here."""
        if self._inflate is not None:
            chunk = self._inflate(chunk)
        if self.note is not None and chunk:
            self.note(chunk, self._lease.key_id)
            self.note = None
        self._chunks.append(chunk)
        self._kept += len(chunk)
        while self._kept - len(self._chunks[0]) >= TAIL:
            self._kept -= len(self._chunks.popleft())

    @property
    def drains(self) -> bool:
        """Whether the stream said ``[DONE]``: only the transfer's terminator is still to come."""
        return self._streams and self._tail().rstrip().endswith(_DONE)

    def end(self, *, whole: bool) -> None:
        """End the lease: the body was read to its end, or closed before that."""
        if not self.done:
            self.done = True
            failed, usage = self._judged(whole)
            if failed is not None:
                self._lease.fail(failed)
            else:
                charged = self._provider.charge(self._plan, usage)
                self._lease.complete(charged, usage)

    async def aend(self, *, whole: bool) -> None:
        """Do as `end`."""
        if not self.done:
            self.done = True
            failed, usage = self._judged(whole)
            if failed is not None:
                await self._lease.afail(failed)
            else:
                charged = self._provider.charge(self._plan, usage)
                await self._lease.acomplete(charged, usage)

    def fail(self, outcome: Outcome) -> None:
        """End the lease: the connection broke while the body came."""
        if not self.done:
            self.done = True
            self._lease.fail(outcome)

    async def afail(self, outcome: Outcome) -> None:
        """Do as `fail`."""
        if not self.done:
            self.done = True
            await self._lease.afail(outcome)

    def _judged(self, whole: bool) -> tuple[Outcome | None, Usage | None]:
        """Return what went wrong, if anything did, and what the answer says it used."""
        tail = self._tail()
        if self._streams:
            failed = self._error_in(tail)
            if failed is not None:
                return failed, None
        usage = self._provider.usage(self._plan.endpoint, tail)
        if whole or usage is not None or (self._streams and tail.rstrip().endswith(_DONE)):
            return None, usage
        return ABANDONED, None

    def _error_in(self, tail: bytes) -> Outcome | None:
        """Return the error that a stream ended with: it is among the last events, or none."""
        if b'"error"' not in tail:
            return None
        for event in tail.replace(b"\r\n", b"\n").split(b"\n\n"):
            if b'"error"' in event:
                failed = self._provider.read_event(event)
                if failed is not None:
                    return failed
        return None

    def _tail(self) -> bytes:
        return b"".join(self._chunks)[-TAIL:]


def inflated(body: bytes, encoding: str) -> bytes:
    """Return a whole body without its compression; ``b""`` where that isn't known here."""
    inflate = _inflater(encoding)
    return body if inflate is None else inflate(body)


def _inflater(encoding: str) -> Callable[[bytes], bytes] | None:
    """Return what takes the compression off, chunk by chunk; ``None`` = there is none."""
    match encoding:
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return _Inflate(16 + zlib.MAX_WBITS)
        case "deflate":
            return _Inflate(zlib.MAX_WBITS)
        case _:
            return lambda chunk: b""


class _Inflate:
    """Incremental zlib that gives up in silence: the caller's own decoder will complain."""

    __slots__ = ("_zlib",)

    def __init__(self, window: int) -> None:
        self._zlib = zlib.decompressobj(window)

    def __call__(self, chunk: bytes) -> bytes:
        try:
            return self._zlib.decompress(chunk)
        except zlib.error:
            return b""


# What nobody closed

_buried: Final[SimpleQueue[Callable[[], None]]] = SimpleQueue()  # its `put` may be re-entered
_start: Final = Lock()
_digger: Thread | None = None
_collector = 0  # the thread in which garbage is being collected now


def dig() -> None:
    """See to it that what is buried is seen to; before a stream is handed out."""
    global _digger  # noqa: PLW0603 - one thread for the process; a fork needs its own
    if _digger is not None and _digger.is_alive():
        return
    with _start:
        if _notice not in gc.callbacks:
            gc.callbacks.append(_notice)
        if _digger is None or not _digger.is_alive():
            _digger = Thread(target=_dig, name="quotafleet-dropped-streams", daemon=True)
            _digger.start()


def bury(last_rites: Callable[[], None]) -> None:
    """Run `last_rites` soon, in a thread that holds no lock. Destructors may call it."""
    _buried.put(last_rites)


def in_destructor() -> bool:
    """Whether this runs inside a garbage collection, and so perhaps inside any lock.

    A generator that is collected runs its ``finally``: the SDKs close their responses there.
    """
    return _collector == get_ident()


def _notice(phase: str, info: object) -> None:
    global _collector  # noqa: PLW0603 - collections don't overlap
    _collector = get_ident() if phase == "start" else 0


def _dig() -> None:
    while True:
        try:
            _buried.get()()
        except Exception:  # noqa: S110 - nobody is left to be told
            pass
