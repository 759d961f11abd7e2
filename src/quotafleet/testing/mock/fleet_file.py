"""A fleet from a file: the shape of `quotafleet mock --fleet fleet.toml`.

    [orgs.acme]
    limits = { "*" = { rpm = 500, tpm = 200000 }, gpt-4o = { rpm = 100 } }
    keys = { acme-1 = "sk-mock-acme-1", acme-2 = "sk-mock-acme-2" }

    [orgs.birch.projects.research]
    overrides = { gpt-4o = { tpm = 30000 } }
    keys = { birch-research = "sk-mock-birch-research" }

    [models.gpt-4o]              # joins, or replaces, the standard models
    limits = { rpm = 500, tpm = 30000 }

Keys of an organisation belong to a project that bears its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from .catalog import STANDARD_MODELS
from .fleet import (
    LongContext,
    MockFleet,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    ModelSpec,
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _LimitsFile(_Strict):
    rpm: PositiveInt | None = None
    rpd: PositiveInt | None = None
    tpm: PositiveInt | None = None
    tpd: PositiveInt | None = None
    ipm: PositiveInt | None = None
    input_images: PositiveInt | None = None

    def spec(self) -> MockModelLimits:
        return MockModelLimits(**dict(self))


class _LongContextFile(_Strict):
    threshold: PositiveInt
    limits: _LimitsFile

    def spec(self) -> LongContext:
        return LongContext(threshold=self.threshold, limits=self.limits.spec())


class _ModelFile(_Strict):
    aliases: tuple[str, ...] = ()
    family: str | None = None
    context_tokens: PositiveInt = 128_000
    profiles: dict[str, str] = Field(default_factory=dict)
    limits: _LimitsFile = _LimitsFile(rpm=500, tpm=200_000)
    long_context: _LongContextFile | None = None
    dimensions: PositiveInt = 1536
    input_usd: Decimal = Decimal(0)
    output_usd: Decimal = Decimal(0)

    def spec(self, name: str) -> ModelSpec:
        long = self.long_context
        return ModelSpec(
            name=name,
            aliases=self.aliases,
            family=self.family,
            context_tokens=self.context_tokens,
            profiles=self.profiles,
            limits=self.limits.spec(),
            long_context=None if long is None else long.spec(),
            dimensions=self.dimensions,
            input_usd=self.input_usd,
            output_usd=self.output_usd,
        )


class _KeyFile(_Strict):
    secret: str
    revoked: bool = False
    ip_allow: frozenset[str] | None = None


class _ProjectFile(_Strict):
    overrides: dict[str, _LimitsFile] = Field(default_factory=dict)
    allowed_models: frozenset[str] | None = None
    spend_limit_usd: Decimal | None = None
    keys: dict[str, str | _KeyFile] = Field(default_factory=dict)

    def spec(self, name: str, org: str) -> MockProject:
        return MockProject(
            id=f"proj_{name}",
            org=org,
            overrides={family: limits.spec() for family, limits in self.overrides.items()},
            allowed_models=self.allowed_models,
            spend_limit_usd=self.spend_limit_usd,
        )


class _OrgFile(_Strict):
    tier: Literal["free", "build", "launch", "grow"] = "build"
    limits: dict[str, _LimitsFile] = Field(default_factory=dict)
    credits_usd: Decimal | None = None
    spend_limit_usd: Decimal | None = None
    usage_limit_usd: Decimal | None = None
    keys: dict[str, str | _KeyFile] = Field(default_factory=dict)
    projects: dict[str, _ProjectFile] = Field(default_factory=dict)

    def spec(self, name: str) -> MockOrganization:
        return MockOrganization(
            id=f"org-{name}",
            tier=self.tier,
            limits={family: limits.spec() for family, limits in self.limits.items()},
            credits_usd=self.credits_usd,
            spend_limit_usd=self.spend_limit_usd,
            usage_limit_usd=self.usage_limit_usd,
        )

    def all_projects(self, name: str) -> Iterator[tuple[str, _ProjectFile]]:
        """Give every project with its name; the organisation's own keys make one more."""
        if self.keys:
            yield name, _ProjectFile(keys=self.keys)
        yield from self.projects.items()


class _FleetFile(_Strict):
    models: dict[str, _ModelFile] = Field(default_factory=dict)
    orgs: dict[str, _OrgFile] = Field(min_length=1)


def read_fleet(data: Mapping[str, object]) -> MockFleet:
    """Validate the parsed file and build the fleet.

    Raises:
        ValueError: one line for every wrong place, with what is wrong there.
    """
    try:
        file = _FleetFile.model_validate(data)
    except ValidationError as error:
        raise ValueError(_explain(error)) from None
    parts = [
        (org, name, project)
        for org, one in file.orgs.items()
        for name, project in one.all_projects(org)
    ]
    return MockFleet(
        models=tuple(_models(file.models)),
        orgs=tuple(org.spec(name) for name, org in file.orgs.items()),
        projects=tuple(project.spec(name, f"org-{org}") for org, name, project in parts),
        keys=tuple(key for _, name, project in parts for key in _keys(project, f"proj_{name}")),
    )


def _models(given: Mapping[str, _ModelFile]) -> Iterator[ModelSpec]:
    yield from (model for model in STANDARD_MODELS if model.name not in given)
    yield from (model.spec(name) for name, model in given.items())


def _keys(project: _ProjectFile, project_id: str) -> Iterator[MockKey]:
    for name, given in project.keys.items():
        one = _KeyFile(secret=given) if isinstance(given, str) else given
        yield MockKey(
            name=name,
            secret=one.secret,
            project=project_id,
            revoked=one.revoked,
            ip_allow=one.ip_allow,
        )


def _explain(error: ValidationError) -> str:
    # Never the input itself: it may be a secret.
    places = error.errors(include_url=False, include_context=False, include_input=False)
    lines = (f"  {'.'.join(map(str, e['loc'])) or 'fleet'}: {e['msg']}" for e in places)
    return "\n".join(("the fleet is not valid:", *lines))
