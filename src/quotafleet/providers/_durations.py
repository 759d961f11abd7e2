"""How long: the grammars in which providers write durations and instants.

Reset headers of OpenAI and Groq are Go's ``time.Duration.String()`` (all 2,976 values recorded
2023-10 to 2026-08 fit), Anthropic sends RFC 3339 instants, others plain numbers. What doesn't fit
as a whole is unknown (``None``), never 0: a reset of 0 would mean "full". An instant becomes a
duration only against the answer's own ``Date`` header, so that no clock is read and clock skew
doesn't count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

#: Seconds. Beyond a year and a day nothing is a delay that a provider means; the longest bucket
#: known refills in 30 days.
LONGEST: Final = 366 * 86_400.0

#: Seconds in each unit.
_UNITS: Final = {
    "d": 86_400.0,
    "h": 3_600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ns": 1e-9,
}
#: One part of a duration: ``ms`` is tried before ``m`` and ``s``. For use inside other patterns.
PART: Final = r"[0-9]{1,15}(?:\.[0-9]{1,15})?(?:ms|us|µs|μs|ns|d|h|m|s)"
_PART: Final = re.compile(r"([0-9.]+)([a-zµμ]+)")
_DURATION: Final = re.compile(rf"(?:{PART})+")
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?")
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
#: IMF-fixdate, RFC 850 and asctime, the three forms of RFC 9110, 5.6.7.
_HTTP_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"
    r"|[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}"
)
#: A number this large is a Unix time, in seconds or in milliseconds, not a delay.
_EPOCH_SECONDS: Final = 1e9
_EPOCH_MILLISECONDS: Final = 1e12


@lru_cache(256)  # the same few come again and again
def duration(text: str) -> float | None:
    """Return the seconds of a Go duration such as ``20m52.666s``; ``None`` = it is none."""
    text = text.strip()
    if text.endswith("ms") and len(text) < 6 and text.isascii() and text[:-2].isdigit():
        return int(text[:-2]) / 1000  # most resets are below a second
    if len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    return _sane(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))


def number(text: str) -> float | None:
    """Return a plain decimal number; ``None`` for signs, exponents, NaN and everything else."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def instant(text: str) -> float | None:
    """Return the Unix time of an RFC 3339 or HTTP date; ``None`` = it is none."""
    text = text.strip()
    try:
        if _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).timestamp()
        if _HTTP_DATE.fullmatch(text):
            return parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):  # shaped like a date, but not in the calendar
        return None
    return None


def until(text: str, date: str) -> float | None:
    """Return the seconds that a reset header tells, in any grammar that names its unit.

    Args:
        text: a Go duration, an RFC 3339 or HTTP date, a Unix time in seconds or milliseconds.
            A bare number below 1e9 is seconds.
        date: the answer's ``Date`` header, against which instants count; ``""`` = it had none.
    """
    found = duration(text)
    if found is not None:
        return found
    value = number(text)
    if value is None:
        return after(instant(text), date)
    if value < _EPOCH_SECONDS:
        return _sane(value)
    return after(value / 1000 if value >= _EPOCH_MILLISECONDS else value, date)


def retry_after(headers: Mapping[str, str], status: int) -> float | None:
    """Return the seconds before which a retry is useless, as the headers tell.

    The larger of ``retry-after-ms`` and ``retry-after``: both are minimums, and Azure sends 0 ms
    beside 1 s (recorded 2026-08). The latter is a number or an HTTP date (RFC 9110, 10.2.3). Only
    errors are believed: Anthropic sent it with 36 recorded 200 answers (2025-11 to 2025-12).
    """
    if status < 400:
        return None
    milliseconds = number(headers.get("retry-after-ms", ""))
    text = headers.get("retry-after", "")
    seconds = number(text)
    waits = (
        _sane(milliseconds / 1000) if milliseconds is not None else None,
        after(instant(text), headers.get("date", "")) if seconds is None else _sane(seconds),
    )
    return max((wait for wait in waits if wait is not None), default=None)


def after(moment: float | None, date: str) -> float | None:
    """Return the seconds from the answer's ``Date`` header to a Unix time; ``None``: not known."""
    reference = instant(date)
    if moment is None or reference is None:
        return None
    return _sane(max(0.0, moment - reference))


def _sane(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= LONGEST else None
