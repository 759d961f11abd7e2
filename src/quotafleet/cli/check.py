"""``quotafleet check``: says what a configuration means, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from ..config import json_schema
from ..keys import ApiKey, origin
from ..limits import Limits
from ..owners import ModelLimits, Organization, Project
from ..pool import KeyPool
from ..protocols import Provider
from ._console import arguments, errors_told, number, out, plural, say


def check(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; the default pool's when left out.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the configuration.")
    ] = False,
) -> None:
    """Validate a configuration: scopes, limits, and which keys share quota. Shows no secret.

    Exit code 0: it is right; 2: it is not.
    """
    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    with errors_told():
        source, found, warned = arguments(config)
        with KeyPool(**found) as pool:
            keys = pool.keys
        organizations = found["organizations"]
        for organization in organizations:
            out().print(_drawn(organization, found["providers"]))
        facts = [
            f"{source} is right",
            f"{plural(len(keys), 'key')} of {plural(len(organizations), 'organization')}",
            f"strategy {found['strategy']}",
        ]
        out().print(Text(": ".join([facts[0], ", ".join(facts[1:])]), style="green"))
        for warning in [*warned, *_warnings(organizations)]:
            say("warning", "bold yellow", warning)


def _drawn(organization: Organization, providers: Mapping[str, Provider]) -> Tree:
    name = organization.provider_name
    url = organization.base_url or providers[name].base_url
    tree = Tree(Text.assemble((organization.name, "bold"), f"  {name}  ", (url, "dim")))
    if organization.only_models:
        tree.add(Text(f"only models {', '.join(organization.only_models)}"))
    _add_limits(tree, organization.limits, organization.models)
    keys = list(organization.api_keys())
    _add_keys(tree, [key for key in keys if key.project is None])
    for project in organization.projects:
        _add_project(tree, project, [key for key in keys if key.project == project.name])
    if len(keys) > 1:
        tree.add(Text(f"its {len(keys)} keys share one quota", style="cyan"))
    return tree


def _add_project(tree: Tree, project: Project, keys: list[ApiKey]) -> None:
    branch = tree.add(Text.assemble("project ", (project.name, "bold")))
    _add_limits(branch, project.limits, project.models)
    _add_keys(branch, keys)


def _add_limits(tree: Tree, limits: Limits, models: Mapping[str, ModelLimits]) -> None:
    tree.add(Text(f"limits {_told(limits) or 'not stated: learned from answers'}"))
    for pattern, special in models.items():
        together = ", one bucket for all of them" if special.shared else ""
        tree.add(Text(f"limits of {pattern}: {_told(special.limits) or 'as above'}{together}"))


def _add_keys(tree: Tree, keys: Iterable[ApiKey]) -> None:
    for key in keys:
        tree.add(Text.assemble(f"key {key.key_id}  ", (key.secret.masked, "dim")))


def _told(limits: Limits) -> str:
    return ", ".join(
        f"{limit.name} {number(limit.amount)}"
        + ("" if limit.burst is None else f" (burst {number(limit.burst)})")
        for limit in limits
    )


def _warnings(organizations: Iterable[Organization]) -> Iterable[str]:
    ids: dict[tuple[str, str], str] = {}
    for one in organizations:
        name = f"organization {one.name!r}"
        if not any(True for _ in one.api_keys()):
            yield f"{name} has no key, so nothing is sent in its name"
        if one.base_url and _is_open(one.base_url):
            yield f"{name} sends its keys unencrypted: {one.base_url} is not https"
        if one.organization_id is not None:
            twin = ids.setdefault((one.provider_name, one.organization_id), one.name)
            if twin != one.name:
                yield f"{name} has the id of {twin!r}: they share one quota, put them under one"


def _is_open(url: str) -> bool:
    scheme, host, _ = origin(url)
    return scheme == "http" and host not in ("localhost", "127.0.0.1", "::1")
