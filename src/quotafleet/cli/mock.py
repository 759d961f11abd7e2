"""``quotafleet mock``: the mock provider in the foreground, for programs under test."""

from __future__ import annotations

import tomllib
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from .._clock import SystemClock
from ..errors import ConfigError
from ._console import errors_told, out

if TYPE_CHECKING:
    from ..testing import MockFleet

#: What every secret of a fleet made for tests begins with; others are not shown.
FAKE: Final = "sk-mock-"


def mock(
    fleet: Annotated[
        Path | None, typer.Option(help="A TOML file; three unequal organizations when left out.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: one that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
) -> None:
    """Run a mock provider with OpenAI's limits, headers and errors, until Ctrl-C.

    Exit code 0: Ctrl-C; 2: a fleet that is wrong, or a port that is taken.
    """
    from ..testing import MockProvider, default_fleet, serve  # noqa: PLC0415 - it takes a second

    with errors_told():
        accounts = default_fleet() if fleet is None else _read(fleet)
        provider = MockProvider(accounts, clock=SystemClock())
        with serve(provider, host=host, port=port) as server:
            try:
                _introduce(server.base_url, accounts)
                Event().wait()
            except KeyboardInterrupt:
                out().print("stopped")


def _read(file: Path) -> MockFleet:
    from ..testing import MockFleet  # noqa: PLC0415

    source = str(file)
    try:
        with file.open("rb") as opened:
            given = tomllib.load(opened)
    except ValueError as error:
        raise ConfigError(f"is not TOML: {error}", source=source) from None
    try:
        return MockFleet.from_dict(given)
    except ValueError as error:
        raise ConfigError(str(error), source=source) from None


def _introduce(base_url: str, fleet: MockFleet) -> None:
    console = out()
    console.print(_drawn(fleet))
    shown = [secret for secret in fleet.secrets() if secret.startswith(FAKE)]
    console.print(Text(f"listening at {base_url}; Ctrl-C ends it. For another terminal:\n"))
    keys = ",".join(shown[:8]) or "<keys of the fleet>"
    for line in (f"export OPENAI_BASE_URL={base_url}", f"export OPENAI_API_KEYS={keys}"):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print()


def _drawn(fleet: MockFleet) -> Table:
    table = Table()
    for name in ("organization", "limits of a model", "keys"):
        table.add_column(name)
    for org in fleet.orgs:
        projects = {project.id for project in fleet.projects if project.org == org.id}
        limits = "; ".join(f"{family}: {_limits(one)}" for family, one in org.limits.items())
        keys = ", ".join(key.name for key in fleet.keys if key.project in projects)
        table.add_row(Text(org.id), Text(limits or "the model's own"), Text(keys))
    return table


def _limits(limits: object) -> str:
    names = ("rpm", "rpd", "tpm", "tpd", "ipm", "input_images")
    known = {name: getattr(limits, name) for name in names}
    return ", ".join(f"{name} {value:,}" for name, value in known.items() if value is not None)
