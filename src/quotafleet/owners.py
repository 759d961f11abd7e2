"""Owners as their user states them: organizations, their projects, keys and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from .errors import ConfigError
from .keys import ApiKey, Secret, origin
from .limits import Limits
from .protocols import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Limits of the models whose name matches a pattern, in place of the owner's own.

    Args:
        limits: those that differ; the others stay as the owner's.
        shared: all matching models draw on one bucket together. By default each has its own.
    """

    limits: Limits = field(default_factory=Limits)
    shared: bool = False


def _check_limits(name: str, limits: object) -> None:
    if not isinstance(limits, Limits):
        raise ConfigError(
            f"the limits of {name!r} are a {type(limits).__name__}", cure="Give Limits(rpm=500)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project inside an organization: its own keys, and limits below the organization's.

    Args:
        name: unique in the organization.
        keys: secrets; a `str` is taken as the secret itself.
        limits: what the project may use of the organization's quota.
        models: limits by model pattern.
        project_id: the provider's id, sent along with requests; needed only for keys that
            may act for several projects.
    """

    name: str
    keys: tuple[ApiKey | Secret | str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    models: Mapping[str, ModelLimits] = field(default_factory=dict)
    project_id: str | None = None

    def __post_init__(self) -> None:
        _check_limits(self.name, self.limits)
        object.__setattr__(self, "keys", _secrets(self.keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """Who owns a quota, and the keys that draw on it. Its keys share all; more add no capacity.

    Args:
        name: unique in a pool.
        keys: secrets; a `str` is taken as the secret itself. An `ApiKey` brings its own
            `key_id`, provider, base URL and models; its owner is this organization.
        provider: whose rules apply: ``"openai"``, or ``"generic"`` for what is compatible; or an
            object with settings of its own, such as ``OpenAI(reserve="max_tokens")``.
        base_url: where its requests go; ``""`` = the provider's own.
        limits: as the provider states them, per model; what is left out is learned.
        models: limits by model pattern, such as ``"gpt-4o*"``.
        projects: projects with keys or limits of their own.
        only_models: patterns of the models that its keys may use; empty = all.
        organization_id: the provider's id, sent along with requests; needed only for keys
            that may act for several organizations.

    Raises:
        ConfigError: no name, or a base URL that is none.
    """

    name: str
    keys: tuple[ApiKey | Secret | str, ...] = ()
    provider: str | Provider = "openai"
    base_url: str = ""
    limits: Limits = field(default_factory=Limits)
    models: Mapping[str, ModelLimits] = field(default_factory=dict)
    projects: tuple[Project, ...] = ()
    only_models: tuple[str, ...] = ()
    organization_id: str | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *(project.name for project in self.projects)):
            if not name or "/" in name:
                raise ConfigError(
                    f"{name!r} can't name an organization or project",
                    cure='Give it a name without "/"',
                )
        if self.base_url:
            origin(self.base_url)
        if not isinstance(self.models, Mapping):
            raise ConfigError(
                f"models = {self.models!r} of {self.name!r} has no limits",
                cure='Write {"gpt-4o*": ModelLimits(...)}; `only_models` says what is allowed',
            )
        _check_limits(self.name, self.limits)
        object.__setattr__(self, "keys", _secrets(self.keys))
        object.__setattr__(self, "projects", tuple(self.projects))

    @property
    def provider_name(self) -> str:
        """The name of its provider."""
        return self.provider if isinstance(self.provider, str) else self.provider.name

    def api_keys(self) -> Iterable[ApiKey]:
        """Yield its keys, named ``acme#1``, ``acme/research#1``."""
        yield from self._keys_of(None)
        for project in self.projects:
            yield from self._keys_of(project)

    def _keys_of(self, project: Project | None) -> Iterable[ApiKey]:
        owner = self.name if project is None else f"{self.name}/{project.name}"
        for number, secret in enumerate((project or self).keys, start=1):
            if isinstance(secret, ApiKey):
                name = None if project is None else project.name
                yield replace(secret, organization=self.name, project=name)
                continue
            yield ApiKey(
                key_id=f"{owner}#{number}",
                secret=secret if isinstance(secret, Secret) else Secret(secret),
                provider=self.provider_name,
                base_url=self.base_url,
                organization=self.name,
                project=None if project is None else project.name,
                organization_id=self.organization_id,
                project_id=None if project is None else project.project_id,
                only_models=self.only_models,
            )


class Owners:
    """All owners of a pool: their keys, and the limits of each for each model family.

    Raises:
        ConfigError: no key at all, two organizations or projects with one name, one secret twice,
            two providers of one name with different settings.
    """

    def __init__(self, organizations: Iterable[Organization]) -> None:
        self._organizations: dict[str, Organization] = {}
        self._projects: dict[tuple[str, str], Project] = {}
        #: The providers that organizations were given as objects, by name.
        self.providers: dict[str, Provider] = {}
        for organization in organizations:
            self._add(organization)
        self.keys = tuple(key for org in self._organizations.values() for key in org.api_keys())
        if not self.keys:
            raise ConfigError(
                "the pool has no key",
                cure="Give an organization at least one key, or set OPENAI_API_KEYS",
                place="organizations",
            )
        _refuse_duplicates(self.keys)

    def _add(self, organization: Organization) -> None:
        if organization.name in self._organizations:
            raise ConfigError(
                f"two organizations are named {organization.name!r}",
                cure="Put their keys under one, since they share its quota, or rename one",
                place="organizations",
            )
        self._organizations[organization.name] = organization
        self._add_provider(organization)
        for project in organization.projects:
            if (organization.name, project.name) in self._projects:
                raise ConfigError(
                    f"two projects of {organization.name!r} are named {project.name!r}",
                    cure="Put their keys under one, since they share its quota, or rename one",
                    place="organizations.projects",
                )
            self._projects[organization.name, project.name] = project

    def _add_provider(self, organization: Organization) -> None:
        given = organization.provider
        if isinstance(given, str):
            return
        if self.providers.setdefault(given.name, given) != given:
            raise ConfigError(
                f"the provider {given.name!r} of {organization.name!r} has other settings than "
                "another organization's of that name",
                cure=f'Give one a name of its own, such as name="{given.name}-2"',
                place="organizations.provider",
            )

    def limits_for(self, organization: str, project: str | None, family: str) -> Limits:
        """Return the configured limits of an owner for a model family."""
        owner: Organization | Project | None = self._organizations.get(organization)
        if project is not None:
            owner = self._projects.get((organization, project))
        if owner is None:  # found out by an answer, not configured
            return Limits()
        limits = owner.limits
        for pattern, special in sorted(owner.models.items(), key=lambda item: len(item[0])):
            if fnmatchcase(family, pattern) or family == pattern:
                limits = limits.overridden_by(special.limits)
        return limits

    def shared_family(self, organization: str, family: str) -> str:
        """Return the pattern whose models share one bucket with this family, or the family."""
        owner = self._organizations.get(organization)
        if owner is not None:
            for pattern, special in owner.models.items():
                if special.shared and fnmatchcase(family, pattern):
                    return pattern
        return family


def _secrets(keys: Iterable[ApiKey | Secret | str]) -> tuple[ApiKey | Secret, ...]:
    if isinstance(keys, str):
        raise ConfigError("keys is one string", cure="Give a list of keys")
    return tuple(Secret(key) if isinstance(key, str) else key for key in keys)


def _refuse_duplicates(keys: Iterable[ApiKey]) -> None:
    seen: dict[Secret, str] = {}
    names: set[str] = set()
    for key in keys:
        if key.key_id in names:
            raise ConfigError(
                f"two keys are named {key.key_id!r}",
                cure="Give each its own key_id",
                place="organizations",
            )
        names.add(key.key_id)
        if key.secret in seen:
            raise ConfigError(
                f"{key.key_id} and {seen[key.secret]} are the same key ({key.secret.masked})",
                cure="Leave one out: a key has one owner, and a second copy adds no quota",
                place="organizations",
            )
        seen[key.secret] = key.key_id
