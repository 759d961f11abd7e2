"""The shape of a configuration: what pydantic checks, and what editors complete.

Each table of the file is a model. Whatever a validator refuses it refuses as a `ConfigError`;
`refusal` gives the first one its file and place. Values are shown only where they can't be a
secret.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from difflib import get_close_matches
from random import Random
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from ..errors import ConfigError
from ..keys import origin
from ..limits import RULES, Limit, Limits, Metric
from ..strategies import strategy

#: Where the schema is found by editors: the file that is shipped inside the package.
SCHEMA_ID: Final = "quotafleet.schema.json"
#: Fields whose text may stand in an error; any other text might be a secret.
_SHOWN: Final = frozenset({"name", "provider", "base_url", "strategy"})
#: The schemes of shared stores.
STORES: Final = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
#: Members of a union that pydantic adds to the place of an error.
_TAGS: Final = frozenset({"<number>", "<table>", "<text>"})


# Checks of single values


def _number(value: object, *, cure: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        short = isinstance(value, str) and len(value) <= 12  # no provider's key is that short
        shown = repr(value) if short else _described(value)
        raise ConfigError(f"{shown} is not a number", cure=cure)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _amount(value: object) -> Decimal:
    """Return a positive, finite number as a Decimal, exactly as it was written."""
    number = _number(value, cure="Give a positive number")
    if not math.isfinite(number) or number <= 0:
        raise ConfigError(
            f"{number:g} is not a positive number",
            cure="Leave the limit out if it is not known; remove the keys to use none of it",
        )
    return Decimal(str(value))


def _seconds(value: object) -> float:
    number = _number(value, cure="Give a number of seconds")
    if math.isnan(number) or number < 0:
        raise ConfigError(f"{number:g} is not a duration", cure="Give seconds, 0 or more")
    return number


def _count(value: int) -> int:
    if value < 1:
        raise ConfigError(f"{value} is less than 1", cure="Give a whole number, 1 or more")
    return value


def _name(value: str) -> str:
    if not value or "/" in value:
        raise ConfigError(
            f"{value!r} can't name an organization or project", cure='Give it a name without "/"'
        )
    return value


def _strategy(value: str) -> str:
    strategy(value, Random())  # noqa: S311 - it is thrown away
    return value


def _base_url(value: str) -> str:
    if value:
        origin(value)
    return value


def _store(value: str) -> str:
    scheme, separator, _ = value.partition("://")  # the rest may hold a password
    if value == "memory" or value.startswith("env:") or (separator and scheme in STORES):
        return value
    shown = f"{scheme}://..." if separator else repr(value[:20])
    known = ", ".join(f"{one}://" for one in STORES)
    raise ConfigError(
        f"store {shown} is not known",
        cure=f'Write store = "memory", "env:NAME" or a URL of a shared store: {known}',
    )


def _namespace(value: str) -> str:
    if not value:
        raise ConfigError("the namespace is empty", cure="Leave it out, or name it")
    return value


Amount = Annotated[
    Decimal,
    BeforeValidator(_amount),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]
Seconds = Annotated[
    float, BeforeValidator(_seconds), WithJsonSchema({"type": "number", "minimum": 0})
]
Count = Annotated[int, AfterValidator(_count), WithJsonSchema({"type": "integer", "minimum": 1})]
Name = Annotated[
    str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": "^[^/]+$"})
]


# Tables


class Table(BaseModel):
    """A table of the file: no field but the known ones, no value turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        if isinstance(given, Mapping):
            for field in given:
                if field not in cls.model_fields:
                    raise _unknown(str(field), list(cls.model_fields))
        return given


class BurstTable(Table):
    """A limit whose bucket is smaller, or larger, than one period's amount."""

    amount: Amount = Field(description="How much per period; US dollars for spend.")
    burst: Amount | None = Field(default=None, description="The most that can be used at once.")


LimitField = Annotated[
    Annotated[Amount, Tag("<number>")] | Annotated[BurstTable, Tag("<table>")],
    Discriminator(lambda value: "<table>" if isinstance(value, Mapping) else "<number>"),
]


class LimitsTable(Table):
    """Limits as the provider states them; what is left out is learned from its answers."""

    rps: LimitField | None = Field(default=None, description="Requests per second.")
    rpm: LimitField | None = Field(default=None, description="Requests per minute.")
    rpd: LimitField | None = Field(default=None, description="Requests per day.")
    tpm: LimitField | None = Field(default=None, description="Tokens per minute.")
    tpd: LimitField | None = Field(default=None, description="Tokens per day.")
    itpm: LimitField | None = Field(default=None, description="Input tokens per minute.")
    otpm: LimitField | None = Field(default=None, description="Output tokens per minute.")
    ipm: LimitField | None = Field(default=None, description="Images per minute.")
    concurrent: LimitField | None = Field(default=None, description="Calls in flight.")
    spend: LimitField | None = Field(default=None, description="US dollars per 30 days.")

    def limits(self) -> Limits:
        """Return them as the pool knows them."""
        known = {name: _limit(name, value) for name, value in self if value is not None}
        return Limits(**known)

    @model_validator(mode="after")
    def _usable(self) -> LimitsTable:
        for name, value in self:
            if value is not None:
                _fits_one(name, value)
        return self


class ModelTable(Table):
    """Limits of the models that match a pattern, in place of the owner's own."""

    limits: LimitsTable = Field(default=LimitsTable(), description="Those that differ.")
    shared: bool = Field(default=False, description="All matching models draw on one bucket.")


class ProjectTable(Table):
    """A project inside an organization: its own keys, and limits below the organization's."""

    name: Name = Field(description="Unique in the organization.")
    keys: list[str] = Field(default=[], description="As in organizations.keys.")
    limits: LimitsTable = Field(default=LimitsTable(), description="What it may use at most.")
    models: dict[str, ModelTable] = Field(default={}, description="Limits by model pattern.")
    project_id: str | None = Field(default=None, description="Sent as OpenAI-Project.")


class OrganizationTable(Table):
    """Who owns a quota, and the keys that draw on it together."""

    name: Name = Field(description="Unique in the file.")
    provider: str = Field(
        default="openai",
        description="Whose rules apply: openai, azure, generic for what is compatible, or a name "
        "of [providers].",
    )
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        default="", description="Where its requests go; the provider's own when left out."
    )
    keys: list[str] = Field(
        default=[],
        description="env:NAME, file:PATH, keyring:SERVICE/USER, or the secret itself.",
    )
    limits: LimitsTable = Field(default=LimitsTable(), description="As the provider states them.")
    models: dict[str, ModelTable] = Field(default={}, description="Limits by model pattern.")
    projects: list[ProjectTable] = Field(default=[], description="Projects with their own keys.")
    only_models: list[str] = Field(default=[], description="Models it may use; empty: all.")
    organization_id: str | None = Field(default=None, description="Sent as OpenAI-Organization.")


class ProviderTable(BaseModel):
    """Settings of a provider's rules; a provider of one's own may have further ones."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    type: str = Field(
        default="",
        description="openai, azure, generic, an entry point's name, or package.module:Class; the "
        "table's own name when left out.",
    )
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        default="", description="Where requests go when an organization names no other place."
    )
    reserve: Literal["auto", "max_tokens"] | None = Field(
        default=None,
        description="What a request reserves: what the provider was measured to charge, or at "
        "least max_tokens.",
    )
    count_tokens: str | None = Field(
        default=None,
        description="bytes4, cautious, tiktoken, an entry point's name, or module:function.",
    )
    families: dict[str, str] | None = Field(
        default=None, description="Model -> the name of the bucket that it shares."
    )
    long_context: dict[str, int] | None = Field(
        default=None, description="Model -> the most input tokens under its usual limits."
    )

    def settings(self) -> dict[str, object]:
        """Return what is given, but for the type."""
        return {
            name: value
            for name, value in self.model_dump().items()
            if name != "type" and value not in (None, "")
        }


class WaitTable(Table):
    """How long calls may wait, and how many."""

    timeout: Seconds | None = Field(
        default=None, description="Seconds a call may wait for headroom; 600 when left out."
    )
    max_waiting: Count | None = Field(
        default=None, description="Calls that may wait at a time; 10000 when left out."
    )


class RetryTable(Table):
    """When an attempt is repeated."""

    attempts: Count = Field(default=8, description="Attempts of one call.")
    first_delay: Seconds = Field(
        default=1.0, description="Seconds before the second attempt at the same owners; doubles."
    )
    max_delay: Seconds = Field(default=30.0, description="No delay is longer, in seconds.")


StoreUrl = Annotated[str, AfterValidator(_store)]


class StoreTable(Table):
    """A store that processes and machines share."""

    url: StoreUrl = Field(description="redis://..., or env:NAME of a variable that holds it.")
    namespace: Annotated[str, AfterValidator(_namespace)] = Field(
        default="default", description="Fleets of one server with other names are apart."
    )
    lifetime: Seconds | None = Field(
        default=None,
        description="Seconds after which what a dead process held comes back; 900 when left out.",
    )
    timeout: Seconds | None = Field(
        default=None, description="Seconds to wait for the server's answer; 2 when left out."
    )
    share_for: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = Field(
        default=0,
        description="Seconds for which a process may spend a share of what an owner has without "
        "asking for each call; 0: every call asks.",
    )
    on_failure: Literal["wait", "degrade", "fail"] = Field(
        default="wait",
        description=(
            "While the server is away calls wait for it as for headroom, each process goes on with "
            "its part of the quota, or they fail."
        ),
    )


StoreField = Annotated[
    Annotated[StoreUrl, Tag("<text>")] | Annotated[StoreTable, Tag("<table>")],
    Discriminator(lambda value: "<table>" if isinstance(value, Mapping) else "<text>"),
]


class ConfigTable(Table):
    """The configuration of a fleet of keys: quotafleet.toml."""

    strategy: Annotated[str, AfterValidator(_strategy)] = Field(
        default="headroom-weighted",
        description="round-robin, least-used, headroom-weighted, an entry point's name, "
        "or package.module:Class.",
    )
    store: StoreField = Field(
        default="memory",
        description="Where buckets live: memory, or the URL of a store that processes share.",
    )
    wait: WaitTable = Field(default=WaitTable(), description="Waiting for headroom.")
    retry: RetryTable = Field(default=RetryTable(), description="Attempts and their delays.")
    providers: dict[str, ProviderTable] = Field(
        default={}, description="Providers' settings, by the name that organizations use."
    )
    organizations: list[OrganizationTable] = Field(default=[], description="The fleet.")


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of the configuration."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **ConfigTable.model_json_schema(),
    }


# Limits


def _limit(name: str, value: Decimal | BurstTable) -> Limit:
    if isinstance(value, BurstTable):
        burst = None if value.burst is None else float(value.burst)
        return Limit(name=name, amount=float(value.amount), burst=burst)
    return Limit(name=name, amount=float(value))


def _fits_one(name: str, value: Decimal | BurstTable) -> None:
    """Refuse a bucket that can never hold one request."""
    if RULES[name][0] not in (Metric.REQUESTS, Metric.CONCURRENT):
        return
    limit = _limit(name, value)
    most = limit.amount if limit.burst is None else limit.burst
    if most < 1:
        raise ConfigError(
            f"{most:g} never allows a request: a bucket must hold at least one",
            cure=f"Write {name} = {{ amount = {limit.amount:g}, burst = 1 }}",
            place=name,
        )


# Errors


def refusal(error: ValidationError, source: str | None) -> ConfigError:
    """Return the first thing that is wrong, with its place, value and cure, as a `ConfigError`."""
    found = error.errors(include_url=False)
    first = found[0]
    place = [step for step in first["loc"] if step not in _TAGS]
    more = f" ({len(found) - 1} more to come)" if len(found) > 1 else ""
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        if cause.place and cause.place != (place[-1] if place else ""):
            place.append(cause.place)
        problem, cure = cause.problem, cause.cure
    else:
        problem, cure = _told(first["type"], first["msg"], first["input"], place)
    return ConfigError(problem + more, cure=cure, place=place_of(place), source=source)


def place_of(steps: list[int | str]) -> str:
    """Write a place as ``organizations[1].limits.rpm``."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            plain = step.replace("_", "").replace("-", "").isalnum()
            text += f".{step}" if plain else f'."{step}"'
    return text.removeprefix(".")


_EXPECTED: Final = {
    "string_type": ("text", "Write it in quotes"),
    "list_type": ("a list", "Write it in brackets: [...]"),
    "dict_type": ("a table", "Write it as a table: { ... }"),
    "model_type": ("a table", "Write it as a table: { ... }"),
    "int_type": ("a whole number", "Write it without quotes and without a fraction"),
    "bool_type": ("true or false", "Write true or false without quotes"),
}


def _told(kind: str, message: str, value: object, place: list[int | str]) -> tuple[str, str]:
    if kind == "missing":
        return f"{place[-1]} is missing", f"Add {place[-1]} = ..."
    expected, cure = _EXPECTED.get(kind, ("", ""))
    if not expected:
        return message, ""
    shown = repr(value) if place and place[-1] in _SHOWN else _described(value)
    return f"{shown} is not {expected}", cure


def _described(value: object) -> str:
    """Show a number; of anything else, which may be a secret, only what it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, str):
        return "text"
    return "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _unknown(field: str, known: list[str]) -> ConfigError:
    near = get_close_matches(field, known, n=3)
    near.sort(key=lambda name: sorted(name) != sorted(field))  # letters swapped: the nearest
    meant = f"Did you mean {near[0]!r}? " if near else ""
    return ConfigError(
        f"unknown field {field!r}", cure=f"{meant}Known here: {', '.join(known)}", place=field
    )
