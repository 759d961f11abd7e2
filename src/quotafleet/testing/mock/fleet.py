"""What exists at the mock provider: models, organisations, their projects and keys.

These are the facts a test writes down; what happens to them is in `world`. Limits belong to an
organisation and, where a project overrides them, to the project too; never to a key
(OpenAI Rate limits guide: "defined at the organization level and at the project level").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Final

from .cost import PROFILES

ANY: Final = "*"  # stands for every family that an organisation does not list


@dataclass(frozen=True, slots=True, kw_only=True)
class MockModelLimits:
    """Limits of one model family for one owner; None = there is no such limit.

    rpm, tpm: requests, tokens per minute; rpd, tpd: per day; ipm: images made per minute;
    input_images: images read per minute.
    """

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tpd: int | None = None
    ipm: int | None = None
    input_images: int | None = None

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"limit {name} must be above 0, or None for no limit: {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LongContext:
    """Limits of their own for requests with more than `threshold` input tokens."""

    threshold: int
    limits: MockModelLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model: its names, its size, and the limits it has where an organisation sets none.

    Attributes:
        family: name of the limit that it draws on, shared by every model that names it;
            None = its own name.
        profiles: cost profile by endpoint, where it is not the endpoint's usual one.
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

    def __post_init__(self) -> None:
        for endpoint, profile in self.profiles.items():
            if profile not in PROFILES:
                known = ", ".join(sorted(PROFILES))
                raise ValueError(
                    f"model {self.name}: no cost profile {profile!r} for {endpoint};"
                    f" there are: {known}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class MockOrganization:
    """An organisation: who is billed and whose limits count. `limits` are by family, or `ANY`."""

    id: str
    tier: str = "build"
    limits: Mapping[str, MockModelLimits] = field(default_factory=dict)
    credits_usd: Decimal | None = None  # None = billed later, cannot run out
    month_spend_usd: Decimal = Decimal(0)
    spend_limit_usd: Decimal | None = None  # set by the organisation itself
    usage_limit_usd: Decimal | None = None  # approved by the provider


@dataclass(frozen=True, slots=True, kw_only=True)
class MockProject:
    """A part of an organisation. `overrides` are limits of its own, by family or `ANY`."""

    id: str
    org: str
    overrides: Mapping[str, MockModelLimits] = field(default_factory=dict)
    allowed_models: frozenset[str] | None = None  # None = all of them
    month_spend_usd: Decimal = Decimal(0)
    spend_limit_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MockKey:
    """A credential of a project. `name` stands for the secret wherever the mock reports."""

    name: str
    secret: str = field(repr=False)
    project: str
    revoked: bool = False
    ip_allow: frozenset[str] | None = None  # None = from anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class MockFleet:
    """Everything that exists at the provider; checked when it is made."""

    models: tuple[ModelSpec, ...]
    orgs: tuple[MockOrganization, ...]
    projects: tuple[MockProject, ...]
    keys: tuple[MockKey, ...]

    def __post_init__(self) -> None:
        _unique("model", (n for m in self.models for n in (m.name, *m.aliases)))
        _unique("organisation", (o.id for o in self.orgs))
        _unique("project", (p.id for p in self.projects))
        _unique("key name", (k.name for k in self.keys))
        _unique("key secret", (k.secret for k in self.keys), show=False)
        _known("project", "organisation", ((p.id, p.org) for p in self.projects), self.orgs)
        _known("key", "project", ((k.name, k.project) for k in self.keys), self.projects)

    def secrets(self) -> tuple[str, ...]:
        """Return the secret of every key, in order."""
        return tuple(key.secret for key in self.keys)

    def key(self, name: str) -> MockKey:
        """Return the key of that name.

        Raises:
            KeyError: there is none.
        """
        for key in self.keys:
            if key.name == name:
                return key
        raise KeyError(f"no key {name!r}; there are: {', '.join(k.name for k in self.keys)}")

    @classmethod
    def simple(
        cls,
        orgs: Mapping[str, Mapping[str, int]],
        *,
        models: Iterable[ModelSpec] | None = None,
    ) -> MockFleet:
        """Build organisations from a few numbers each.

        `{"acme": {"rpm": 500, "tpm": 200_000, "keys": 2}}` makes organisation `org-acme` with
        project `proj_acme`, and the keys `acme-1`, `acme-2` (secrets `sk-mock-acme-1`, ...). The
        limits hold for each model family by itself. `models` defaults to `STANDARD_MODELS`.

        Raises:
            ValueError: a limit has a name that no limit has, or is not above 0.
        """
        from .catalog import STANDARD_MODELS  # noqa: PLC0415  (the catalogue is made of our specs)

        return cls(
            models=STANDARD_MODELS if models is None else tuple(models),
            orgs=tuple(
                MockOrganization(id=f"org-{n}", limits={ANY: _limits(n, v)})
                for n, v in orgs.items()
            ),
            projects=tuple(MockProject(id=f"proj_{name}", org=f"org-{name}") for name in orgs),
            keys=tuple(
                MockKey(name=f"{name}-{i}", secret=f"sk-mock-{name}-{i}", project=f"proj_{name}")
                for name, values in orgs.items()
                for i in range(1, values.get("keys", 1) + 1)
            ),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> MockFleet:
        """Build a fleet from parsed TOML or JSON; see `fleet_file` for its shape.

        Raises:
            ValueError: the message names every wrong place and what is wrong with it.
        """
        from .fleet_file import read_fleet  # noqa: PLC0415  (it builds our specs)

        return read_fleet(data)


def _limits(org: str, values: Mapping[str, int]) -> MockModelLimits:
    known = {f.name for f in fields(MockModelLimits)}
    unknown = set(values) - known - {"keys"}
    if unknown:
        raise ValueError(
            f"organisation {org}: no limit {', '.join(sorted(unknown))};"
            f" there are: {', '.join(sorted(known))} (and keys, their number)"
        )
    return MockModelLimits(**{name: value for name, value in values.items() if name != "keys"})


def _unique(what: str, names: Iterable[str], *, show: bool = True) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} given twice{': ' + name if show else ''}")
        seen.add(name)


def _known(
    what: str,
    owner: str,
    pairs: Iterable[tuple[str, str]],
    owners: Iterable[MockOrganization | MockProject],
) -> None:
    ids = {one.id for one in owners}
    for name, belongs_to in pairs:
        if belongs_to not in ids:
            raise ValueError(f"{what} {name} belongs to {owner} {belongs_to}, which does not exist")
