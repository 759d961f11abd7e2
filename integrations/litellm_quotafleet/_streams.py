"""Streams of plain calls: LiteLLM's own, that end their lease when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from . import _open_attempts
from ._open_attempts import Held
from ._responses import failure_headers, outcome_of, usage_of


def _closer(stream: object, name: str) -> Callable[[], Any] | None:
    """Return what closes the connection behind a stream: LiteLLM wraps it several times."""
    for _ in range(4):
        close = getattr(stream, name, None)
        if callable(close):
            return close  # type: ignore[no-any-return]
        stream = getattr(stream, "completion_stream", None) or getattr(stream, "response", None)
    return None


class _Watched:
    """A stream and its lease; whatever else is asked of it, LiteLLM's stream answers."""

    def __init__(self, inner: Any, held: Held) -> None:
        self._inner = inner
        self._last: object = None
        # The token's only home: a stream that is dropped ends its lease.
        self._data = {"metadata": {_open_attempts.KEY: _open_attempts.bind(held)}}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def _passed(self, chunk: Any) -> Any:
        if usage_of(chunk) is not None:
            self._last = chunk
        return chunk


class Stream(_Watched):
    """A synchronous stream of chunks."""

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        try:
            return self._passed(next(self._inner))
        except StopIteration:
            self._end(None)
            raise
        except Exception as error:  # whatever LiteLLM raises ends the lease
            self._end(error)
            raise

    def close(self) -> None:
        """End the stream half-way."""
        held = _open_attempts.take(self._data)
        if held is not None:
            held.lease.abandon()
        close = _closer(self._inner, "close")
        if close is not None:
            close()

    def _end(self, error: Exception | None) -> None:
        held = _open_attempts.take(self._data)
        if held is None:
            return
        if error is None:
            held.done(usage_of(self._last), {})
        else:
            held.failed(outcome_of(held.provider, error), failure_headers(error))


class AsyncStream(_Watched):
    """An asynchronous stream of chunks."""

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Any:
        try:
            return self._passed(await self._inner.__anext__())
        except StopAsyncIteration:
            await self._end(None)
            raise
        except (Exception, asyncio.CancelledError) as error:  # whatever it is ends the lease
            await self._end(error)
            raise

    async def aclose(self) -> None:
        """End the stream half-way."""
        await self._end(asyncio.CancelledError())
        close = _closer(self._inner, "aclose")
        if close is not None:
            await close()

    async def _end(self, error: BaseException | None) -> None:
        held = _open_attempts.take(self._data)
        if held is None:
            return
        if error is None:
            await held.adone(usage_of(self._last), {})
        elif isinstance(error, asyncio.CancelledError):
            await held.lease.aabandon()
        else:
            await held.afailed(outcome_of(held.provider, error), failure_headers(error))
