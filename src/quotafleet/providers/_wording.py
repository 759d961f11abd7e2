"""The numbers in the texts of refusals: limits, what was used, and when to come back.

The wordings are OpenAI's, old (2023) and new, which Groq and others copied:

    Rate limit reached for M (for limit F) in project proj_… organization org-… on tokens per min
    (TPM): Limit 200000, Used 195869, Requested 4412. Please try again in 84ms.

where the delay is ``(Used + Requested - Limit) * P / Limit`` (12 of 12 published messages). Labels
lie: a "TPM" was seen to fit thirty days only (openai/openai-dotnet#404, 2025-04), so the
arithmetic decides what the period is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..limits import DAY, MINUTE, Metric
from ._durations import LONGEST, PART, duration
from ._headers import MOST, PERIODS

#: Characters of a text that are looked at; the longest refusal known has some 500.
_READ: Final = 4_000

_LIMIT: Final = re.compile(r"\bLimit:? ([0-9]{1,15}(?:\.[0-9]{1,9})?)( ?/ ?1? ?(?:min|day))?", re.I)
_USED: Final = re.compile(r"\b(?:Used|Current):? ([0-9]{1,15}(?:\.[0-9]{1,9})?)", re.I)
_REQUESTED: Final = re.compile(r"\bRequested:? ([0-9]{1,15}(?:\.[0-9]{1,9})?)", re.I)
_DELAY: Final = re.compile(
    rf"\b(?:try again|retry) (?:in|after) (?:((?:{PART})+)|([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?) sec)"
)
_PROJECT: Final = re.compile(r"\bin project proj_|\bProject `")
_CONTEXT: Final = re.compile(r"maximum context length is ([0-9]{1,15}) tokens")
_ASKED: Final = re.compile(r"(?:requested|resulted in) ([0-9]{1,15}) tokens")

#: The first wording that occurs tells what was counted, over how many seconds. "input-images per
#: min" is neither requests nor images made: its own headers show 50,000 and more.
_COUNTED: Final[tuple[tuple[re.Pattern[str], Metric | None, float | None], ...]] = tuple(
    (re.compile(pattern), metric, period)
    for pattern, metric, period in (
        (r"\(RPM\)|requests per min", Metric.REQUESTS, MINUTE),
        (r"\(RPD\)|requests per day", Metric.REQUESTS, DAY),
        (r"\(ITPM\)|input tokens per min", Metric.INPUT_TOKENS, MINUTE),
        (r"\(OTPM\)|output tokens per min", Metric.OUTPUT_TOKENS, MINUTE),
        (r"\(TPM\)|tokens(?:_usage_based)? per min", Metric.TOKENS, MINUTE),
        (r"\(TPD\)|tokens per day", Metric.TOKENS, DAY),
        (r"input-images per min", None, MINUTE),
        (r"\(IPM\)|images per min", Metric.IMAGES, MINUTE),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a text told; ``None`` = it didn't.

    Args:
        metric: what was counted.
        period: seconds in which the limit refills.
        limit: the limit.
        used: how much of it was used.
        requested: how much the attempt asked for.
        retry_after: seconds.
        project: the text names a project as the one that lacks.
    """

    metric: Metric | None = None
    period: float | None = None
    limit: float | None = None
    used: float | None = None
    requested: float | None = None
    retry_after: float | None = None
    project: bool = False


def told(text: str) -> Told:
    """Read a refusal's text."""
    text = text[:_READ]
    metric, label = next(
        ((metric, period) for pattern, metric, period in _COUNTED if pattern.search(text)),
        (None, None),
    )
    found = _LIMIT.search(text)
    limit = _amount(found)
    used = _amount(_USED.search(text))
    requested = _amount(_REQUESTED.search(text))
    delay = _delay(text)
    if delay is None and found and found[2] and limit and metric in _UNITS:
        delay = (label or MINUTE) / limit  # "Limit: 5/1min" and no more: until one comes free
    return Told(
        metric=metric,
        period=_period(limit, used, requested, delay, label) or label,
        limit=limit,
        used=used,
        requested=requested,
        retry_after=delay,
        project=_PROJECT.search(text) is not None,
    )


def context(text: str) -> tuple[float | None, float | None]:
    """Return a model's context length and how much was asked, as an error's text tells them."""
    text = text[:_READ]
    return _amount(_CONTEXT.search(text)), _amount(_ASKED.search(text))


#: What a call takes one of.
_UNITS: Final = frozenset({Metric.REQUESTS, Metric.IMAGES})


def _amount(found: re.Match[str] | None) -> float | None:
    value = float(found[1]) if found else None
    return value if value is not None and value <= MOST else None


def _delay(text: str) -> float | None:
    found = _DELAY.search(text)
    if found is None:
        return None
    if found[1]:
        return duration(found[1])
    seconds = float(found[2])
    return seconds if seconds <= LONGEST else None


def _period(
    limit: float | None,
    used: float | None,
    requested: float | None,
    delay: float | None,
    label: float | None,
) -> float | None:
    """Return the period with which the numbers give the delay, the labelled one before others."""
    if not limit or used is None or requested is None or delay is None:
        return None
    for period in (label or PERIODS[0], *PERIODS):
        computed = (used + requested - limit) * period / limit
        # The delay was truncated to milliseconds, and `used` rounded up by less than 1.
        if abs(computed - delay) <= 0.002 + period / limit:
            return period
    return None
