"""Limits: the rules that providers state, as values.

A `Limit` is one rule (``rpm = 500``); `Limits` is the set that one owner has. Their state, what a
bucket holds now, lives in the store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import IntEnum
from typing import Final

from .errors import ConfigError

MINUTE: Final = 60.0
DAY: Final = 86_400.0
#: Thirty days: the only period beyond a day seen in a provider's arithmetic
#: (openai/openai-dotnet#404, 2025-04: "Please try again in 114h18m0s").
MONTH: Final = 30 * DAY


class Metric(IntEnum):
    """What a limit counts. The value is the position in a vector of costs."""

    REQUESTS = 0
    TOKENS = 1
    INPUT_TOKENS = 2
    OUTPUT_TOKENS = 3
    IMAGES = 4
    CONCURRENT = 5
    SPEND = 6


#: What a call costs in each `Metric`, in that order. Money is in US dollars.
Costs = tuple[float, float, float, float, float, float, float]

#: Limit name -> what it counts, and over how many seconds its bucket refills from empty to full.
#: ``None``: it doesn't refill, what was taken is given back (calls in flight).
RULES: Final[dict[str, tuple[Metric, float | None]]] = {
    "rps": (Metric.REQUESTS, 1.0),
    "rpm": (Metric.REQUESTS, MINUTE),
    "rpd": (Metric.REQUESTS, DAY),
    "tpm": (Metric.TOKENS, MINUTE),
    "tpd": (Metric.TOKENS, DAY),
    "itpm": (Metric.INPUT_TOKENS, MINUTE),
    "otpm": (Metric.OUTPUT_TOKENS, MINUTE),
    "ipm": (Metric.IMAGES, MINUTE),
    "concurrent": (Metric.CONCURRENT, None),
    "spend": (Metric.SPEND, MONTH),
}

#: Limits of an owner over all its models together; every other limit counts per model family.
OWNER_WIDE: Final = frozenset({"concurrent", "spend"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One rule: `amount` per period of the rule `name`, as a continuously refilled bucket.

    Args:
        name: a key of `RULES`, such as ``"tpm"``.
        amount: how much per period; US dollars for ``spend``.
        burst: the bucket's capacity. ``None``: one period's amount, which is what providers
            give (measured on recorded OpenAI traffic, 2023-10 to 2026-08). Set it lower where
            a provider enforces a per-minute limit per second.

    Raises:
        ConfigError: unknown name; an amount or burst that is not a positive, finite number.
    """

    name: str
    amount: float
    burst: float | None = None

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ConfigError(f"unknown limit {self.name!r}", cure=f"Known: {', '.join(RULES)}")
        _positive(self.name, self.amount)
        if self.burst is not None:
            _positive(f"burst of {self.name}", self.burst)

    @property
    def metric(self) -> Metric:
        """What it counts."""
        return RULES[self.name][0]

    @property
    def period(self) -> float | None:
        """Seconds in which an empty bucket refills; ``None`` for calls in flight."""
        return RULES[self.name][1]


LimitValue = Limit | int | float | Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one owner. ``None`` = not known (learned from headers), never "no limit".

    A plain number is an amount; give a `Limit` to set the burst too. Requests and tokens count per
    model family, as providers count them; ``concurrent`` and ``spend`` over all models.

    Raises:
        ConfigError: a number that is not positive and finite.
    """

    rps: LimitValue = None
    rpm: LimitValue = None
    rpd: LimitValue = None
    tpm: LimitValue = None
    tpd: LimitValue = None
    itpm: LimitValue = None
    otpm: LimitValue = None
    ipm: LimitValue = None
    concurrent: LimitValue = None
    spend: LimitValue = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Limit):
                if value.name != field.name:
                    raise ConfigError(
                        f"{field.name} was given a limit named {value.name!r}",
                        cure=f"Write {value.name}=Limit(name={value.name!r}, ...)",
                    )
            elif value is not None:
                limit = Limit(name=field.name, amount=_number(field.name, value))
                object.__setattr__(self, field.name, limit)

    def __iter__(self) -> Iterator[Limit]:
        """Iterate over the limits that are known."""
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is not None:
                yield limit

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def overridden_by(self, other: Limits) -> Limits:
        """Return these limits with those that `other` knows in their place."""
        known: dict[str, LimitValue] = {limit.name: limit for limit in self}
        known.update({limit.name: limit for limit in other})
        return Limits(**known)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ConfigError(f"{name} = {value!r} is not a number", cure="Give a positive number")
    return float(value)


def _positive(name: str, amount: float) -> None:
    if not (math.isfinite(amount) and amount > 0):
        raise ConfigError(
            f"{name} = {amount} is not a positive number",
            cure="Leave the limit out if it is not known; remove the keys to use none of it",
        )
