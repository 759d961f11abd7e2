"""The fleet: every account and model that exists at the mock provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from .catalog import STANDARD_MODELS
from .fleet_file import read_accounts
from .specs import ANY, MockKey, MockModelLimits, MockOrganization, MockProject, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MockFleet:
    """All accounts and models of the mock provider; validated when created."""

    models: tuple[ModelSpec, ...]
    orgs: tuple[MockOrganization, ...]
    projects: tuple[MockProject, ...]
    keys: tuple[MockKey, ...]

    def __post_init__(self) -> None:
        _unique("model", (n for m in self.models for n in (m.name, *m.aliases)))
        _unique("organization", (o.id for o in self.orgs))
        _unique("project", (p.id for p in self.projects))
        _unique("key name", (k.name for k in self.keys))
        _unique("key secret", (k.secret for k in self.keys), show=False)
        _known("project", "organization", ((p.id, p.org) for p in self.projects), self.orgs)
        _co_consumers(self)
        _known("key", "project", ((k.name, k.project) for k in self.keys), self.projects)

    def secrets(self) -> tuple[str, ...]:
        """Return the secret of every key, in order."""
        return tuple(key.secret for key in self.keys)

    def key(self, name: str) -> MockKey:
        """Return the key of that name.

        Raises:
            KeyError: no key has that name.
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
        """Build organizations from a few numbers each.

        `{"acme": {"rpm": 500, "tpm": 200_000, "keys": 2}}` makes organization `org-acme` with
        project `proj_acme`, and the keys `acme-1`, `acme-2` (secrets `sk-mock-acme-1`, ...). The
        limits apply to each model family separately. `models` defaults to `STANDARD_MODELS`.

        Raises:
            ValueError: a limit's name is unknown, or its value is not above 0.
        """
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
        models, orgs, projects, keys = read_accounts(data)
        return cls(models=models, orgs=orgs, projects=projects, keys=keys)


def default_fleet() -> MockFleet:
    """Return three unequal organizations, the largest with two keys that share its limits."""
    return MockFleet.simple(
        {
            "acme": {"rpm": 500, "tpm": 200_000, "keys": 2},
            "birch": {"rpm": 200, "tpm": 60_000},
            "cedar": {"rpm": 60, "tpm": 20_000},
        }
    )


def _limits(org: str, values: Mapping[str, int]) -> MockModelLimits:
    known = {f.name for f in fields(MockModelLimits)}
    unknown = set(values) - known - {"keys"}
    if unknown:
        raise ValueError(
            f"organization {org}: no limit {', '.join(sorted(unknown))};"
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


def _co_consumers(fleet: MockFleet) -> None:
    models = {name for model in fleet.models for name in (model.name, *model.aliases)}
    for org in fleet.orgs:
        for one in org.co_consumers:
            if one.model not in models:
                raise ValueError(
                    f"a co-consumer of {org.id} calls {one.model}, which does not exist"
                )
