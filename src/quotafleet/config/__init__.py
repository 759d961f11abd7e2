"""A configuration, from TOML, a dict or the environment, as the arguments of a pool.

    strategy = "headroom-weighted"
    [[organizations]]
    name = "acme"
    keys = ["env:OPENAI_API_KEY_ACME_1", "env:OPENAI_API_KEY_ACME_2"]
    limits = { rpm = 500, tpm = { amount = 200_000, burst = 20_000 } }

What is wrong is a `ConfigError` that names the file, the place, the value and the cure; the value
of a secret is never shown. ``quotafleet check`` prints what was understood.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, NotRequired, TypedDict

from pydantic import ValidationError
from tenacity import stop_after_attempt, wait_exponential

from .._core.call.retry import RetryPolicy
from ..errors import ConfigError
from ..keys import Secret
from ..owners import ModelLimits, Organization, Project
from ..protocols import Provider, Store
from ..providers import PROVIDERS, provider
from ..stores import open_store
from ..tokens import token_counter
from ._references import ReadableSecretWarning, resolve
from ._schema import (
    ConfigTable,
    ModelTable,
    OrganizationTable,
    ProjectTable,
    RetryTable,
    StoreTable,
    json_schema,
    refusal,
)

__all__ = [
    "PoolArguments",
    "ReadableSecretWarning",
    "json_schema",
    "load",
    "load_default",
    "store_of",
]

#: The file that is looked for in the working directory.
DEFAULT_FILE: Final = "quotafleet.toml"


class PoolArguments(TypedDict):
    """Arguments of `KeyPool`, as a configuration gives them; the pool has defaults for the rest."""

    organizations: list[Organization]
    providers: dict[str, Provider]
    strategy: str
    retry: RetryPolicy
    wait_timeout: NotRequired[float]
    max_waiting: NotRequired[int]
    store: NotRequired[Store]


def load(config: Mapping[str, object] | Path) -> PoolArguments:
    """Return the arguments of the pool that a TOML file, or a dict of its shape, describes.

    Raises:
        ConfigError: the file can't be read, or something in it is wrong.
    """
    file = None if isinstance(config, Mapping) else config
    source = None if file is None else str(file)
    given = _read(config) if isinstance(config, Path) else config
    try:
        table = ConfigTable.model_validate(given)
    except ValidationError as error:
        # Not `from`: pydantic's own message shows the values, and so perhaps a secret.
        raise refusal(error, source) from None
    providers = _providers(table, source)
    arguments = PoolArguments(
        organizations=_Reader(file, source).organizations(table),
        providers=providers,
        strategy=table.strategy,
        retry=_policy(table.retry),
    )
    if table.wait.timeout is not None:
        arguments["wait_timeout"] = table.wait.timeout
    if table.wait.max_waiting is not None:
        arguments["max_waiting"] = table.wait.max_waiting
    with _located("store", source):
        store = _store(table.store)
    if store is not None:
        arguments["store"] = store
    return arguments


def load_default() -> PoolArguments:
    """Return the arguments of the default pool.

    They come from the file that `QUOTAFLEET_CONFIG` names, else from ``quotafleet.toml`` in the
    working directory, else from `OPENAI_API_KEYS`: secrets separated by commas, each taken for an
    organization of its own (``key-1``, ``key-2``, ...) until answers show otherwise. Their
    requests go to `OPENAI_BASE_URL` where it is set, as the SDK's do, else to `OPENAI_API_BASE`,
    as those of LangChain and LiteLLM do.

    Raises:
        ConfigError: none of the three is there, or it is wrong.
    """
    file = default_file()
    if file is not None:
        return load(file)
    keys = [key.strip() for key in os.environ.get("OPENAI_API_KEYS", "").split(",")]
    keys = [key for key in keys if key]
    if not keys:
        raise ConfigError(
            "there is no configuration",
            cure="Set QUOTAFLEET_CONFIG to the path of one, or put quotafleet.toml into the "
            "working directory, or set OPENAI_API_KEYS to keys separated by commas",
        )
    base_url = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE", "")
    organizations = [
        {"name": f"key-{number}", "keys": [key], "base_url": base_url}
        for number, key in enumerate(keys, start=1)
    ]
    with _located("OPENAI_API_KEYS", None):
        return load({"organizations": organizations})


def store_of(config: Path | None) -> tuple[str, str]:
    """Return the URL and the namespace of the store that processes share, by a configuration.

    No key is read. Without `config` it is the default pool's file.

    Raises:
        ConfigError: there is no file, it is wrong, or its store is in memory.
    """
    file = config or default_file()
    if file is None:
        raise ConfigError(
            "there is no configuration that names a store",
            cure="Give the path of one, or --store redis://...",
        )
    try:
        table = ConfigTable.model_validate(_read(file))
    except ValidationError as error:
        raise refusal(error, str(file)) from None  # as in `load`
    with _located("store", str(file)):
        store, url = _store_url(table.store)
        if url == "memory":
            raise ConfigError(
                "the store is in each process's memory: nothing else can read it",
                cure='Share one: store = "redis://...", or ask the pool itself: pool.status()',
            )
    return url, store.namespace


def default_file() -> Path | None:
    """Return the configuration file of the default pool, if it has one."""
    named = os.environ.get("QUOTAFLEET_CONFIG")
    if named:
        return Path(named)
    beside = Path(DEFAULT_FILE)
    return beside if beside.exists() else None


def _read(file: Path) -> Mapping[str, object]:
    source = str(file)
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"can't be read: {error.strerror}", cure="Check the path", source=source
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"is not UTF-8 text (byte {error.start})", cure="Save it as UTF-8", source=source
        ) from None
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:  # bad syntax, absurd numbers, absurd nesting
        raise ConfigError(
            f"is not TOML: {error}", cure="See https://toml.io", source=source
        ) from error


class _Reader:
    """Makes owners of tables; knows where it is, and which names and secrets it has seen."""

    def __init__(self, file: Path | None, source: str | None) -> None:
        self._file = file
        self._source = source
        self._secrets: dict[Secret, str] = {}

    def organizations(self, table: ConfigTable) -> list[Organization]:
        _refuse_twins("organizations", [one.name for one in table.organizations], self._source)
        made = [
            self._organization(one, f"organizations[{index}]")
            for index, one in enumerate(table.organizations)
        ]
        if not self._secrets:
            raise ConfigError(
                "the pool has no key",
                cure='Give an organization at least one: keys = ["env:OPENAI_API_KEY"]',
                place="organizations",
                source=self._source,
            )
        return made

    def _organization(self, table: OrganizationTable, place: str) -> Organization:
        _refuse_twins(f"{place}.projects", [one.name for one in table.projects], self._source)
        return Organization(
            name=table.name,
            keys=self._keys(table.keys, place),
            provider=table.provider,
            base_url=table.base_url,
            limits=table.limits.limits(),
            models=_models(table.models),
            projects=tuple(
                self._project(project, f"{place}.projects[{index}]")
                for index, project in enumerate(table.projects)
            ),
            only_models=tuple(table.only_models),
            organization_id=table.organization_id,
        )

    def _project(self, table: ProjectTable, place: str) -> Project:
        return Project(
            name=table.name,
            keys=self._keys(table.keys, place),
            limits=table.limits.limits(),
            models=_models(table.models),
            project_id=table.project_id,
        )

    def _keys(self, references: list[str], owner: str) -> tuple[Secret, ...]:
        return tuple(
            self._key(reference, f"{owner}.keys[{index}]")
            for index, reference in enumerate(references)
        )

    def _key(self, reference: str, place: str) -> Secret:
        with _located(place, self._source):
            secret = resolve(reference, self._file)
        first = self._secrets.setdefault(secret, place)
        if first != place:
            raise ConfigError(
                f"the same key ({secret.masked}) stands at {first}",
                cure="Leave one out: a key has one owner, and a second copy adds no quota",
                place=place,
                source=self._source,
            )
        return secret


def _providers(table: ConfigTable, source: str | None) -> dict[str, Provider]:
    """Return every provider that the organizations or ``[providers]`` name."""
    made: dict[str, Provider] = {}
    for name, given in table.providers.items():
        with _located(f"providers.{name}", source):
            settings = given.settings()
            if given.count_tokens is not None:
                settings["count_tokens"] = token_counter(given.count_tokens)
            if (given.type or name) in PROVIDERS:
                settings["name"] = name
            made[name] = provider(given.type or name, **settings)
            if made[name].name != name:
                raise ConfigError(
                    f"the provider names itself {made[name].name!r}",
                    cure=f"Write [providers.{made[name].name}]",
                )
    for index, one in enumerate(table.organizations):
        if one.provider not in made:
            with _located(f"organizations[{index}].provider", source):
                made[one.provider] = provider(one.provider)
    return made


def _models(tables: Mapping[str, ModelTable]) -> dict[str, ModelLimits]:
    return {
        pattern: ModelLimits(limits=table.limits.limits(), shared=table.shared)
        for pattern, table in tables.items()
    }


def _policy(table: RetryTable) -> RetryPolicy:
    random = Random()  # noqa: S311 - spreads load, keeps no secret
    return RetryPolicy(
        wait=wait_exponential(multiplier=table.first_delay, max=table.max_delay),
        stop=stop_after_attempt(table.attempts),
        jitter=partial(random.uniform, 0.0),
    )


def _store(given: str | StoreTable) -> Store | None:
    table, url = _store_url(given)
    options = {"lifetime": table.lifetime, "timeout": table.timeout}
    known = {name: value for name, value in options.items() if value is not None}
    if url == "memory":
        return open_store(url)
    return open_store(
        url,
        namespace=table.namespace,
        share_for=table.share_for,
        on_failure=table.on_failure,
        **known,
    )


def _store_url(given: str | StoreTable) -> tuple[StoreTable, str]:
    table = given if isinstance(given, StoreTable) else StoreTable(url=given)
    url = table.url
    if url.startswith("env:"):
        url = os.environ.get(url.removeprefix("env:"), "")
        if not url:
            raise ConfigError(
                f"the variable {table.url.removeprefix('env:')} is not set",
                cure="Set it to the URL of the store",
            )
    return table, url


def _refuse_twins(place: str, names: list[str], source: str | None) -> None:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        first = seen.setdefault(name, index)
        if first != index:
            raise ConfigError(
                f"{name!r} is the name of {place}[{first}] too",
                cure="Put their keys under one, since they share its quota, or rename one",
                place=f"{place}[{index}].name",
                source=source,
            )


@contextmanager
def _located(place: str, source: str | None) -> Iterator[None]:
    """Give an error from below its place and file."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.problem, cure=error.cure, place=place, source=source) from error
