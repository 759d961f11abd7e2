"""The demo: a batch through a fleet of keys, and through one of them alone.

A mock provider with three unequal organizations, one of which holds two keys, answers in a
process of its own. A batch of real SDK requests runs over all keys; then the same provider, its
buckets full again, gets the same batch through one key alone, for as long as the fleet took.

The *fluid limit* is what a perfect scheduler could reach: every owner's bucket is full at the
start and refills evenly, so n requests take 60 * (n / sum of requests per minute - 1) seconds.
All requests of the demo cost the same, so a limit of tokens is one of requests too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import load
from ..pool import KeyPool
from ..testing import MockFleet, MockSettings, ServerProcess, serve_process
from ._console import duration, number, plural
from ._engine import WINDOW, Tally
from ._lines import survey
from ._output import BatchOutput
from ._session import Session

MODEL: Final = "gpt-4o-mini"
#: Bytes of a prompt: 99 tokens, with one for the message and one for the answer.
PROMPT: Final = 388
TOKENS: Final = PROMPT // 4 + 2
#: Seconds until an answer, more or less: so that calls overlap as they do in life.
LATENCY: Final = MockSettings(ttft_s=0.2, jitter=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOwner:
    """An organization of the demo: its keys, and what it allows in a minute."""

    name: str
    keys: int = 1
    rpm: int
    tpm: int

    @property
    def per_minute(self) -> float:
        """Requests of the demo that it allows in a minute, and at once when it is idle."""
        return min(self.rpm, self.tpm / TOKENS)

    def table(self, base_url: str, *, keys: int | None = None) -> dict[str, object]:
        """Return it as a configuration has it."""
        return {
            "name": self.name,
            "keys": [f"sk-mock-{self.name}-{n}" for n in range(1, (keys or self.keys) + 1)],
            "base_url": base_url,
            "limits": {"rpm": self.rpm, "tpm": self.tpm},
        }


ACME: Final = DemoOwner(name="acme", keys=2, rpm=240, tpm=200_000)
OWNERS: Final = (
    ACME,
    DemoOwner(name="birch", rpm=120, tpm=60_000),
    DemoOwner(name="cedar", rpm=500, tpm=60 * TOKENS),  # its tokens run out first
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOutcome:
    """How one run ended.

    Args:
        owners: whose keys were used.
        requests: how many there were to send.
        answered: those that were answered.
        failed: those that ended in an error.
        refused: answers 429 of the provider, by its own count.
        lost: requests sent of which the output has no line, or more than one.
        seconds: how long it took.
        by_owner: answers by owner.
    """

    owners: tuple[DemoOwner, ...]
    requests: int
    answered: int
    failed: int
    refused: int
    lost: int
    seconds: float
    by_owner: dict[str, int]

    @property
    def per_minute(self) -> float:
        """Requests that the owners allow in a minute."""
        return sum(owner.per_minute for owner in self.owners)

    @property
    def ideal(self) -> float:
        """Seconds that a perfect scheduler would take for all requests: the fluid limit."""
        return max(0.0, 60 * (self.requests / self.per_minute - 1))

    def share(self, per_minute: float) -> float:
        """Return how much was used of what such a rate allows in the time, from 0 to 1."""
        return self.answered / (per_minute * (1 + self.seconds / 60))


def show(console: Console, requests: int) -> tuple[DemoOutcome, DemoOutcome]:
    """Run the fleet and the one key, and draw what came of it."""
    with (
        TemporaryDirectory(prefix="quotafleet-demo-") as folder,
        serve_process(_mock_fleet(), settings=LATENCY) as server,
    ):
        source = Path(folder) / "in.jsonl"
        source.write_text("".join(_line(number) for number in range(requests)))
        _introduce(console, server.base_url, requests)
        console.print(Text("the fleet", style="bold"))
        tables = [owner.table(server.base_url) for owner in OWNERS]
        fleet = _run(console, server, source, tables, OWNERS)
        console.print(Text("one key alone, for as long", style="bold"))
        server.reset()
        alone = [ACME.table(server.base_url, keys=1)]
        one = _run(console, server, source, alone, (ACME,), seconds=fleet.seconds)
    console.print(_by_owner(fleet))
    console.print(_compared(fleet, one))
    _conclude(console, fleet, one)
    return fleet, one


def _mock_fleet() -> MockFleet:
    return MockFleet.simple(
        {one.name: {"rpm": one.rpm, "tpm": one.tpm, "keys": one.keys} for one in OWNERS}
    )


def body(number: int) -> bytes:
    """Return the body of a request; all are of one length."""
    prompt = f"Request {number:06}: say in one word what this is about. ".ljust(PROMPT, ".")
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}]}).encode()


def _line(number: int) -> str:
    line = {
        "custom_id": f"request-{number:06}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": json.loads(body(number)),
    }
    return json.dumps(line) + "\n"


def _run(
    console: Console,
    server: ServerProcess,
    source: Path,
    organizations: Sequence[dict[str, object]],
    owners: tuple[DemoOwner, ...],
    *,
    seconds: float | None = None,
) -> DemoOutcome:
    target = source.with_name("fleet.jsonl" if seconds is None else "one.jsonl")
    with (
        KeyPool(**load({"organizations": list(organizations)})) as pool,
        BatchOutput(target) as output,
    ):
        plan = survey(source, output.done, _never)
        tally = Tally(total=plan.valid)
        session = Session(
            pool=pool, output=output, tally=tally, window=WINDOW, console=console, seconds=seconds
        )
        began = pool.clock.now()
        if asyncio.run(session.send(plan.requests())):
            raise KeyboardInterrupt
        took = pool.clock.now() - began
        by_owner: dict[str, int] = {}
        for key in pool.status().keys:
            by_owner[key.owner] = by_owner.get(key.owner, 0) + key.answered
    lines = [json.loads(line)["custom_id"] for line in target.read_text("utf-8").splitlines()]
    return DemoOutcome(
        owners=owners,
        requests=plan.valid,
        answered=tally.answered,
        failed=tally.failed,
        refused=server.refused(),
        lost=(plan.valid - tally.left - len(lines)) + (len(lines) - len(set(lines))),
        seconds=took,
        by_owner=by_owner,
    )


def _never(line: int, reason: str) -> None:
    raise AssertionError(f"line {line} {reason}")


# What is shown


def _introduce(console: Console, base_url: str, requests: int) -> None:
    keys = sum(owner.keys for owner in OWNERS)
    console.print(
        Text(
            f"{requests:,} chat requests over {plural(keys, 'key')} of {len(OWNERS)} "
            f"organizations, at a mock provider ({base_url})"
        )
    )


def _by_owner(fleet: DemoOutcome) -> Table:
    table = Table(title="the fleet, by owner", title_justify="left", title_style="bold")
    table.add_column("organization")
    for name in ("keys", "rpm", "tpm", "allowed", "answered", "share"):
        table.add_column(name, justify="right")
    for owner in fleet.owners:
        allowed = owner.per_minute * (1 + fleet.seconds / 60)
        answered = fleet.by_owner.get(owner.name, 0)
        table.add_row(
            owner.name,
            str(owner.keys),
            number(owner.rpm),
            number(owner.tpm),
            f"{allowed:,.0f}",
            f"{answered:,}",
            f"{answered / allowed:.1%}",
        )
    return table


def _compared(fleet: DemoOutcome, one: DemoOutcome) -> Table:
    table = Table(title="the same batch", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column(_named(fleet), justify="right", style="bold")
    table.add_column(f"{ACME.name}#1 alone", justify="right")
    owned = fleet.per_minute
    rows = [
        ("answered", *(f"{run.answered:,} of {run.requests:,}" for run in (fleet, one))),
        ("refused (429)", *(f"{run.refused:,}" for run in (fleet, one))),
        ("lost", *(f"{run.lost:,}" for run in (fleet, one))),
        ("not reached in time", *(f"{_left(run):,}" for run in (fleet, one))),
        ("time", duration(fleet.seconds), f"{duration(one.seconds)}, then stopped"),
        ("at best (fluid limit)", *(duration(run.ideal) for run in (fleet, one))),
        ("of its owners' quota", *(f"{r.share(r.per_minute):.1%}" for r in (fleet, one))),
        ("of all quota there is", *(f"{r.share(owned):.1%}" for r in (fleet, one))),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _named(run: DemoOutcome) -> str:
    return f"{sum(owner.keys for owner in run.owners)} keys, {len(run.owners)} organizations"


def _left(run: DemoOutcome) -> int:
    return run.requests - run.answered - run.failed


def _conclude(console: Console, fleet: DemoOutcome, one: DemoOutcome) -> None:
    times = fleet.answered / max(1, one.answered)
    console.print(
        Text(
            f"In the same {duration(fleet.seconds)} the fleet answered {times:.1f} times as many. "
            f"The second key of {ACME.name} adds none of it: its keys share one quota.",
            style="green" if fleet.answered == fleet.requests else "red",
        )
    )
