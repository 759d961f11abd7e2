"""What a run is asked for: one value, which travels to each process as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from quotafleet.testing import MockFleet

MODEL: Final = "gpt-4o-mini"
#: Unequal owners, by requests a minute. A token limit of theirs stands beside it and doesn't bind.
OWNERS: Final = {"owner-1": 300, "owner-2": 240, "owner-3": 180, "owner-4": 120, "owner-5": 60}
TPM: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One run.

    Args:
        rpm: each owner's requests a minute: its whole bucket, full at first.
        processes: how many saturate them.
        tasks: calls under way in each.
        seconds: for how long.
        kill: so many of the processes are killed midway.
        away: for so many seconds the store is away, from a third of the run on.
        by: how it goes away: ``"stop"`` (it hangs), ``"restart"`` (with what it held), ``"empty"``
            (without).
        lenient: the provider allows twice the limits, so that nothing but the fleet keeps them.
        lifetime: seconds after which what a killed process held comes back.
        on_failure: what calls do while the store is away.
        share_for: seconds for which a process may spend a share without asking; 0 = it asks.
        latency: seconds until the provider answers.
    """

    rpm: dict[str, int]
    processes: int = 8
    tasks: int = 20
    seconds: float = 60.0
    kill: int = 0
    away: float = 0.0
    by: str = "stop"
    lenient: bool = False
    lifetime: float = 10.0
    on_failure: str = "wait"
    share_for: float = 0.0
    latency: float = 0.05

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Order:
        """Return what `text` wrote."""
        return cls(**json.loads(text))

    def fleet(self) -> MockFleet:
        """Return the accounts that the provider knows."""
        more = 2 if self.lenient else 1
        return MockFleet.simple(
            {name: {"rpm": more * rpm, "tpm": more * TPM} for name, rpm in self.rpm.items()}
        )
