"""``quotafleet status``: a live fleet, read from the Redis that its processes share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..errors import StoreError
from ._address import Namespace, Store, fleet_at, without
from ._console import INTERRUPTED, duration, number, out

if TYPE_CHECKING:
    from ..stores.redis import FleetReport

#: The number of the JSON's shape; it changes only if a field is renamed or removed.
SHAPE: Final = 1
#: The share of a limit below which what is left is shown in yellow; at 0 in red.
_LOW: Final = 0.2


def status(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; the default pool's when left out.")
    ] = None,
    store: Store = None,
    namespace: Namespace = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh in place until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between refreshes.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a look.")] = False,
) -> None:
    """Show a live fleet: scopes, levels, rates, waiting, health, processes. Shows no secret.

    Exit code 0: shown; 2: no such fleet, or its server doesn't answer.
    """
    with fleet_at(config, store, namespace) as (url, name):
        if watch:
            _watch(url, name, every, as_json=as_json)
        else:
            _show(_read(url, name), as_json=as_json)


def _read(url: str, namespace: str) -> FleetReport:
    from ..stores.redis import read_fleet  # noqa: PLC0415 - only where it is used

    return read_fleet(url, namespace)


def _watch(url: str, namespace: str, every: float, *, as_json: bool) -> None:
    """Show it again and again; a server that is away for a while is waited for."""
    first = _read(url, namespace)
    pause = Event()
    try:
        console = out()
        if as_json or not console.is_terminal:
            _show(first, as_json=as_json)
            while not pause.wait(every):
                _show(_read(url, namespace), as_json=as_json)
            return
        with Live(_drawn(first), console=console, auto_refresh=False) as live:
            while not pause.wait(every):
                try:
                    live.update(_drawn(_read(url, namespace)), refresh=True)
                except StoreError as error:
                    told = Text(without(url, str(error)), style="red")
                    live.update(Group(_drawn(first), told), refresh=True)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _show(report: FleetReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"shape": SHAPE, **asdict(report)}))
    else:
        out().print(_drawn(report))


# Tables


def _drawn(report: FleetReport) -> Group:
    held = sum(owner.in_flight for owner in report.owners)
    waiting = sum(process.waiting for process in report.processes)
    head = Text.assemble(
        (report.namespace, "bold"),
        f": processes {len(report.processes):,}, calls in flight {held:,}, waiting {waiting:,}",
    )
    parts: list[Text | Table] = [head, _levels(report), _owners(report)]
    if report.processes:
        parts.append(_processes(report))
    if report.health:
        parts.append(_health(report))
    parts += [
        Text(f"{merge.organization} and {merge.into} are one owner", style="cyan")
        for merge in report.merges
    ]
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if name != column else "left")
    return table


def _rows(table: Table, rows: Iterable[Iterable[str | Text]]) -> Table:
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _levels(report: FleetReport) -> Table:
    table = _table("limits", "scope", "model", "limit", ">amount", ">left", ">a minute", "notes")
    for scope in report.scopes:
        for level in scope.levels:
            share = level.available / level.limit
            style = "red" if share <= 0 else "yellow" if share < _LOW else "green"
            notes = [
                "learned" if level.learned else "",
                f"slowed to {level.throttle:.0%}" if level.throttle < 1 else "",
                f"{number(round(level.booked))} booked" if level.booked > 0 else "",
            ]
            table.add_row(
                Text(level.scope),
                Text(scope.family or "all"),
                Text(level.name),
                number(level.limit),
                Text(number(round(level.available)), style=style),
                number(round(level.refills_per_second * 60)) if level.refills_per_second else "",
                ", ".join(note for note in notes if note),
            )
    return table


def _owners(report: FleetReport) -> Table:
    table = _table("organizations", "organization", ">in flight", ">processes waiting for a slot")
    return _rows(
        table,
        (
            (owner.organization, f"{owner.in_flight:,}", f"{owner.waiting_processes:,}")
            for owner in report.owners
        ),
    )


def _processes(report: FleetReport) -> Table:
    table = _table("processes", "host", ">pid", ">runs for", ">in flight", ">waiting")
    return _rows(
        table,
        (
            (
                one.host,
                str(one.pid),
                duration(one.runs_for),
                f"{one.in_flight:,}",
                f"{one.waiting:,}",
            )
            for one in report.processes
        ),
    )


def _health(report: FleetReport) -> Table:
    table = _table("not in use", "subject", "state", "reason", ">for")
    return _rows(
        table,
        (
            (
                one.subject,
                Text(one.state, style="red" if one.state == "dead" else "yellow"),
                one.reason,
                "" if one.retry_after is None else duration(one.retry_after),
            )
            for one in report.health
        ),
    )
