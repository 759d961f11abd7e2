"""The RateLimit fields of the IETF drafts (draft-ietf-httpapi-ratelimit-headers).

    -08 to -11  RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400
                RateLimit: "burst";r=50;t=30
    -07         RateLimit-Policy: 100;w=60      RateLimit: limit=100, remaining=50, reset=30
    to -06      RateLimit-Policy: 100;w=60      RateLimit-Limit, -Remaining, -Reset

q and limit are the quota, w the window in seconds, r and remaining what is left. Windows may be
fixed, so that the time until the reset says nothing of the level.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ..limits import Metric
from ..outcomes import Reading
from ._durations import LONGEST
from ._headers import Fields, amount, bucket, sane

#: Characters. No list of policies is longer.
_READ: Final = 1_000
#: A member of a structured list, and a part of a member; quoted strings may hold separators.
_MEMBER: Final = re.compile(r'(?:"[^"]*"|[^",])+')
_PART: Final = re.compile(r'(?:"[^"]*"|[^";])+')


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """``"name";key=value``, or a bare ``key=value`` of the older drafts."""

    names: tuple[str, ...]
    parameters: Mapping[str, str]

    def number(self, key: str) -> float | None:
        """Return a parameter that counts something."""
        return amount(self.parameters.get(key, ""))


def readings(fields: Fields, headers: Mapping[str, str]) -> Iterator[Reading]:
    """Yield what the fields tell, in whichever draft's form."""
    policies = list(_members(headers.get("ratelimit-policy", "")))
    states = list(_members(headers.get("ratelimit", "")))
    if any("remaining" in state.parameters for state in states):
        merged = {key: value for state in states for key, value in state.parameters.items()}
        yield from _plain(
            fields, amount(merged.get("limit", "")), amount(merged["remaining"]), policies
        )
    elif states:
        for state in states:
            yield from _named(fields, state, policies)
    elif "ratelimit-remaining" in headers:
        told = next(_members(headers.get("ratelimit-limit", "")), None)
        limit = amount(told.names[0]) if told and told.names else None
        yield from _plain(fields, limit, fields.count("ratelimit-remaining"), policies)


def _named(fields: Fields, state: _Member, policies: list[_Member]) -> Iterator[Reading]:
    """Yield the state of a named policy; a policy that is alone may have another name."""
    policy = next((one for one in policies if set(one.names) & set(state.names)), None)
    if policy is None and len(policies) == 1:
        policy = policies[0]
    metric = _metric(policy) if policy else None
    limit = policy.number("q") if policy else None
    remaining = state.number("r")
    if remaining is None:
        fields.ignored += 1
    elif policy and metric is not None and limit and sane(fields, limit, remaining):
        yield _reading(metric, limit, remaining, policy)


def _plain(
    fields: Fields, limit: float | None, remaining: float | None, policies: list[_Member]
) -> Iterator[Reading]:
    """Yield the state of the older drafts, whose policies are told by their quota."""
    policy = next((one for one in policies if one.names and amount(one.names[0]) == limit), None)
    if limit is not None and remaining is not None and sane(fields, limit, remaining):
        yield _reading(Metric.REQUESTS, limit, remaining, policy)


def _reading(metric: Metric, limit: float, remaining: float, policy: _Member | None) -> Reading:
    window = policy.number("w") if policy else None
    found = bucket(metric, limit, remaining, None)
    if not window or window > LONGEST:
        return found
    return Reading(metric=metric, limit=limit, level=found.level, period=window)


def _metric(policy: _Member) -> Metric | None:
    """Return what a policy counts; ``None`` = something else than requests and tokens."""
    unit = policy.parameters.get("qu", "").strip('"').lower()
    if "token" in (unit or " ".join(policy.names).lower()):
        return Metric.TOKENS
    return Metric.REQUESTS if unit in ("", "requests") else None


def _members(text: str) -> Iterator[_Member]:
    for member in _MEMBER.findall(text[:_READ]):
        parts = [part.strip() for part in _PART.findall(member)]
        pairs = (part.partition("=") for part in parts if not part.startswith('"'))
        yield _Member(
            names=tuple(
                part.strip('"') for part in parts if part.startswith('"') or "=" not in part
            ),
            parameters={key.strip().lower(): value.strip() for key, equal, value in pairs if equal},
        )
