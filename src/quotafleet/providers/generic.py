"""Any endpoint that speaks OpenAI's protocol and is not OpenAI.

Requests have OpenAI's shape and are estimated alike; limits, headers and error codes are read as
far as they follow OpenAI, the IETF's RateLimit fields, or common wording. Every model has its own
bucket, and real usage replaces the estimate when a call is settled, since most providers count it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..keys import ApiKey
from ..limits import MINUTE, MONTH, Metric
from ..outcomes import OK, Kind, Observation, Outcome, Reading
from ..protocols import Plan, TokenCounter
from ..tokens import bytes4
from ..usage import Usage
from . import _durations, _errors, _ratelimit_fields
from ._errors import Rule
from ._headers import Fields, bucket, sane
from .openai import _estimate, _usage
from .openai._estimate import Reserve
from .openai._taxonomy import RULES as OPENAI_RULES

#: Suffix of ``x-ratelimit-{limit,remaining,reset}-`` -> what it counts, and the period that the
#: name tells. The later ones are Mistral's.
_GROUPS: Final = (
    ("requests", Metric.REQUESTS, None),
    ("tokens", Metric.TOKENS, None),
    ("input-tokens", Metric.INPUT_TOKENS, None),
    ("output-tokens", Metric.OUTPUT_TOKENS, None),
    ("req-minute", Metric.REQUESTS, MINUTE),
    ("tokens-minute", Metric.TOKENS, MINUTE),
    ("tokens-month", Metric.TOKENS, MONTH),
)


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


#: What other providers say, before OpenAI's own rows.
RULES: Final = (
    # Gemini words its rate limits like OpenAI's empty purse.
    Rule(
        kind=Kind.RATE_LIMITED,
        scope="owner",
        types=frozenset({"RESOURCE_EXHAUSTED"}),
        model_only=True,
    ),
    Rule(
        kind=Kind.KEY_INVALID,
        scope="key",
        text=_text(r"API[ _]key (?:is )?(?:not valid|invalid)|invalid API[ _]key"),
        statuses=frozenset({400, 401, 403}),
    ),
    Rule(
        kind=Kind.QUOTA_EXHAUSTED,
        scope="organization",
        text=_text(r"insufficient (?:balance|credits|funds)|credit balance is too low"),
        statuses=frozenset({400, 402, 403, 429}),
    ),
    # Another's limit, behind the one that was asked (OpenRouter), or nobody's (Azure).
    Rule(
        kind=Kind.OVERLOADED,
        scope="provider",
        text=_text(r"rate-limited upstream|high demand|temporarily unable"),
        statuses=frozenset({429, 503}),
        model_only=True,
    ),
    Rule(
        kind=Kind.OVERLOADED,
        scope="provider",
        codes=frozenset({"no_capacity", "capacity_exceeded"}),
        model_only=True,
    ),
    Rule(
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        text=_text(r"\bmodel\b.{0,200}\bnot found"),
        statuses=frozenset({404}),
        model_only=True,
    ),
    Rule(
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        codes=frozenset({"DeploymentNotFound"}),
        model_only=True,
    ),
    Rule(kind=Kind.CONTENT, codes=frozenset({"content_filter"})),
    *OPENAI_RULES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generic:
    """The rules of an OpenAI-compatible endpoint, as a `Provider`.

    Args:
        name: its name in a configuration.
        base_url: where requests go; a key must name its own where this is empty.
        reserve: as for `OpenAI`. Take ``"max_tokens"`` where the provider counts ``max_tokens``
            at admission (Azure OpenAI and Cerebras document that).
        count_tokens: as for `OpenAI`.
    """

    name: str = "generic"
    base_url: str = ""
    reserve: Reserve = "auto"
    count_tokens: TokenCounter = bytes4

    def family(self, model: str) -> str:
        """Return the model's own name: which models share a limit is not known."""
        return model

    def plan(self, method: str, path: str, content_type: str, body: bytes) -> Plan:
        """Read a request as OpenAI would."""
        policy = _estimate.Policy(reserve=self.reserve, count_tokens=self.count_tokens)
        return _estimate.plan(method, path, content_type, body, policy)

    def credentials(self, key: ApiKey) -> Mapping[str, str | None]:
        """Return the key as a bearer token; ids of OpenAI's are nobody else's business."""
        return {
            "authorization": f"Bearer {key.secret.reveal()}",
            "openai-organization": None,
            "openai-project": None,
        }

    def observe(self, status: int, headers: Mapping[str, str]) -> Observation:
        """Read ``x-ratelimit-*`` headers, and RateLimit fields where there are none."""
        fields = Fields(headers)
        found = (_reading(fields, headers, *group) for group in _GROUPS)
        readings = tuple(reading for reading in found if reading is not None)
        if not readings:
            readings = tuple(_ratelimit_fields.readings(fields, headers))
        return Observation(readings=readings, ignored=fields.ignored)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Read what an answer meant."""
        if 200 <= status < 300:
            return OK
        return _errors.outcome(_errors.fault(status, body), RULES, headers)

    def read_event(self, data: bytes) -> Outcome | None:
        """Read an event of a stream; ``None`` = no error."""
        return _errors.event(data, RULES)

    def usage(self, endpoint: str, tail: bytes) -> Usage | None:
        """Read real usage from the end of an answer; ``None`` = not there."""
        return _usage.usage(tail)

    def charge(self, plan: Plan, usage: Usage | None) -> Usage:
        """Return what was really used where it is known, else the estimate."""
        return _usage.charge(plan, usage, true_up=frozenset({plan.endpoint}))


def _reading(
    fields: Fields, headers: Mapping[str, str], suffix: str, metric: Metric, period: float | None
) -> Reading | None:
    limit = fields.count(f"x-ratelimit-limit-{suffix}")
    remaining = fields.count(f"x-ratelimit-remaining-{suffix}")
    if limit is None or remaining is None or not sane(fields, limit, remaining):
        return None
    # A bare number may be seconds or milliseconds (Azure sends both): it tells nothing.
    reset = _durations.duration(headers.get(f"x-ratelimit-reset-{suffix}", ""))
    found = bucket(metric, limit, remaining, reset)
    if period is None:
        return found
    return Reading(metric=metric, limit=limit, level=found.level, period=period)
