"""What a process does while the server does not answer: it waits, and asks less and less often."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import Final, Literal, get_args

from ..._core.quota.reservations import NotReady, Reservation, StoreUnavailable
from ...errors import ConfigError

#: What calls do while the server is away.
OnFailure = Literal["wait", "degrade", "fail"]

#: Seconds before the server is asked again, at first and at most; each has up to half less.
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0


def checked(on_failure: OnFailure) -> OnFailure:
    """Return what calls do while the server is away.

    Raises:
        ConfigError: it is none of `OnFailure`.
    """
    if on_failure not in get_args(OnFailure):
        known = ", ".join(f'"{one}"' for one in get_args(OnFailure))
        raise ConfigError(f"unknown on_failure {on_failure!r}", cure=f"Known: {known}")
    return on_failure


class Outage:
    """Since when the server is away, and when it is asked again. Its store's lock guards it.

    Whoever asks first once a pause is over asks for all; the others wait for the next one.

    Args:
        on_failure: what calls do meanwhile.
        fleet_size: returns how many processes there are, as far as is known; ``None`` = it isn't.
        rejoins_after: seconds for which a process stays on its own once the server answers.
    """

    __slots__ = (
        "_pause",
        "_random",
        "away",
        "fleet_size",
        "next_at",
        "on_failure",
        "rejoins_after",
    )

    def __init__(
        self,
        on_failure: OnFailure = "wait",
        *,
        fleet_size: Callable[[], int | None] = lambda: None,
        rejoins_after: float = 0.0,
    ) -> None:
        self.on_failure = checked(on_failure)
        self.fleet_size = fleet_size
        self.rejoins_after = rejoins_after
        self._random = Random()  # noqa: S311 - keeps processes apart, no secret
        self._pause = FIRST_PAUSE
        #: Since when it is away, and why; ``None`` = it is there.
        self.away: StoreUnavailable | None = None
        #: The instant from which one call may ask it again.
        self.next_at = -inf

    def holds_back(self, now: float) -> bool:
        """Whether the server is not to be asked now. If it is, the next one waits in turn."""
        if self.away is None:
            return False
        if now < self.next_at:
            return True
        self._put_off(now)
        return False

    def failed(self, why: str, now: float, held: Reservation | None = None) -> NotReady:
        """No answer came; returns what `answer` does."""
        self.away = StoreUnavailable(now if self.away is None else self.away.since, why)
        if self.next_at <= now:
            self._put_off(now)
        return self.answer(held)

    def answer(self, held: Reservation | None) -> NotReady:
        """Return an answer that sends a call to wait for the server; its future stays."""
        if held is not None:
            return NotReady(held.account, held.starts_at, future=held, away=self.away)
        return NotReady(None, inf, self.next_at, away=self.away)

    def ended(self) -> bool:
        """The server answered; returns whether it was away."""
        if self.away is None:
            return False
        self.away, self.next_at, self._pause = None, -inf, FIRST_PAUSE
        return True

    def _put_off(self, now: float) -> None:
        self.next_at = now + self._pause * self._random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
