"""What OpenAI's errors mean.

From the pages "Error codes" and "Rate limits" (autumn 2026), their earlier texts since 2023, and
245 recorded error answers (2023-10 to 2026-08). Rows are tried in order: codes and types, then
wordings, then the status; the last row fits everything.
"""

from __future__ import annotations

import re
from typing import Final

from ...limits import MONTH, Metric
from ...outcomes import Kind
from .._errors import Rule


def _any(*names: str) -> frozenset[str]:
    return frozenset(names)


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


#: Statuses of refusals for want of something, and of errors inside a stream (as 500).
_BUSY: Final = frozenset({429, 500, 502, 503, 504, 529})
_UNPAID: Final = frozenset({400, 402, 403, 429})
_UNKNOWN: Final = frozenset({400, 403, 404})

_OVERLOADED: Final = _text(r"\boverloaded\b")
_TOO_LARGE: Final = _text(r"^Request too large for")

CODES: Final = (
    # Quota: money, not rate. Spend limits end with the month, unless somebody raises them.
    Rule(
        kind=Kind.QUOTA_EXHAUSTED,
        scope="project",
        codes=_any("project_spend_limit_exceeded"),
        metric=Metric.SPEND,
        period=MONTH,
    ),
    Rule(
        kind=Kind.QUOTA_EXHAUSTED,
        scope="organization",
        codes=_any("organization_spend_limit_exceeded", "organization_usage_limit_exceeded"),
        metric=Metric.SPEND,
        period=MONTH,
    ),
    Rule(
        kind=Kind.QUOTA_EXHAUSTED,
        scope="organization",
        codes=_any(
            "credit_balance_exhausted",
            "insufficient_quota",
            "billing_not_active",
            "billing_hard_limit_reached",
        ),
    ),
    Rule(
        kind=Kind.TOO_LARGE,
        scope="owner",
        codes=_any("rate_limit_exceeded"),
        text=_TOO_LARGE,
        model_only=True,
    ),
    # An overloaded model was "rate_limit_exceeded" too before autumn 2026 (video endpoints).
    Rule(
        kind=Kind.OVERLOADED,
        scope="provider",
        codes=_any("rate_limit_exceeded"),
        text=_OVERLOADED,
        model_only=True,
    ),
    Rule(
        kind=Kind.RATE_LIMITED,
        scope="owner",
        codes=_any("rate_limit_exceeded"),
        model_only=True,
    ),
    Rule(kind=Kind.SLOW_DOWN, scope="owner", codes=_any("slow_down"), model_only=True),
    Rule(
        kind=Kind.OVERLOADED,
        scope="provider",
        codes=_any("server_is_overloaded", "resource_unavailable"),
        model_only=True,
    ),
    # Every key is refused from this address, or this key is.
    Rule(
        kind=Kind.ACCESS_DENIED,
        scope="provider",
        codes=_any("unsupported_country_region_territory"),
    ),
    Rule(kind=Kind.ACCESS_DENIED, scope="key", codes=_any("ip_not_authorized")),
    Rule(kind=Kind.KEY_INVALID, scope="key", codes=_any("invalid_api_key")),
    Rule(
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        codes=_any("model_not_found"),
        model_only=True,
    ),
    # A property of the model: no owner could serve it.
    Rule(
        kind=Kind.TOO_LARGE,
        codes=_any("context_length_exceeded", "string_above_max_length"),
    ),
    Rule(
        kind=Kind.CONTENT,
        codes=_any("content_policy_violation", "moderation_blocked", "invalid_prompt"),
    ),
)

TYPES: Final = (
    Rule(kind=Kind.QUOTA_EXHAUSTED, scope="organization", types=_any("insufficient_quota")),
    Rule(kind=Kind.QUOTA_EXHAUSTED, scope="organization", types=_any("billing_limit_user_error")),
)

WORDINGS: Final = (
    Rule(
        kind=Kind.QUOTA_EXHAUSTED,
        scope="organization",
        text=_text(
            r"exceeded your current quota|no credits remaining|account is not active"
            r"|Billing hard limit"
        ),
        statuses=_UNPAID,
    ),
    Rule(
        kind=Kind.OVERLOADED,
        scope="provider",
        text=_text(r"\boverloaded\b|\bResource Unavailable\b"),
        statuses=_BUSY,
        model_only=True,
    ),
    Rule(
        kind=Kind.TOO_LARGE,
        scope="owner",
        text=_TOO_LARGE,
        statuses=frozenset({429}),
        model_only=True,
    ),
    Rule(
        kind=Kind.TOO_LARGE,
        text=_text(r"maximum context length|exceeds the context window"),
        statuses=frozenset({400, 413, 422}),
    ),
    Rule(
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        text=_text(
            r"does not have access to model|\bmodel .{1,200} does not exist"
            r"|must be verified to use the model"
        ),
        statuses=_UNKNOWN,
        model_only=True,
    ),
    Rule(
        kind=Kind.ACCESS_DENIED,
        scope="provider",
        text=_text(r"country, region, or territory not supported"),
        statuses=frozenset({403}),
    ),
    Rule(
        kind=Kind.ACCESS_DENIED,
        scope="key",
        text=_text(r"\bIP\b.{0,80}not authorized"),
        statuses=frozenset({401, 403}),
    ),
    # The key works, but not at this endpoint.
    Rule(
        name="missing scopes",
        kind=Kind.ACCESS_DENIED,
        text=_text(r"insufficient permissions|missing scopes"),
        statuses=frozenset({401, 403}),
    ),
    Rule(
        kind=Kind.KEY_INVALID,
        scope="key",
        text=_text(r"Incorrect API key provided"),
        statuses=frozenset({400, 401, 403}),
    ),
)

STATUSES: Final = (
    # A page of something in front of the API (a proxy, a firewall) says nothing of the key.
    Rule(
        kind=Kind.SERVER_ERROR,
        scope="provider",
        statuses=frozenset({401, 403, 404, 407}),
        gateway=True,
        certain=False,
        name="page of a gateway",
    ),
    # Without a code that names the key it may be the request, or a gateway that is out of order.
    Rule(name="status 401", kind=Kind.KEY_INVALID, statuses=frozenset({401}), certain=False),
    Rule(kind=Kind.QUOTA_EXHAUSTED, scope="organization", statuses=frozenset({402})),
    Rule(name="status 403", kind=Kind.ACCESS_DENIED, statuses=frozenset({403}), certain=False),
    Rule(kind=Kind.TIMEOUT, scope="provider", statuses=frozenset({408, 504, 524})),
    Rule(kind=Kind.CONFLICT, statuses=frozenset({409})),
    Rule(kind=Kind.TOO_LARGE, statuses=frozenset({413})),
    Rule(kind=Kind.RATE_LIMITED, scope="owner", statuses=frozenset({429}), model_only=True),
    Rule(
        kind=Kind.OVERLOADED,
        scope="provider",
        statuses=frozenset({498, 503, 529}),
        model_only=True,
    ),
    Rule(kind=Kind.BAD_REQUEST, types=_any("invalid_request_error")),
    Rule(kind=Kind.SERVER_ERROR, scope="provider", statuses=range(500, 1_000)),
    Rule(name="unknown status", kind=Kind.BAD_REQUEST, certain=False),
)

RULES: Final = (*CODES, *TYPES, *WORDINGS, *STATUSES)
