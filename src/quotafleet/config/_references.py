"""Where a key's secret is found: ``env:NAME``, ``file:PATH``, ``keyring:SERVICE/USER``, or itself.

A configuration that only refers to its secrets can be shared and committed. No error shows what
stands where a name should, for it may be a secret that was pasted there.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..keys import Secret

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ReadableSecretWarning(UserWarning):
    """A secret stands in a configuration file that other users of the machine can read."""


def resolve(reference: str, file: Path | None) -> Secret:
    """Return the secret that a reference means.

    Args:
        reference: as it stands in the configuration.
        file: the configuration file; ``None`` where the configuration was given in code.

    Raises:
        ConfigError: there is nothing there, or nothing that could be a key.
    """
    kind, colon, rest = reference.partition(":")
    if not colon:
        return _literal(reference, file)
    find = _KINDS.get(kind)
    if find is None:
        near = get_close_matches(kind, _KINDS, n=1)
        if near:
            raise ConfigError(
                f"unknown kind of key {kind + ':'!r}", cure=f"Did you mean {near[0] + ':'!r}?"
            )
        return _literal(reference, file)
    return Secret(find(rest, file.parent if file is not None else Path()))


def _literal(secret: str, file: Path | None) -> Secret:
    found = Secret(secret)
    if file is not None and os.name == "posix" and file.stat().st_mode & 0o077:
        mode = stat.S_IMODE(file.stat().st_mode)
        warnings.warn(
            f"{file} holds a secret ({found.masked}) and others can read it (mode {mode:o}): "
            f"chmod 600 it, or refer to the key as env:NAME or file:PATH",
            ReadableSecretWarning,
            stacklevel=2,
        )
    return found


def _from_environment(name: str, _: Path) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "what follows env: is not the name of a variable",
            cure='Write it like "env:OPENAI_API_KEY_ACME"',
        )
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(
            f"the variable {name} of env:{name} is not set",
            cure=f"export {name}=..., or remove the key",
        )
    if not value.strip():
        raise ConfigError(f"the variable {name} is empty", cure=f"export {name}=sk-...")
    return value.strip()


def _from_file(path: str, folder: Path) -> str:
    file = folder / Path(path).expanduser()
    cure = "A relative path starts at the configuration file; the file holds nothing but the key"
    try:
        value = file.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}", cure=cure) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text", cure=cure) from error
    if not value:
        raise ConfigError(f"{file} is empty", cure=cure)
    return value


def _from_keyring(entry: str, _: Path) -> str:
    service, slash, user = entry.rpartition("/")
    if not (slash and service and user):
        raise ConfigError(
            "what follows keyring: is not SERVICE/USER", cure='Write it like "keyring:openai/acme"'
        )
    try:
        keyring = import_module("keyring")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"keyring:{entry} needs the package keyring",
            cure="pip install keyring",
        ) from error
    try:
        value: str | None = keyring.get_password(service, user)
    except Exception as error:  # backends raise what they like
        raise ConfigError(
            f"the keyring can't be read: {type(error).__name__}",
            cure="Unlock it, or use env: or file:",
        ) from error
    if not value:
        raise ConfigError(
            f"the keyring has no password of {service!r} for {user!r}",
            cure=f"keyring set {service} {user}",
        )
    return value.strip()


_KINDS: Final[dict[str, Callable[[str, Path], str]]] = {
    "env": _from_environment,
    "file": _from_file,
    "keyring": _from_keyring,
}
