"""The accounts of the mock provider as a test states them: models, organizations, projects, keys.

`accounts` keeps what happens to them. Limits belong to an organization and, where a project
overrides them, also to the project; never to a key (OpenAI Rate limits guide: "defined at the
organization level and at the project level").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Final, Literal, TypeAlias

from pydantic import ConfigDict

from .cost import PROFILES

STRICT: Final = ConfigDict(extra="forbid")  # a name that a file misspells is an error
ANY: Final = "*"  # stands for every family that an organization does not list


@dataclass(frozen=True, slots=True, kw_only=True)
class MockModelLimits:
    """Limits of one model family for one owner; ``None``: no such limit.

    rpm, tpm: requests, tokens per minute; rpd, tpd: per day; ipm: images made per minute;
    input_images: images read per minute.
    """

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tpd: int | None = None
    ipm: int | None = None
    input_images: int | None = None

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"limit {name} must be above 0, or None for no limit: {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LongContext:
    """Separate limits for requests with more than `threshold` input tokens."""

    threshold: int
    limits: MockModelLimits

    __pydantic_config__ = STRICT


#: How a limit per minute is enforced; see `LimitRules.enforced`.
Enforcement: TypeAlias = Literal["bucket", "single", "sliding", "fixed"]
#: What a refused request costs; see `LimitRules.refusals`.
RefusalCost: TypeAlias = Literal["free", "counted", "owed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRules:
    """How limits are enforced, charged and stated, for the whole provider or one organization.

    Attributes:
        enforced: how each limit per minute is kept. ``bucket``: a token bucket, as OpenAI's headers
            describe; ``single``: a token bucket that holds one request, so that requests
            are admitted one by one at the limit's rate; ``sliding``: a log of the last `window_s`
            seconds; ``fixed``: a counter that starts anew every `window_s` seconds.
        window_s: seconds over which a limit per minute is enforced; ``None``: 60. With 1.0 a limit
            of 60,000 a minute admits 1,000 a second ("60,000 requests/minute may be enforced as
            1,000 requests/second", OpenAI help center), while headers go on showing the minute.
        refusals: what a refused request costs of the limit of requests per minute. ``free``:
            nothing; ``counted``: one, down to an empty bucket ("unsuccessful requests contribute to
            your per-minute limit", OpenAI Rate limits guide); ``owed``: one even of an empty
            bucket, so that who goes on asking stays refused.
        stated: send rate-limit headers and name limit and delay in a rate-limit 429. Without it, a
            429 only says that some limit was reached, as some compatible endpoints do.
        delay_scale: factor on the delay that a rate-limit 429 states; below 1 it understates.
        profiles: cost profile by endpoint, in place of the model's; see `cost.PROFILES`.
    """

    enforced: Enforcement = "bucket"
    window_s: float | None = None
    refusals: RefusalCost = "counted"
    stated: bool = True
    delay_scale: float = 1.0
    profiles: Mapping[str, str] = field(default_factory=dict)

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.window_s is not None and not 0 < self.window_s <= 60:
            raise ValueError(f"window_s must be above 0 and at most 60 seconds: {self.window_s}")
        if self.delay_scale < 0:
            raise ValueError(f"delay_scale must not be negative: {self.delay_scale}")
        check_profiles("rules", self.profiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoConsumer:
    """Another application that spends an organization's quota, at even intervals.

    It sends `per_second` requests of `text_bytes` bytes to `model` from `start_s` until `end_s`
    seconds after the provider's start, whether they are admitted or refused.
    """

    model: str
    per_second: float
    text_bytes: int = 4
    start_s: float = 0.0
    end_s: float | None = None

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.per_second <= 0:
            raise ValueError(f"per_second must be above 0: {self.per_second}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model: its names, its size, and its limits where an organization sets none.

    Attributes:
        family: name of the limit that the model draws on, shared by every model that names it;
            ``None``: its own name.
        profiles: cost profile by endpoint, where it differs from the endpoint's usual one.
        dimensions: length of its embeddings.
        input_usd, output_usd: price of a million tokens.
    """

    name: str
    aliases: tuple[str, ...] = ()
    family: str | None = None
    context_tokens: int = 128_000
    profiles: Mapping[str, str] = field(default_factory=dict)
    limits: MockModelLimits = MockModelLimits(rpm=500, tpm=200_000)
    long_context: LongContext | None = None
    dimensions: int = 1536
    input_usd: Decimal = Decimal(0)
    output_usd: Decimal = Decimal(0)

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        check_profiles(f"model {self.name}", self.profiles)


def check_profiles(owner: str, profiles: Mapping[str, str]) -> None:
    """Raise `ValueError` for a cost profile that does not exist."""
    for endpoint, profile in profiles.items():
        if profile not in PROFILES:
            known = ", ".join(sorted(PROFILES))
            raise ValueError(
                f"{owner}: no cost profile {profile!r} for {endpoint}; there are: {known}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MockOrganization:
    """An organization, which is billed and owns limits.

    Attributes:
        limits: by model family, or `ANY`.
        rules: how they are enforced, by family or `ANY`; else as the provider's settings say.
        co_consumers: other applications that draw on its limits.
        credits_usd: prepaid money; ``None``: billed later, cannot run out.
        spend_limit_usd: set by the organization itself.
        usage_limit_usd: approved by the provider.
    """

    id: str
    tier: str = "build"
    limits: Mapping[str, MockModelLimits] = field(default_factory=dict)
    rules: Mapping[str, LimitRules] = field(default_factory=dict)
    co_consumers: tuple[CoConsumer, ...] = ()
    credits_usd: Decimal | None = None
    month_spend_usd: Decimal = Decimal(0)
    spend_limit_usd: Decimal | None = None
    usage_limit_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MockProject:
    """A part of an organization. `overrides` are its own limits, by family or `ANY`."""

    id: str
    org: str
    overrides: Mapping[str, MockModelLimits] = field(default_factory=dict)
    allowed_models: frozenset[str] | None = None  # ``None``: all of them
    month_spend_usd: Decimal = Decimal(0)
    spend_limit_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MockKey:
    """A credential of a project. Reports show its `name` instead of the secret."""

    name: str
    secret: str = field(repr=False)
    project: str
    revoked: bool = False
    ip_allow: frozenset[str] | None = None  # ``None``: from anywhere
