"""The numbers in the texts of refusals: limits, what was used, and when to come back.

OpenAI's wording, old (2023) and new, which Groq and others copied:

    Rate limit reached for M (for limit F) in project proj_… organization org-… on tokens per min
    (TPM): Limit 200000, Used 195869, Requested 4412. Please try again in 84ms.

where the delay is ``(Used + Requested - Limit) * P / Limit`` (12 of 12 published messages). Labels
can be wrong: a "TPM" was seen to fit thirty days only (openai/openai-dotnet#404, 2025-04), so the
arithmetic decides what the period is. Other providers write the same facts in other orders, so
what was counted, over how long, and the limit are searched for apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..limits import DAY, MINUTE, MONTH, Metric
from ._durations import LONGEST, PART, duration, instant
from ._headers import MOST, PERIODS

#: Characters of a text that are looked at; the longest refusal known has some 900.
_READ: Final = 4_000

_NUMBER: Final = r"([0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,20}(?:\.[0-9]{1,9})?)"


def _compiled(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


#: Limits, the most explicit wording first. A used share, as in "limit: 5 / 10", is no limit.
_LIMITS: Final = _compiled(
    rf"\bLimit:? {_NUMBER}(?![0-9,.]*[0-9])( ?/ ?1? ?(?:min|day))?(?! ?/ ?[0-9]{{2}})",
    rf"\blimit(?:ed)?(?: for [a-z ]{{1,20}})? (?:is|to|of)(?: only)? {_NUMBER}",
    rf"\bcan only afford {_NUMBER}",
    rf"\bof {_NUMBER} (?:input |output )?(?:tokens|requests|queries|calls)\b",
    rf"\bmax(?:imum)?(?: [a-z]{{1,12}}){{0,4}}\W{{1,3}}{_NUMBER}",
)
#: What was used, and the limit, as one pair.
_PAIR: Final = re.compile(rf"\(actual/limit\):? ?{_NUMBER} ?/ ?{_NUMBER}", re.IGNORECASE)
_SHARES: Final = re.compile(
    rf"\b(second|minute|hour|day|week|month) limit: {_NUMBER} ?/ ?{_NUMBER}", re.IGNORECASE
)
_USED: Final = re.compile(rf"\b(?:Used|Current):? {_NUMBER}", re.IGNORECASE)
_REQUESTED: Final = re.compile(rf"\bRequested:? ~?{_NUMBER}", re.IGNORECASE)
_DELAY: Final = re.compile(
    rf"\b(?:try again|retry|wait|reset(?:s|ting)?)(?: (?:in|after|for))? ~?"
    rf"(?:((?:{PART})+)|([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?) ?(sec|min|hour|day))",
    re.IGNORECASE,
)
#: An instant in a text, which may leave out seconds and zone: "2026-04-01 at 00:00 UTC".
_INSTANT: Final = re.compile(
    r"\b(20[0-9]{2}-[0-9]{2}-[0-9]{2})(?:T| at | )([0-9]{2}:[0-9]{2})(:[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r" ?(UTC|GMT|Z|[+-][0-9]{2}:[0-9]{2})?"
)
_PROJECT: Final = re.compile(r"\bin project proj_|\bProject `")
_CONTEXT: Final = re.compile(
    rf"maximum context length (?:is|of) {_NUMBER}|context length of only {_NUMBER}"
    rf"|tokens > {_NUMBER} maximum|maximum number of tokens allowed \({_NUMBER}\)",
    re.IGNORECASE,
)
_ASKED: Final = re.compile(rf"(?:requested|resulted in) {_NUMBER} tokens", re.IGNORECASE)

_WHAT: Final = (
    r"(input[ _-]?tokens?|output[ _-]?tokens?|tokens?(?:_usage_based)?|requests?|queries|calls"
    r"|input-images|images?)"
)
_SPAN: Final = r"(second|sec|minute|min|hour|day|week|month)"
#: Wordings that state what was counted (group "what"), over how long (group "span"), or both.
_COUNTED: Final = _compiled(
    rf"{_WHAT.replace('(', '(?P<what>', 1)}(?: count)?(?: per [a-z]{{1,12}}){{1,4}} per "
    rf"{_SPAN.replace('(', '(?P<span>', 1)}",
    rf"{_WHAT.replace('(', '(?P<what>', 1)}[ _-]?(?:count)?[ _-]{{0,2}}(?:per|/|a|each)[ _-]?"
    rf"{_SPAN.replace('(', '(?P<span>', 1)}",
    rf"per[ _-]?{_SPAN.replace('(', '(?P<span>', 1)} {_WHAT.replace('(', '(?P<what>', 1)}",
    r"\b(?P<short>[IO]?[RTQ]P[SMHD])\b",
    rf"too many {_WHAT.replace('(', '(?P<what>', 1)}",
    rf"{_WHAT.replace('(', '(?P<what>', 1)} (?:rate )?limit\b",
    rf"number of {_WHAT.replace('(', '(?P<what>', 1)}",
)
#: Wordings that state only over how long.
_SPANS: Final = _compiled(
    rf"\bper[ _-]?{_SPAN.replace('(', '(?P<span>', 1)}\b",
    r"\b(?P<span>hour|dai|day|week|month)ly\b",
    r"per (?P<seconds>[0-9]{1,8})s\b",
)
_SECONDS: Final = {
    "second": 1.0,
    "sec": 1.0,
    "minute": MINUTE,
    "min": MINUTE,
    "hour": 3_600.0,
    "day": DAY,
    "dai": DAY,
    "week": 604_800.0,
    "month": MONTH,
}
_SHORT: Final = {"S": 1.0, "M": MINUTE, "H": 3_600.0, "D": DAY}
#: What a call takes one of.
_UNITS: Final = frozenset({Metric.REQUESTS, Metric.IMAGES})


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalText:
    """What a refusal's text states; ``None``: it does not.

    Args:
        metric: what was counted.
        period: seconds in which the limit refills.
        limit: the limit.
        used: how much of it was used.
        requested: how much the attempt asked for.
        retry_after: seconds.
        resumes_at: the Unix time at which it passes.
        project: the text names a project as the one that lacks.
    """

    metric: Metric | None = None
    period: float | None = None
    limit: float | None = None
    used: float | None = None
    requested: float | None = None
    retry_after: float | None = None
    resumes_at: float | None = None
    project: bool = False


def read(text: str, utc_offset: float = 0.0) -> RefusalText:
    """Read a refusal's text.

    Args:
        text: what the provider wrote.
        utc_offset: hours by which its instants without a zone are ahead of UTC.
    """
    text = text[:_READ]
    metric, label = _counted(text)
    used, limit, unit = _amounts(text)
    requested = _amount(_REQUESTED.search(text))
    delay = _delay(text)
    if delay is None and unit and limit and metric in _UNITS:
        delay = (label or MINUTE) / limit  # "Limit: 5/1min" and no more: until one comes free
    if (worst := _exhausted_share(text)) is not None:
        label = worst
    return RefusalText(
        metric=metric,
        period=_period(limit, used, requested, delay, label) or label,
        limit=limit,
        used=used,
        requested=requested,
        retry_after=delay,
        resumes_at=_instant(text, utc_offset),
        project=_PROJECT.search(text) is not None,
    )


def context(text: str) -> tuple[float | None, float | None]:
    """Return a model's context length and how much was asked, as an error's text states them."""
    text = text[:_READ]
    return _amount(_CONTEXT.search(text)), _amount(_ASKED.search(text))


def counted(text: str) -> tuple[Metric | None, float | None]:
    """Return what a text or an identifier says was counted, and over how many seconds."""
    return _counted(text)


def _counted(text: str) -> tuple[Metric | None, float | None]:
    metric: Metric | None = None
    for pattern in _COUNTED:
        for found in pattern.finditer(text):
            groups = found.groupdict()
            if short := groups.get("short"):
                return _metric(short), _SHORT[short[-1].upper()]
            metric = metric or _metric(groups["what"])
            if span := groups.get("span"):
                return metric, _SECONDS[span.lower()]
    for pattern in _SPANS:
        if last := pattern.search(text):
            groups = last.groupdict()
            if seconds := groups.get("seconds"):
                return metric, float(seconds)
            return metric, _SECONDS[groups["span"].lower()]
    return metric, None


def _metric(word: str) -> Metric | None:
    """Return the metric of a word; input images are neither requests nor images made."""
    word = word.lower()
    if word.startswith("input-images"):
        return None
    if "token" in word or (len(word) in (3, 4) and "tp" in word):
        if word.startswith("i"):
            return Metric.INPUT_TOKENS
        return Metric.OUTPUT_TOKENS if word.startswith("o") else Metric.TOKENS
    return Metric.IMAGES if word.startswith("image") else Metric.REQUESTS


def _amounts(text: str) -> tuple[float | None, float | None, bool]:
    """Return what was used, the limit, and whether the limit names its unit."""
    if pair := _PAIR.search(text):
        return _number(pair[1]), _number(pair[2]), False
    used = _amount(_USED.search(text))
    for pattern in _LIMITS:
        if found := pattern.search(text):
            return used, _amount(found), len(found.groups()) > 1 and bool(found[2])
    return used, None, False


def _exhausted_share(text: str) -> float | None:
    """Return the longest period that is used up, of "Day limit: 21 / 10, Week limit: 9 / 20"."""
    spent = [
        _SECONDS[span.lower()]
        for span, used, limit in _SHARES.findall(text)
        if float(used.replace(",", "")) >= float(limit.replace(",", ""))
    ]
    return max(spent, default=None)


def _amount(found: re.Match[str] | None) -> float | None:
    if found is None:
        return None
    return _number(next(group for group in found.groups() if group))


def _number(text: str) -> float | None:
    value = float(text.replace(",", ""))
    return value if value <= MOST else None


def _delay(text: str) -> float | None:
    found = _DELAY.search(text)
    if found is None:
        return None
    if found[1]:
        return duration(found[1].lower())
    seconds = float(found[2]) * _SECONDS[found[3].lower()]
    return seconds if seconds <= LONGEST else None


def _instant(text: str, utc_offset: float) -> float | None:
    found = _INSTANT.search(text)
    if found is None:
        return None
    day, minutes, seconds, zone = found.groups()
    named = "Z" if zone in ("UTC", "GMT", "Z", None) else zone
    moment = instant(f"{day}T{minutes}{seconds or ':00'}{named}")
    return moment - utc_offset * 3_600 if moment is not None and zone is None else moment


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
