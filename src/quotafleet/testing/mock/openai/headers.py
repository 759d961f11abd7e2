"""The response headers of the OpenAI API.

Recorded traffic, 2023-10..2026-08: which headers come with which answer, and that a project's own
limits are shown beside the organisation's only where the project has them.
"""

from __future__ import annotations

import math
from typing import Final

from ..bucket import go_ms, remaining
from ..exchange import Exchange, Headers
from .ids import request_id

_VERSION: Final = "2020-10-01"


def write_headers(exchange: Exchange) -> Headers:
    """Write every header but those of the body."""
    seconds = exchange.ttft_s if exchange.call.stream else exchange.latency_s
    headers = [
        ("openai-processing-ms", str(int(seconds * 1000))),
        ("openai-version", _VERSION),
        ("x-request-id", request_id(exchange)),
    ]
    if exchange.key is not None:
        headers.append(("openai-organization", exchange.key.org.spec.id))
        headers.append(("openai-project", exchange.key.project.spec.id))
    headers += _limits(exchange)
    headers += _advice(exchange)
    return headers


def _limits(exchange: Exchange) -> Headers:
    """Write limit, remaining and reset of every bucket that concerns the request."""
    chain, route, problem = exchange.chain, exchange.route, exchange.problem
    if chain is None or route is None or not route.rate_headers:
        return []
    if not chain.rules.stated:
        return []
    if problem is not None and not problem.limited:
        return []
    headers: Headers = []
    for (name, limiter), level in zip(chain.shown, exchange.levels, strict=False):
        if name.endswith("tokens") and not exchange.profile.counts_tokens:
            continue
        if name == "input-images" and not exchange.call.ask.images:
            continue
        reset = go_ms(limiter.reset_s(level))
        values = (f"{limiter.limit:.0f}", str(remaining(level)), reset)
        for kind, value in zip(_KINDS, _spoiled(exchange, values), strict=True):
            headers.append((f"x-ratelimit-{kind}-{name}", value))
    return headers


_KINDS: Final = ("limit", "remaining", "reset")


def _spoiled(exchange: Exchange, values: tuple[str, str, str]) -> tuple[str, str, str]:
    """Return the values, or what a fault puts in their place."""
    match exchange.fault and exchange.fault.action:
        case "malformed_headers":
            return ("unlimited", "", "soon")
        case "negative_headers":
            return ("-1", "-1", "0")
        case "odd_reset" if exchange.fault is not None:
            return (*values[:2], go_ms(exchange.fault.seconds))
        case _:
            return values


def _advice(exchange: Exchange) -> Headers:
    """Write when, and whether, to come again."""
    problem, settings = exchange.problem, exchange.provider.settings
    if problem is None:
        return []
    headers: Headers = []
    wait_s = problem.retry_after_s
    if wait_s is not None and settings.retry_after:
        headers.append(("retry-after", str(max(1, math.ceil(wait_s)))))
    if wait_s is not None and settings.retry_after_ms:
        headers.append(("retry-after-ms", str(math.ceil(wait_s * 1000))))
    if settings.x_should_retry and problem.status >= 429:
        hopeless = problem.type == "insufficient_quota" or problem.reason == "too_large"
        headers.append(("x-should-retry", "false" if hopeless else "true"))
    return headers
