"""The end of an attempt, told by the place that it holds in LiteLLM.

Around every asynchronous attempt a Router enters the object that its `_get_client` returns for
``"max_parallel_requests"``, and leaves it on every path: at the answer, at a failure, at a
cancellation, when a stream is closed. That is the only certain news of the last two. Both names
are private to LiteLLM: where they are missing, a lost attempt ends when its data is collected
(`_open_attempts.Token`). Older versions enter a semaphore, and leave it before a stream is read.

It also lifts LiteLLM's own limits off: they are the pool's now.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from . import _open_attempts
from ._responses import failure_headers, outcome_of

try:
    from litellm.router_utils import client_initalization_utils as _utils
except ImportError:  # another version of LiteLLM
    _Limit: Any = None
else:
    _Limit = getattr(_utils, "MaxParallelRequestsLimit", None)

_PARALLEL: Final = "max_parallel_requests"
_GONE: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class _Notice:
    """Is entered and left with an attempt; never refuses."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A stream's place is left in a `finally`: what runs through that says why.
        cause = error if error is not None else sys.exc_info()[1]
        if isinstance(cause, _GONE):
            self._end(None)
        elif error is not None:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        held = _open_attempts.take(self._data)
        if held is None:
            return
        if error is None:
            held.lease.abandon()
        else:
            held.failed(outcome_of(held.provider, error), failure_headers(error))


class _Semaphore(_Notice, asyncio.Semaphore):
    """What LiteLLM took for a limit before 2026; it is left before a stream is read."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *told: Any) -> None:
        self.__exit__(*told)


def _slot_class() -> type[_Notice]:
    if _Limit is None:
        return _Semaphore
    return type("Slot", (_Notice, _Limit), {})


_Slot: Final[type[_Notice] | None] = _slot_class()


def slots(router: Any) -> None:
    """Let a Router's attempts tell of their end, if it can."""
    original = getattr(router, "_get_client", None)
    if callable(original):
        router._get_client = _Clients(original)


class _Clients:
    """`Router._get_client`, with a notice in the place of a limit."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original

    def __call__(
        self, deployment: Any, kwargs: Any, client_type: str | None = None, **more: Any
    ) -> Any:
        if client_type != _PARALLEL:
            return self._original(deployment, kwargs, client_type=client_type, **more)
        if _Slot is None or _open_attempts.find(deployment) is None:
            return None
        # The deployment's own copy names the lease; the arguments may be another attempt's by now.
        return _Slot({"model_info": deployment.get("model_info")})
