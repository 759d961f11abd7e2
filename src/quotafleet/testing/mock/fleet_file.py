"""Reading a fleet from a file, in the shape of `quotafleet mock --fleet fleet.toml`.

    [orgs.acme]
    limits = { "*" = { rpm = 500, tpm = 200000 }, gpt-4o = { rpm = 100 } }
    keys = { acme-1 = "sk-mock-acme-1", acme-2 = "sk-mock-acme-2" }
    rules = { "*" = { enforced = "single" } }       # fields of `LimitRules`
    co_consumers = [{ model = "gpt-4o", per_second = 1.5 }]

    [orgs.birch.projects.research]
    overrides = { gpt-4o = { tpm = 30000 } }
    keys = { birch-research = "sk-mock-birch-research" }

    [models.gpt-4o]              # joins or replaces the standard models; fields of `ModelSpec`
    limits = { rpm = 500, tpm = 30000 }

Keys of an organization belong to a project that bears its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .catalog import STANDARD_MODELS
from .specs import (
    STRICT,
    CoConsumer,
    LimitRules,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    ModelSpec,
)

Accounts: TypeAlias = tuple[
    tuple[ModelSpec, ...],
    tuple[MockOrganization, ...],
    tuple[MockProject, ...],
    tuple[MockKey, ...],
]


class _Strict(BaseModel):
    model_config = ConfigDict(**STRICT, frozen=True)


class _KeyFile(_Strict):
    secret: str
    revoked: bool = False
    ip_allow: frozenset[str] | None = None


class _ProjectFile(_Strict):
    overrides: dict[str, MockModelLimits] = Field(default_factory=dict)
    allowed_models: frozenset[str] | None = None
    spend_limit_usd: Decimal | None = None
    keys: dict[str, str | _KeyFile] = Field(default_factory=dict)

    def spec(self, name: str, org: str) -> MockProject:
        return MockProject(
            id=f"proj_{name}",
            org=org,
            overrides=self.overrides,
            allowed_models=self.allowed_models,
            spend_limit_usd=self.spend_limit_usd,
        )


class _OrgFile(_Strict):
    tier: Literal["free", "build", "launch", "grow"] = "build"
    limits: dict[str, MockModelLimits] = Field(default_factory=dict)
    rules: dict[str, LimitRules] = Field(default_factory=dict)
    co_consumers: tuple[CoConsumer, ...] = ()
    credits_usd: Decimal | None = None
    spend_limit_usd: Decimal | None = None
    usage_limit_usd: Decimal | None = None
    keys: dict[str, str | _KeyFile] = Field(default_factory=dict)
    projects: dict[str, _ProjectFile] = Field(default_factory=dict)

    def spec(self, name: str) -> MockOrganization:
        return MockOrganization(
            id=f"org-{name}",
            tier=self.tier,
            limits=self.limits,
            rules=self.rules,
            co_consumers=self.co_consumers,
            credits_usd=self.credits_usd,
            spend_limit_usd=self.spend_limit_usd,
            usage_limit_usd=self.usage_limit_usd,
        )

    def all_projects(self, name: str) -> Iterator[tuple[str, _ProjectFile]]:
        """Yield every project with its name; the organization's own keys form one more."""
        if self.keys:
            yield name, _ProjectFile(keys=self.keys)
        yield from self.projects.items()


def _with_names(models: object) -> object:
    """Put the name of each model's table into the table, as `ModelSpec` has it."""
    if not isinstance(models, dict):
        return models
    return {n: {**m, "name": n} if isinstance(m, dict) else m for n, m in models.items()}


class _FleetFile(_Strict):
    models: Annotated[dict[str, ModelSpec], BeforeValidator(_with_names)] = Field(
        default_factory=dict
    )
    orgs: dict[str, _OrgFile] = Field(min_length=1)


def read_accounts(data: Mapping[str, object]) -> Accounts:
    """Validate the parsed file and return its models, organizations, projects and keys.

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
    standard = (model for model in STANDARD_MODELS if model.name not in file.models)
    return (
        (*standard, *file.models.values()),
        tuple(org.spec(name) for name, org in file.orgs.items()),
        tuple(project.spec(name, f"org-{org}") for org, name, project in parts),
        tuple(key for _, name, project in parts for key in _keys(project, f"proj_{name}")),
    )


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
