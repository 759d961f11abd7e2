"""Rate-limit headers by name: what each group counts, and over how long.

Providers that copied OpenAI's ``x-ratelimit-*`` names put the period into the suffix, into a header
of its own (Azure), into the reset (OpenAI, Groq), or nowhere (xAI documents minutes). Sources: the
providers' pages of 2026, and recorded answers of 2024-02 to 2026-08.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ..limits import DAY, MINUTE, MONTH, Metric
from ..outcomes import Observation, Reading
from . import _durations, _ratelimit_fields
from ._headers import Fields, bucket, sane

_HOUR: Final = 3_600.0


class Group(NamedTuple):
    """The headers of one bucket.

    Args:
        metric: what they count.
        period: seconds, where the name states it; ``None``: the reset or `renewal` does.
        remaining: the header of what is left.
        reset: the header of when the bucket is full; ``""``: there is none.
        renewal: the header of the period in seconds; ``""``: there is none.
    """

    metric: Metric
    period: float | None
    remaining: str
    reset: str = ""
    renewal: str = ""


def _suffixed(prefix: str, suffix: str, metric: Metric, period: float | None) -> tuple[str, Group]:
    return f"{prefix}-limit-{suffix}", Group(
        metric,
        period,
        f"{prefix}-remaining-{suffix}",
        f"{prefix}-reset-{suffix}",
        f"{prefix}-renewalperiod-{suffix}",
    )


#: Suffix of ``x-ratelimit-{limit,remaining,reset}-`` -> what it counts, and the period.
_SUFFIXES: Final[tuple[tuple[str, Metric, float | None], ...]] = (
    # OpenAI, Azure, Groq, xAI
    ("requests", Metric.REQUESTS, None),
    ("tokens", Metric.TOKENS, None),
    ("input-tokens", Metric.INPUT_TOKENS, None),
    ("output-tokens", Metric.OUTPUT_TOKENS, None),
    # Mistral
    ("req-second", Metric.REQUESTS, 1.0),
    ("req-10-second", Metric.REQUESTS, 10.0),
    ("req-minute", Metric.REQUESTS, MINUTE),
    ("tokens-minute", Metric.TOKENS, MINUTE),
    ("tokens-month", Metric.TOKENS, MONTH),
    # Cerebras, DigitalOcean
    ("requests-minute", Metric.REQUESTS, MINUTE),
    ("requests-hour", Metric.REQUESTS, _HOUR),
    ("requests-day", Metric.REQUESTS, DAY),
    ("tokens-hour", Metric.TOKENS, _HOUR),
    ("tokens-day", Metric.TOKENS, DAY),
    ("requests-per-minute", Metric.REQUESTS, MINUTE),
    ("requests-per-day", Metric.REQUESTS, DAY),
    ("tokens-per-minute", Metric.TOKENS, MINUTE),
    ("tokens-per-day", Metric.TOKENS, DAY),
    # Fireworks counts by the second
    ("tokens-prompt", Metric.INPUT_TOKENS, 1.0),
    ("tokens-generated", Metric.OUTPUT_TOKENS, 1.0),
)


def _anthropic(name: str, metric: Metric) -> tuple[str, Group]:
    prefix = f"anthropic-ratelimit-{name}"
    return f"{prefix}-limit", Group(metric, MINUTE, f"{prefix}-remaining")


#: The header of a limit -> its group.
_GROUPS: Final[dict[str, Group]] = dict(
    (
        *(_suffixed("x-ratelimit", *one) for one in _SUFFIXES),
        _anthropic("requests", Metric.REQUESTS),
        _anthropic("input-tokens", Metric.INPUT_TOKENS),
        _anthropic("output-tokens", Metric.OUTPUT_TOKENS),
        _anthropic("tokens", Metric.TOKENS),
        *(
            (
                f"x-ratelimitbysize-limit-{span}",
                Group(Metric.TOKENS, period, f"x-ratelimitbysize-remaining-{span}"),
            )
            for span, period in (("minute", MINUTE), ("month", MONTH))
        ),
        ("x-ratelimit-limit", Group(Metric.REQUESTS, None, "x-ratelimit-remaining")),
    )
)
#: Anthropic's "tokens" is the sum of the two, or the tightest in force: read where they are absent.
_SPLIT: Final = "anthropic-ratelimit-input-tokens-limit"
_SUM: Final = "anthropic-ratelimit-tokens-limit"
#: A proxy (LiteLLM's) hands an upstream's headers on under this prefix, its own without resets.
_PROXIED: Final = "llm_provider-"
#: Stands for "not known" (Azure).
_UNKNOWN: Final = "-1"


def observe(headers: Mapping[str, str]) -> Observation:
    """Read every group of headers that is known, else the IETF's RateLimit fields."""
    fields = Fields(headers)
    readings = tuple(_readings(fields, headers))
    if not readings:
        readings = tuple(_ratelimit_fields.readings(fields, headers))
    return Observation(readings=readings, ignored=fields.ignored)


def _readings(fields: Fields, headers: Mapping[str, str]) -> Iterator[Reading]:
    unstated = 0
    found: list[tuple[Group, Reading, bool]] = []
    for name in headers:
        group = _GROUPS.get(name)
        if group is None or (name == _SUM and _SPLIT in headers):
            continue
        if _UNKNOWN in (headers[name], headers.get(group.remaining)):
            continue
        limit = fields.count(name)
        remaining = fields.count(group.remaining)
        if limit is None or remaining is None or not sane(fields, limit, remaining):
            continue
        reset = headers.get(group.reset) or headers.get(_PROXIED + group.reset)
        found.append((group, _reading(group, headers, limit, remaining, reset), reset is None))
        unstated += group.period is None and reset is None and name != "x-ratelimit-limit"
    # Requests and tokens side by side with no word of when they are back: per minute (xAI).
    by_minute = unstated > 1
    for group, reading, is_silent in found:
        if by_minute and reading.period is None and is_silent and group.reset:
            yield reading._replace(period=MINUTE)
        else:
            yield reading


def _reading(
    group: Group, headers: Mapping[str, str], limit: float, remaining: float, reset: str | None
) -> Reading:
    period = group.period
    if period is None and (renewal := headers.get(group.renewal)) is not None:
        period = _durations.number(renewal) or None
    # A bare number may be seconds or milliseconds (Azure sends both), so it states nothing.
    found = bucket(group.metric, limit, remaining, _durations.duration(reset or ""))
    if period is None:
        return found
    return Reading(metric=group.metric, limit=limit, level=found.level, period=period)
