"""How a race ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a race ended.

    Args:
        seconds: from the start to the last answer.
        bound: the fluid bound, in seconds.
        answered, lost: calls.
        refused: answers that told of a limit (not of an empty purse) which a contender got.
        delays: seconds of each call beyond the provider's own, sorted.
        cpu: CPU seconds of the contender's process.
        simulated: how the same ended on a simulated clock, with a client that works as long on
            each call; ``None`` = it wasn't run there.
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
        """How many calls there were."""
        return self.answered + self.lost

    @property
    def agreement(self) -> float | None:
        """The time over the simulated one; ``None`` = it was not simulated, or lost calls."""
        if self.simulated is None or self.lost or self.simulated.lost:
            return None
        return self.seconds / self.simulated.seconds

    @property
    def over(self) -> float:
        """The time over the bound; 1.0 is perfect."""
        return self.seconds / self.bound if self.bound else float("inf")

    def delay(self, share: float) -> float:
        """Return the delay, in seconds, that such a share of calls stayed below."""
        if not self.delays:
            return float("inf")
        return self.delays[min(len(self.delays) - 1, int(share * len(self.delays)))]
