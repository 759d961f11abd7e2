"""The result of a race."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.race.scenarios import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a race.

    Args:
        seconds: from the start to the last answer.
        bound: the physical bound, in seconds.
        answered, lost: calls.
        refused: answers that refused a contender for a rate limit.
        delays: seconds of each call beyond the provider's own, sorted.
        cpu: CPU seconds of the contender's process.
        simulated: the result on a simulated clock, with a client that works as long on each call;
            ``None``: it did not run there.
    """

    seconds: float
    bound: float
    answered: int
    lost: int
    refused: int
    delays: tuple[float, ...] = ()
    cpu: float = 0.0
    simulated: Result | None = None

    @property
    def calls(self) -> int:
        """The number of calls."""
        return self.answered + self.lost

    @property
    def agreement(self) -> float | None:
        """The time over the simulated one; ``None``: not simulated, or calls were lost."""
        if self.simulated is None or self.lost or self.simulated.lost:
            return None
        return self.seconds / self.simulated.seconds

    @property
    def over(self) -> float:
        """The time over the bound; 1.0 is perfect."""
        return self.seconds / self.bound if self.bound else float("inf")

    def delay(self, share: float) -> float:
        """Return the delay in seconds that this share of the calls did not exceed."""
        if not self.delays:
            return float("inf")
        return self.delays[min(len(self.delays) - 1, int(share * len(self.delays)))]


def taken(scenario: Scenario, state: Mapping[str, Any]) -> dict[str, float]:
    """Return the requests that other applications took of each owner, by the provider's report."""
    orgs = state["orgs"]
    return {
        name: sum(other["requests"] for other in orgs[f"org-{name}"]["co_consumers"])
        for name in scenario.others
    }
