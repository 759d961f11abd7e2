"""What a simulation runs on: owners as configured, and a mock provider that holds them to it.

Nothing of it needs a real key: those of the configuration are not looked up, each gets a name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from ..config import PoolArguments, load
from ..errors import ConfigError
from ..limits import Limit, Limits
from ..owners import Organization, Owners
from ..testing import MockFleet, MockKey, MockModelLimits, MockOrganization, MockProject, ModelSpec
from ..testing.mock.catalog import STANDARD_MODELS

#: What an owner has whose limits are not stated: OpenAI's first paid tier of a small model.
ASSUMED: Final = Limits(rpm=500, tpm=200_000)
#: The limits that the mock provider enforces.
ENFORCED: Final = frozenset(field.name for field in fields(MockModelLimits))
_KEY: Final = "sk-simulated-"


def configured(file: Path) -> PoolArguments:
    """Return the arguments of a configured pool, with simulated keys in place of its own.

    Raises:
        ConfigError: the file is wrong.
        OSError: it can't be read.
    """
    with file.open("rb") as opened:
        try:
            given = tomllib.load(opened, parse_float=Decimal)
        except ValueError as error:
            raise ConfigError(f"is not TOML: {error}", source=str(file)) from None
    _simulate_keys(given, "")
    try:
        found = load(given)
    except ConfigError as error:
        raise ConfigError(
            error.problem, cure=error.cure, place=error.place, source=str(file)
        ) from None
    found["organizations"] = [_known(one) for one in found["organizations"]]
    return found


def _simulate_keys(table: Any, place: str) -> None:
    """Put a name of its own in place of each key, in organizations and in their projects."""
    if not isinstance(table, dict):
        return
    if isinstance(table.get("keys"), list):
        table["keys"] = [f"{_KEY}{place}-{number}" for number in range(len(table["keys"]))]
    for part in ("organizations", "projects"):
        if isinstance(table.get(part), list):
            for number, one in enumerate(table[part]):
                _simulate_keys(one, f"{place}-{number}")


def _known(organization: Organization) -> Organization:
    """Return an organization with limits, assumed ones where none are stated, and named keys."""
    name = organization.name
    stated = organization.limits or any(m.limits for m in organization.models.values())
    projects = tuple(
        replace(one, keys=secrets(f"{name}/{one.name}", len(one.keys)))
        for one in organization.projects
    )
    return replace(
        organization,
        limits=organization.limits if stated else ASSUMED,
        keys=secrets(name, len(organization.keys)),
        projects=projects,
    )


def secrets(owner: str, count: int) -> tuple[str, ...]:
    """Return the simulated secrets of an owner's keys."""
    return tuple(secret_of(f"{owner}#{number}") for number in range(1, count + 1))


def secret_of(key_id: str) -> str:
    """Return what stands for the secret of a key; a name may hold what a secret may not."""
    return f"{_KEY}{key_id.encode().hex()}"


def fleet_of(organizations: Iterable[Organization], models: Iterable[str]) -> MockFleet:
    """Return what exists at the mock provider: the owners' limits for the models that are asked.

    A project's limits are its own; an organization's keys stand in a project without any.
    """
    organizations, models = list(organizations), list(models)
    owners = Owners(organizations)
    known = {spec.name: spec for spec in STANDARD_MODELS}

    def limits(name: str, project: str | None) -> dict[str, MockModelLimits]:
        found = ((model, owners.limits_for(name, project, model)) for model in models)
        return {model: _enforced(one) for model, one in found if one}

    orgs, projects, keys = [], [], []
    for one in organizations:
        orgs.append(MockOrganization(id=f"org-{one.name}", limits=limits(one.name, None)))
        for project in (None, *one.projects):
            owner = one.name if project is None else f"{one.name}/{project.name}"
            count = len((project or one).keys)
            overrides = {} if project is None else limits(one.name, project.name)
            projects.append(MockProject(id=owner, org=f"org-{one.name}", overrides=overrides))
            names = (f"{owner}#{number}" for number in range(1, count + 1))
            keys += [MockKey(name=name, secret=secret_of(name), project=owner) for name in names]
    return MockFleet(
        models=tuple(
            replace(known.get(model, ModelSpec(name=model)), name=model, aliases=(), family=model)
            for model in models
        ),
        orgs=tuple(orgs),
        projects=tuple(projects),
        keys=tuple(keys),
    )


def _enforced(limits: Limits) -> MockModelLimits:
    known = {limit.name: max(1, int(limit.amount)) for limit in limits if limit.name in ENFORCED}
    return MockModelLimits(**known)


def unenforced(organizations: Iterable[Organization]) -> Iterator[str]:
    """Yield the names of stated limits that the mock provider doesn't know."""
    found = {limit.name for one in organizations for limit in one.limits} - ENFORCED
    yield from sorted(found)


# What more would be


def one_more(organizations: list[Organization], like: str) -> list[Organization]:
    """Return the organizations and another one like the one of that name."""
    model = next(one for one in organizations if one.name == like)
    name = f"{like} (another)"
    more = replace(
        model,
        name=name,
        keys=secrets(name, max(1, len(model.keys))),
        projects=(),
        organization_id=None,
    )
    return [*organizations, more]


def raised(organizations: list[Organization], name: str, factor: int) -> list[Organization]:
    """Return the organizations, one of them with higher limits."""
    return [
        replace(
            one,
            limits=_times(one.limits, factor),
            models={
                pattern: replace(special, limits=_times(special.limits, factor))
                for pattern, special in one.models.items()
            },
        )
        if one.name == name
        else one
        for one in organizations
    ]


def _times(limits: Limits, factor: int) -> Limits:
    return Limits(**{limit.name: _limit(limit, factor) for limit in limits})


def _limit(limit: Limit, factor: int) -> Limit:
    burst = None if limit.burst is None else limit.burst * factor
    return replace(limit, amount=limit.amount * factor, burst=burst)
