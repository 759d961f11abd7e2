"""An inner transport for each event loop that a client is used in."""

from __future__ import annotations

import asyncio
import copy
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary


class Loops:
    """An inner transport for each event loop: a connection belongs to the loop that opened it.

    Several ``asyncio.run`` with one client would otherwise end in "Event loop is closed". Each
    loop's connections are closed with it, by an asynchronous generator that the loop shuts down.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # guards the table; each loop's own entry is its own
        self._table: WeakKeyDictionary[AbstractEventLoop, dict[Any, tuple[Any, Any]]]
        self._table = WeakKeyDictionary()

    async def local(self, transport: Any) -> Any:
        """Return this loop's own one of a transport; of kinds not known here, the same."""
        loop = asyncio.get_running_loop()
        clones = self._table.get(loop)
        if clones is None:
            clones = self._enter(loop)
        found = clones.get(transport)
        if found is None:
            clone = _cloned(transport)
            guard = None if clone is transport else self._closed_with(loop, clone)
            found = clones[transport] = clone, guard
            if guard is not None:
                await anext(guard)
        return found[0]

    def _enter(self, loop: AbstractEventLoop) -> dict[Any, tuple[Any, Any]]:
        with self._lock:
            for other in [other for other in self._table if other.is_closed()]:
                del self._table[other]  # its connections refer to it: it would never go by itself
            return self._table.setdefault(loop, {})

    async def _closed_with(self, loop: AbstractEventLoop, clone: Any) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._table.pop(loop, None)
            await clone.aclose()

    async def aclose(self) -> None:
        """Close what this loop has open."""
        for _, guard in self._table.pop(asyncio.get_running_loop(), {}).values():
            if guard is not None:
                await guard.aclose()


def _cloned(transport: Any) -> Any:
    """Return a transport with the same settings and no connections; itself if that can't be done.

    Proxies, TLS contexts and socket options are known only to the transport itself, so its pool is
    copied, all but what it holds. Both families keep that in two lists.
    """
    pool = getattr(transport, "_pool", None)
    kept = ("_connections", "_requests")
    if not all(isinstance(getattr(pool, name, None), list) for name in kept):
        return transport
    twin, twin_pool = copy.copy(transport), copy.copy(pool)
    for name in kept:
        setattr(twin_pool, name, [])
    twin._pool = twin_pool
    return twin
