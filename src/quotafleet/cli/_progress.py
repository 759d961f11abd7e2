"""How far a batch is, for people: a live view in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .._status import ScopeStatus, Status
from ..pool import KeyPool
from ._console import duration
from ._engine import Tally

#: Seconds between two pictures: often enough to look alive, rare enough to cost nothing.
LIVE_EVERY: Final = 0.5
PLAIN_EVERY: Final = 5.0
#: The same for runs of more than a minute: a log is to be read.
PLAIN_LATER: Final = 30.0
#: Seconds over which the rate is taken.
RATE_OVER: Final = 60.0
#: Owners that are shown; the fullest screen has room for them.
SHOWN: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What an owner has left of its scarcest limit, as a share from 0 to 1."""

    owner: str
    limit: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressView:
    """What is shown: one instant of a batch."""

    done: int
    total: int
    per_minute: float
    eta: float | None
    refused: int
    failed: int
    waiting: int
    in_flight: int
    headroom: tuple[Headroom, ...]
    hidden: int


class ProgressMeter:
    """Makes views of a batch; remembers enough to know the rate."""

    def __init__(self, pool: KeyPool, tally: Tally) -> None:
        self._pool = pool
        self._tally = tally
        self._samples: deque[tuple[float, int]] = deque([(pool.clock.now(), tally.done)])

    def view(self) -> ProgressView:
        """Return the state of affairs."""
        tally, status = self._tally, self._pool.status()
        rate = self._rate()
        headroom = sorted(headroom_of(status), key=lambda one: one.share)
        return ProgressView(
            done=tally.done,
            total=tally.total,
            per_minute=60 * rate,
            eta=tally.left / rate if rate else None,
            refused=sum(key.refused for key in status.keys),
            failed=tally.failed,
            waiting=status.waiting,
            in_flight=status.in_flight,
            headroom=tuple(sorted(headroom[:SHOWN], key=lambda one: one.owner)),
            hidden=max(0, len(headroom) - SHOWN),
        )

    def _rate(self) -> float:
        """Return lines per second of the last minute."""
        now, samples = self._pool.clock.now(), self._samples
        samples.append((now, self._tally.done))
        while samples[0][0] < now - RATE_OVER and len(samples) > 2:
            samples.popleft()
        (since, before), (_, done) = samples[0], samples[-1]
        return (done - before) / (now - since) if now > since else 0.0


def headroom_of(status: Status) -> list[Headroom]:
    """Return what each owner has left of its scarcest limit; owners of no known limit left out."""
    scarcest: dict[str, Headroom] = {}
    for scope in status.scopes:
        for one in _headrooms(scope):
            if scope.owner not in scarcest or one.share < scarcest[scope.owner].share:
                scarcest[scope.owner] = one
    return list(scarcest.values())


def _headrooms(scope: ScopeStatus) -> list[Headroom]:
    return [
        Headroom(
            owner=scope.owner,
            limit=level.name,
            share=min(1.0, max(0.0, level.available / level.limit)),
        )
        for level in scope.levels
    ]


async def watch(meter: ProgressMeter, console: Console) -> None:
    """Show a batch until cancelled; a last time then."""
    if console.is_terminal:
        await _watch_live(meter, console)
        return
    for number in count():
        await asyncio.sleep(PLAIN_EVERY if number * PLAIN_EVERY < 60 else PLAIN_LATER)
        console.print(plain(meter.view()), soft_wrap=True, markup=False)


async def _watch_live(meter: ProgressMeter, console: Console) -> None:
    with Live(console=console, auto_refresh=False, transient=False) as live:
        try:
            while True:
                live.update(drawn(meter.view()), refresh=True)
                await asyncio.sleep(LIVE_EVERY)
        finally:
            live.update(drawn(meter.view()), refresh=True)


def plain(view: ProgressView) -> str:
    """Return a view as one line of text."""
    parts = [
        f"{view.done:,}/{view.total:,} ({_percent(view)} %)",
        f"{view.per_minute:,.0f}/min",
        f"ETA {_eta(view)}",
        f"refused {view.refused:,}",
        f"failed {view.failed:,}",
        f"waiting {view.waiting:,}",
        f"in flight {view.in_flight:,}",
    ]
    owners = [f"{one.owner} {one.share:.0%} of {one.limit}" for one in view.headroom]
    if view.hidden:
        owners.append(f"{view.hidden} more")
    if owners:
        parts.append("headroom: " + ", ".join(owners))
    return " | ".join(parts)


def drawn(view: ProgressView) -> RenderableType:
    """Return a view as a bar, a line of counts, and a bar for each owner's headroom."""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        ProgressBar(total=max(1, view.total), completed=view.done, width=30),
        Text(f"{view.done:,}/{view.total:,}", style="bold"),
        Text(f"{_percent(view)} %"),
        Text(f"{view.per_minute:,.0f}/min", style="cyan"),
        Text(f"ETA {_eta(view)}"),
    )
    counts = Text.assemble(
        "refused ",
        (f"{view.refused:,}", "yellow" if view.refused else "green"),
        "   failed ",
        (f"{view.failed:,}", "red" if view.failed else "green"),
        f"   waiting {view.waiting:,}   in flight {view.in_flight:,}",
    )
    owners = Table.grid(padding=(0, 2))
    for one in view.headroom:
        owners.add_row(
            Text(one.owner, style="bold"),
            ProgressBar(total=1.0, completed=one.share, width=20, complete_style="cyan"),
            Text(f"{one.share:.0%} of {one.limit} left", style="dim"),
        )
    more = [Text(f"and {view.hidden} more owners", style="dim")] if view.hidden else []
    return Group(head, counts, owners, *more)


def _percent(view: ProgressView) -> str:
    return f"{100 * view.done / view.total:.0f}" if view.total else "100"


def _eta(view: ProgressView) -> str:
    return "?" if view.eta is None else duration(view.eta)
