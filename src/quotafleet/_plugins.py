"""What a name in a configuration stands for: built in, an entry point, or an import path.

Strategies, providers and token counters are all found this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeVar

from .errors import ConfigError

T = TypeVar("T")


def find(
    name: str, *, kind: str, builtin: Mapping[str, T], group: str, hint: str = ""
) -> T | object:
    """Return what a name stands for.

    Args:
        name: a name in `builtin`, an entry point's name, or ``"package.module:attribute"``.
        kind: what it is, for errors: ``"strategy"``.
        builtin: what quotafleet brings, by name.
        group: the group of entry points under which packages offer more.
        hint: ends the cure of an unknown name.

    Raises:
        ConfigError: nothing has that name, or importing it failed.
    """
    if name in builtin:
        return builtin[name]
    try:
        for point in entry_points(group=group):
            if point.name == name:
                loaded: object = point.load()
                return loaded
        module, colon, attribute = name.partition(":")
        if colon:
            found: object = getattr(import_module(module), attribute)
            return found
    except Exception as error:  # importing runs a user's code, which may raise anything
        raise ConfigError(
            f"{kind} {name!r} can't be imported: {type(error).__name__}: {error}",
            cure='Check the package is installed, and write "package.module:attribute"',
            place=kind,
        ) from error
    near = get_close_matches(name, builtin, n=1)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    known = f"Known: {', '.join(builtin)}, an entry point of {group}, or"
    raise ConfigError(
        f"unknown {kind} {name!r}",
        cure=f'{meant}{known} "package.module:attribute"{hint}',
        place=kind,
    )
