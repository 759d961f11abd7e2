"""Where the commands that look at a live fleet find it, and how they keep its password."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..config import store_of
from ..errors import ConfigError, StoreError
from ._console import BAD_INPUT, errors_told, say

Store = Annotated[
    str | None,
    typer.Option(help="redis://..., or env:NAME of a variable that holds it; then no file."),
]
Namespace = Annotated[str | None, typer.Option(help="Of which fleet; the file's, else default.")]


def address(config: Path | None, store: str | None) -> tuple[str, str]:
    """Return the store's URL and the namespace."""
    if store is None:
        return store_of(config)
    if config is not None:
        raise ConfigError("both a file and --store are given", cure="Leave one out")
    if store.startswith("env:"):
        store = os.environ.get(store.removeprefix("env:"), "")
    if not store:
        raise ConfigError("--store is empty, or names a variable that is not set")
    return store, "default"


def without(url: str, message: str) -> str:
    """Return a message without the URL's password, should a library have put it there."""
    password = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    return message.replace(password, "...") if password else message


@contextmanager
def fleet_at(
    config: Path | None, store: str | None, namespace: str | None
) -> Iterator[tuple[str, str]]:
    """Yield a fleet's URL and namespace; tell what is wrong with it in one line, and exit."""
    with errors_told():
        url, name = address(config, store)
        try:
            yield url, namespace if namespace is not None else name
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "redis":
                raise
            say("error", "bold red", "this command needs the package redis: pip install redis")
            raise typer.Exit(BAD_INPUT) from None
        except StoreError as error:
            say("error", "bold red", without(url, str(error)))
            raise typer.Exit(BAD_INPUT) from None
