"""What a run shows, from the provider's own log and the processes' reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.fleet.order import Order
from benchmarks.race.bound import Supply, yielded


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was gathered: of each process its report, the provider's state, commands sent."""

    order: Order
    reports: list[dict[str, Any]]
    state: Mapping[str, Any]
    commands: Counter[str]


def beyond(counts: Iterable[float], limit: float, per_second: float) -> float:
    """Return by how much the fullest window goes beyond a bucket that was full at its start.

    `counts` are of seconds in a row; a window of some of them lasts no longer than their number.
    """
    worst, owed = -limit, 0.0
    for count in counts:
        owed = max(owed, 0.0) + count - per_second
        worst = max(worst, owed - limit)
    return worst


def jain(counts: list[int]) -> float:
    """Return Jain's index of fairness: 1.0 = all the same, 1/n = one has it all."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


class Figures:
    """One run's figures."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.order = order = run.order
        self._per_second = {name: self._counts(f"org-{name}/") for name in order.rpm}

    def _counts(self, begin: str) -> list[int]:
        """Return what the provider admitted of an owner in each second from the start on."""
        found: Counter[int] = Counter()
        for name, pulse in self.run.state["admitted_per_second"].items():
            if name.startswith(begin):
                found.update({int(second): beat[0] for second, beat in pulse.items()})
        return [found[second] for second in range(max(found, default=-1) + 1)]

    @property
    def admitted(self) -> int:
        """Attempts that the provider admitted within the run."""
        return sum(self.in_seconds(0, self.order.seconds))

    def in_seconds(self, first: float, last: float) -> list[int]:
        """Return what it admitted of each owner from one second until another."""
        return [sum(counts[int(first) : int(last)]) for counts in self._per_second.values()]

    @property
    def beyond(self) -> dict[str, float]:
        """Of each owner, by how much its fullest window went beyond its limit; below 0 = not."""
        return {
            name: beyond(self._per_second[name], rpm, rpm / 60)
            for name, rpm in self.order.rpm.items()
        }

    @property
    def refused(self) -> int:
        """Attempts that the provider refused for a limit."""
        return int(self.run.state["refused"])

    @property
    def fluid(self) -> float:
        """What the owners' buckets, full at first, yield in the run's time: nothing is more."""
        owners = [[Supply(metric="requests", limit=rpm)] for rpm in self.order.rpm.values()]
        return yielded(owners, "requests", self.order.seconds)

    @property
    def used(self) -> float:
        """The share of the fluid limit."""
        return self.admitted / self.fluid

    def rate_after(self, second: float) -> float:
        """Return the share of the owners' rates that was used from a second on."""
        rate = sum(self.order.rpm.values()) / 60
        last = self.order.seconds
        return sum(self.in_seconds(second, last)) / (rate * (int(last) - int(second)))

    @property
    def answered(self) -> list[int]:
        """Of each process that was not killed, calls that were answered."""
        return [report["ended"].get("answered", 0) for report in self.run.reports]

    @property
    def lost(self) -> Counter[str]:
        """Calls that ended otherwise, by their errors."""
        every: Counter[str] = Counter()
        for report in self.run.reports:
            every.update(report["ended"])
        del every["answered"]
        return every

    def lines(self) -> Iterable[str]:
        """Return the run's figures for people."""
        order, worst = self.order, max(self.beyond.values())
        yield (
            f"admitted {self.admitted:,} of {self.fluid:,.0f} in {order.seconds:g} s "
            f"({self.used:.1%} of the fluid limit); {max(0.0, worst):.0f} beyond a limit in any "
            f"window of any owner (nearest: {worst:+.1f})"
        )
        yield (
            f"refused {self.refused} ({self.refused / max(1, self.admitted):.2%}), "
            f"lost {self.lost.total()} {dict(self.lost) or ''}"
        )
        shares = ", ".join(str(count) for count in self.answered)
        yield f"answered by process: {shares}; Jain index {jain(self.answered):.4f}"
        sent, steps = self.run.commands, sum(report["steps"] for report in self.run.reports)
        told = ", ".join(f"{count:,} {name}" for name, count in sent.most_common())
        yield (
            f"commands {sent.total() / max(1, self.admitted):.3f} an admitted attempt ({told}); "
            f"round trips for claims and settlements {steps / max(1, sum(self.answered)):.3f}"
        )
        cpu = sum(report["cpu"] for report in self.run.reports)
        yield f"CPU of the processes {cpu:.1f} s"
        if order.kill:
            after = order.seconds / 2 + order.lifetime
            rate = self.rate_after(after + 1)
            yield f"from a lifetime after the kill on: {rate:.1%} of the rates"
        if order.away:
            there = order.seconds / 3 + order.away
            gone = sum(self.in_seconds(order.seconds / 3 + 1, there))
            yield (
                f"while the store was away: {gone} admitted; from its return on: "
                f"{self.rate_after(there):.1%} of the rates"
            )
