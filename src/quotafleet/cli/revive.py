"""``quotafleet revive``: put back into use what a live fleet leaves alone, in all its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ._address import Namespace, Store, fleet_at
from ._console import SOME_FAILED, plural, say


def revive(
    name: Annotated[
        str | None,
        typer.Argument(help="Part of the subject's name, as `quotafleet status` shows it."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is not in use.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file; the default pool's when left out.")
    ] = None,
    store: Store = None,
    namespace: Namespace = None,
) -> None:
    """Let a fleet use again what it left alone: a key that was unblocked, an owner with new credit.

    Exit code 0: revived; 1: nothing of that name is left alone; 2: no such fleet, or its server
    doesn't answer.
    """
    with fleet_at(config, store, namespace) as (url, fleet):
        if everything == bool(name):
            raise ConfigError("what is to be revived?", cure="Give part of its name, or --all")
        from ..stores.redis import revive_fleet  # noqa: PLC0415 - only where it is used

        revived = revive_fleet(url, fleet, name)
    for subject in revived:
        typer.echo(f"{subject} is in use again")
    if not revived:
        say("nothing", "bold", f"of {fleet} is left alone by that name: see quotafleet status")
        raise typer.Exit(SOME_FAILED)
    say("revived", "bold green", plural(len(revived), "subject"))
