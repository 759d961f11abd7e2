"""What a shared store does beside the calls: bring settlements there, and hear of free slots.

Threads of their own, started when first needed and stopped by `close`. They tell no time: they
sleep on events.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock, Thread, current_thread
from typing import Any, Final

#: Seconds that a settlement waits for a claim to ride with, at most.
RIDES_WITHIN: Final = 0.005
#: The same where a future begins soon: then the next call's claim will take it along. What a call
#: used less comes back to others so much later; it lags, and is not lost.
RIDES_LATER: Final = 1.0
#: Seconds between attempts to reach a server that does not answer.
TRY_AGAIN_AFTER: Final = 0.2


class BackgroundWorker:
    """Calls `flush` soon after `nudge`, and `heard` with each message.

    Args:
        flush: brings over what is in the buffer; returns whether that worked.
        subscribe: opens a subscription: something with `get_message(timeout)` and `close()`.
        heard: is given each message's payload.
        due: returns in how many seconds something is to be brought that no nudge tells of; ``None``
            = nothing is.
    """

    def __init__(
        self,
        flush: Callable[[], bool],
        subscribe: Callable[[], Any],
        heard: Callable[[str], None],
        due: Callable[[], float | None],
    ) -> None:
        self._flush = flush
        self._subscribe = subscribe
        self._heard = heard
        self._due = due
        self._lock = Lock()  # guards the two threads
        self._flusher: Thread | None = None
        self._listener: Thread | None = None
        self._some = Event()
        self._hurry = Event()
        self._closed = Event()
        #: Messages reach this process at present.
        self.listening = Event()

    def nudge(self, *, soon: bool) -> None:
        """Say that something is in the buffer; `soon` = others may wait for it."""
        if soon and not self._hurry.is_set():
            self._hurry.set()
        if not self._some.is_set():
            self._some.set()
            if self._flusher is None:
                self._start()

    def listen(self) -> None:
        """Begin to hear messages."""
        with self._lock:
            if self._listener is None and not self._closed.is_set():
                self._listener = Thread(target=self._hear, name="quotafleet-listener", daemon=True)
                self._listener.start()

    def _start(self) -> None:
        with self._lock:
            if self._flusher is None and not self._closed.is_set():
                self._flusher = Thread(target=self._bring, name="quotafleet-flusher", daemon=True)
                self._flusher.start()

    def _bring(self) -> None:
        while True:
            if self._some.wait(self._due()):
                self._hurry.wait(RIDES_LATER)
            self._closed.wait(RIDES_WITHIN)
            self._hurry.clear()
            self._some.clear()
            if self._closed.is_set():  # read after clearing: `close` writes them the other way
                return
            if not self._flush() and not self._closed.wait(TRY_AGAIN_AFTER):
                self._hurry.set()
                self._some.set()

    def _hear(self) -> None:
        while not self._closed.is_set():
            subscription = None
            try:
                subscription = self._subscribe()
                while not self._closed.is_set():
                    message = subscription.get_message(timeout=1.0)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        self.listening.set()
                    elif message["type"] == "message":
                        self._heard(message["data"].decode())
            except Exception:  # the server has gone, whatever redis-py calls it: try again
                self._closed.wait(TRY_AGAIN_AFTER)
            finally:
                self.listening.clear()
                if subscription is not None:
                    subscription.close()

    def close(self) -> None:
        """Stop both threads, and wait until they have."""
        self._closed.set()
        self._some.set()
        self._hurry.set()
        for thread in (self._flusher, self._listener):
            if thread is not None and thread is not current_thread():
                thread.join(timeout=3.0)
