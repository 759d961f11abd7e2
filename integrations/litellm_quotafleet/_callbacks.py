"""One listener for the process: LiteLLM's callbacks are global, and so are its ends of attempts.

Which hook comes, and in what order, depends on the endpoint, on sync or async, on streaming and on
LiteLLM's version. All of them take the lease out of one table, so the first one counts.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import litellm
from litellm.integrations.custom_logger import CustomLogger

from . import _open_attempts
from ._responses import failure_headers, from_cache, headers_of, outcome_of, usage_of

if TYPE_CHECKING:
    from .routing import QuotafleetRouting

_RETRIES: Final = "DEFAULT_MAX_RETRIES"
#: Callbacks of LiteLLM that count and refuse by a deployment's ``rpm`` and ``tpm``.
_LIFTED: Final = frozenset({"LowestTPMLoggingHandler_v2", "ModelRateLimitingCheck"})


class RouterCallbacks(CustomLogger):
    """Ends leases when LiteLLM tells how attempts went."""

    # Asynchronous calls

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """Take in an answer before the caller gets it. Streams come later."""
        held = _open_attempts.take(request_data)
        if held is not None:
            await held.adone(usage_of(response), headers_of(response))

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        """Take in a failure before the Router chooses again (LiteLLM from 2026-08)."""
        held = _open_attempts.take(request_data)
        if held is not None:
            await held.afailed(outcome_of(held.provider, exception), failure_headers(exception))

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Take in the end of a stream, and answers that came from LiteLLM's cache."""
        held = _open_attempts.take(kwargs)
        if held is None:
            return
        if from_cache(response_obj, kwargs):
            await held.lease.arelease()
        else:
            await held.adone(usage_of(response_obj), headers_of(response_obj, kwargs))

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Take in a failure: inside a stream, or any in versions without the hook above."""
        held = _open_attempts.take(kwargs)
        if held is not None:
            error = _error(kwargs)
            await held.afailed(outcome_of(held.provider, error), failure_headers(error))

    # Synchronous calls; some come in a worker thread

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Take in an answer, or the end of a stream."""
        held = _open_attempts.take(kwargs)
        if held is None:
            return
        if from_cache(response_obj, kwargs):
            held.lease.release()
        else:
            held.done(usage_of(response_obj), headers_of(response_obj, kwargs))

    def log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Take in a failure before the Router chooses again."""
        held = _open_attempts.take(kwargs)
        if held is not None:
            error = _error(kwargs)
            held.failed(outcome_of(held.provider, error), failure_headers(error))

    # On the way, in any thread

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        """Take in that a request is being sent; notice that a Router no longer asks us."""
        held = _open_attempts.find(kwargs) or _open_attempts.sending.get()
        if held is not None:
            held.sent()
        for routing in list(_routings):
            routing.noticed()


_listener: Final = RouterCallbacks()
_routings: Final[weakref.WeakSet[QuotafleetRouting]] = weakref.WeakSet()
_lifted: Final[weakref.WeakKeyDictionary[QuotafleetRouting, list[Any]]] = (
    weakref.WeakKeyDictionary()
)
_saved: Final[dict[str, Any]] = {}


def begin(routing: QuotafleetRouting, router: Any) -> None:
    """Listen, for a Router that was taken over; lift LiteLLM's own limits and retries off."""
    _routings.add(routing)
    listen()
    own = {id(value) for value in vars(router).values()}
    own |= set(map(id, getattr(router, "optional_callbacks", None) or ()))
    lifted = [cb for cb in litellm.callbacks if id(cb) in own and type(cb).__name__ in _LIFTED]
    litellm.callbacks = [cb for cb in litellm.callbacks if not any(cb is one for one in lifted)]
    _lifted[routing] = lifted
    hidden_retries_off()


def hidden_retries_off() -> None:
    """Let the SDK not retry embeddings: it does by this number, whatever a request says."""
    number = getattr(litellm, _RETRIES, 0)
    if number:  # seen in 1.106.2
        _saved.setdefault(_RETRIES, number)
        setattr(litellm, _RETRIES, 0)


def end(routing: QuotafleetRouting) -> None:
    """Undo `begin`. The listener stays: attempts may still be under way."""
    _routings.discard(routing)
    litellm.callbacks.extend(_lifted.pop(routing, []))
    if not _routings and _RETRIES in _saved:
        setattr(litellm, _RETRIES, _saved.pop(_RETRIES))


def listen() -> None:
    """See to it that LiteLLM tells the listener; `litellm.callbacks` is anybody's to replace."""
    if not any(callback is _listener for callback in litellm.callbacks):
        litellm.callbacks.append(_listener)


def filters(callback: object) -> bool:
    """Whether a callback has a say in which deployments may serve."""
    own = getattr(type(callback), "async_filter_deployments", None)
    return own is not None and own is not getattr(CustomLogger, "async_filter_deployments", None)


def _error(kwargs: Mapping[str, Any]) -> BaseException:
    error = kwargs.get("exception")
    return error if isinstance(error, BaseException) else RuntimeError(str(error))
