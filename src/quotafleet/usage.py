"""Demand and usage: what a call will need, and what it really used."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from .errors import ConfigError
from .limits import Costs

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a call will need, as its provider will count it at admission.

    Args:
        model: the model's name as the provider knows it; ``""`` where models don't matter.
        input_tokens: LLM tokens of the prompt.
        output_tokens: LLM tokens that the provider reserves or that you expect in the answer.
        images: images to be made.
        requests: requests that the call counts as.
        spend: expected price in US dollars.

    Raises:
        ConfigError: a negative count.
    """

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    requests: int = 1
    spend: Decimal = _ZERO

    #: The cost in each `Metric`; asked for at each step of a call.
    costs: Costs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _refuse_negative(self)
        tokens = self.input_tokens + self.output_tokens
        spend = 0.0 if self.spend is _ZERO else float(self.spend)
        costs = (
            self.requests,
            tokens,
            self.input_tokens,
            self.output_tokens,
            self.images,
            1,
            spend,
        )
        object.__setattr__(self, "costs", costs)

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a call really used. The fields are those of `Demand`.

    Raises:
        ConfigError: a negative count.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    requests: int = 1
    spend: Decimal = _ZERO

    def __post_init__(self) -> None:
        _refuse_negative(self)

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    @property
    def costs(self) -> Costs:
        """The cost in each `Metric`; the call is no longer in flight."""
        return (
            self.requests,
            self.input_tokens + self.output_tokens,
            self.input_tokens,
            self.output_tokens,
            self.images,
            0,
            0.0 if self.spend is _ZERO else float(self.spend),
        )


def _refuse_negative(counts: Demand | Usage) -> None:
    if (
        counts.input_tokens < 0
        or counts.output_tokens < 0
        or counts.images < 0
        or counts.requests < 0
        or (counts.spend is not _ZERO and counts.spend < 0)
    ):
        raise ConfigError(f"{counts!r} has a negative count", cure="Counts start at 0")
