"""The pool's refusals as LiteLLM's own errors, so that fallbacks and handlers know them."""

from __future__ import annotations

from math import ceil

import httpx
from litellm import exceptions as errors

from quotafleet.errors import CannotServe, ConfigError, PoolClosed, TooLarge


def refusal(error: CannotServe | PoolClosed | ConfigError, model: str) -> Exception:
    """Return the error of LiteLLM's that stands for one of the pool's.

    It tells the Router not to try again: the pool has waited as long as was allowed, and what it
    refuses then stays refused. Fallbacks to other groups are tried.
    """
    message = f"quotafleet: {error}"
    found: Exception
    if isinstance(error, TooLarge | ConfigError):
        found = errors.BadRequestError(message=message, model=model, llm_provider="quotafleet")
    elif isinstance(error, PoolClosed):
        found = errors.ServiceUnavailableError(
            message=message, model=model, llm_provider="quotafleet"
        )
    else:
        found = errors.RateLimitError(
            message=message, model=model, llm_provider="quotafleet", response=_response(error)
        )
    found.num_retries = 0  # the Router reads it off any exception
    return found


def _response(error: CannotServe) -> httpx.Response:
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(ceil(error.retry_after))
    return httpx.Response(
        429, headers=headers, request=httpx.Request("POST", "http://quotafleet.invalid/v1")
    )
