"""What quotafleet concludes from one answer: how users report a misreading, and how tests judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .errors import ConfigError
from .outcomes import OK, Kind, Outcome
from .protocols import Provider
from .providers import provider as provider_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What one answer means.

    Args:
        kind: ``"ok"``, ``"rate_limited"``, ``"quota_exhausted"``, ``"overloaded"``, ...
        subject: whom it concerns: ``"nobody"``, ``"request"``, ``"key"``, ``"project"``,
            ``"owner"``, ``"owner+model"``, ``"provider"`` or ``"provider+model"``.
        action: what a pool does next, in a few words.
        seconds: after which it passes, as the answer states; ``None``: not stated.
        metric: which limit refused: ``"REQUESTS"``, ``"TOKENS"``, ...; ``None``: not stated.
        period: its period in seconds; ``None``: not stated.
        limit: the limit; ``None``: not stated.
        charged: whether the provider counted the attempt's tokens.
        limits: ``(metric, period, limit, remaining)`` of each limit that the headers state.
        rule: the name of the row that decided.
    """

    kind: str
    subject: str
    action: str
    seconds: float | None
    metric: str | None
    period: float | None
    limit: float | None
    charged: bool
    limits: tuple[tuple[str, float | None, float, float], ...]
    rule: str


_ACTIONS: Final = {
    Kind.OK: "use the answer",
    Kind.RATE_LIMITED: "wait, or ask another owner",
    Kind.SLOW_DOWN: "wait, and send more slowly",
    Kind.QUOTA_EXHAUSTED: "park the owner and probe it; ask another owner",
    Kind.KEY_INVALID: "take the key out of use once a second request confirms it; probe it later",
    Kind.ACCESS_DENIED: "ask another owner; probe this one later",
    Kind.TOO_LARGE: "raise: no owner could serve it",
    Kind.OVERLOADED: "let the model rest; ask another owner",
    Kind.SERVER_ERROR: "ask another owner; let this one rest if it goes on",
    Kind.TIMEOUT: "ask another owner; let this one rest if it goes on",
    Kind.NETWORK: "ask another owner; let this one rest if it goes on",
    Kind.BAD_REQUEST: "raise: the request is wrong",
    Kind.CONFLICT: "try once more",
    Kind.CONTENT: "raise: the provider refuses the content",
    Kind.CANCELLED: "nothing: the caller gave up",
}
_UNCERTAIN: Final = "ask one other owner for a second opinion, then raise"
_WITHIN_AN_OWNER: Final = "ask an owner with a larger limit, else raise"


def explain(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    provider: str | Provider = "generic",
    stream: bool = False,
) -> Explanation:
    """Return what an answer means by a provider's rules.

    Args:
        status: of the HTTP answer.
        headers: names in any case.
        body: the whole body, or one event of a stream.
        provider: whose rules, by name or as an object.
        stream: `body` is an event of a stream that began with `status`.

    Raises:
        ConfigError: the provider is unknown, or the status is none of HTTP's.
    """
    if not 100 <= status <= 999:
        raise ConfigError(f"{status} is no HTTP status", cure="Give one from 100 to 999")
    rules = provider_named(provider) if isinstance(provider, str) else provider
    lower = {name.lower(): value for name, value in headers.items()}
    outcome = (rules.read_event(body) or OK) if stream else rules.read(status, lower, body)
    readings = rules.observe(status, lower).readings
    return Explanation(
        kind="too_large" if outcome.kind is Kind.TOO_LARGE else outcome.kind.value,
        subject=_subject(outcome),
        action=_action(outcome),
        seconds=outcome.retry_after,
        metric=None if outcome.metric is None else outcome.metric.name,
        period=outcome.period,
        limit=outcome.limit,
        charged=outcome.charged,
        limits=tuple((one.metric.name, one.period, one.limit, one.level) for one in readings),
        rule=outcome.rule or outcome.kind.value,
    )


def _subject(outcome: Outcome) -> str:
    if outcome.scope is None:
        refused = (Kind.KEY_INVALID, Kind.ACCESS_DENIED)
        return "request" if outcome.kind in refused else "nobody"
    if outcome.scope in ("key", "project") and not outcome.model_only:
        return outcome.scope
    whose = "provider" if outcome.scope == "provider" else "owner"
    return f"{whose}+model" if outcome.model_only else whose


def _action(outcome: Outcome) -> str:
    if outcome.kind is Kind.TOO_LARGE and outcome.scope is not None:
        return _WITHIN_AN_OWNER
    if not outcome.certain and outcome.kind in (
        Kind.BAD_REQUEST,
        Kind.KEY_INVALID,
        Kind.ACCESS_DENIED,
    ):
        return _UNCERTAIN
    return _ACTIONS[outcome.kind]
