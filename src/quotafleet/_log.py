"""Logging: what a pool reports to the logger ``quotafleet``.

=========  ==========================================================================
warning    a key, an owner or a model goes out of use; organizations are merged;
           an owner's limit is higher than configured
info       a key, an owner or a model is in use again
debug      a call is granted a key, is refused, ends, or is throttled by the provider
=========  ==========================================================================

No line holds a secret or a prompt. An outage changes the state of many keys at once, so each pool
logs at most `MAX_LINES` lines in `PERIOD` seconds, and then how many it left out.
"""

from __future__ import annotations

import logging
from typing import Final

from ._clock import Clock
from .events import (
    Available,
    Event,
    Leased,
    LimitChanged,
    OwnersMerged,
    Refused,
    Settled,
    Throttled,
    Unavailable,
)

LOGGER: Final = logging.getLogger("quotafleet")
LOGGER.addHandler(logging.NullHandler())

#: Lines of a pool in each period: enough for a fleet of a few owners to show every change.
MAX_LINES: Final = 20
#: The other states are steps of a probe.
_OUT_OF_USE: Final = frozenset({"open", "parked", "dead"})
#: Seconds.
PERIOD: Final = 60.0


class EventLog:
    """A listener that logs. Debug lines are logged without a bound: who asks for them wants all."""

    __slots__ = ("_clock", "_left", "_left_out", "_out", "_since")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.now()
        self._left = MAX_LINES
        self._left_out = 0
        #: The state in which each subject that is out of use was logged.
        self._out: dict[str, str] = {}

    @property
    def is_verbose(self) -> bool:
        """Whether debug lines are wanted; a pool asks once, when it is made."""
        return LOGGER.isEnabledFor(logging.DEBUG)

    def __call__(self, event: Event) -> None:
        """Log one event."""
        match event:
            case Unavailable():
                self._out_of_use(event)
            case Available():
                if self._out.pop(event.subject, None) is not None:
                    self._bounded(logging.INFO, "%s is in use again", event.subject)
            case OwnersMerged():
                self._bounded(
                    logging.WARNING,
                    "organization %s is the same as %s: they share one quota",
                    event.organization,
                    event.into,
                )
            case LimitChanged():
                self._bounded(
                    logging.WARNING,
                    "%s has a limit of %g %s per %g s, more than the configured %g",
                    event.owner,
                    event.told,
                    event.metric,
                    event.period,
                    event.configured,
                )
            case Refused():
                LOGGER.debug(
                    "a call for %s is refused: %s (%s)", event.model, event.why, event.code
                )
            case Leased():
                LOGGER.debug(
                    "a call for %s is granted %s after %.3f s",
                    event.model,
                    event.key_id,
                    event.waited_for,
                )
            case Throttled():
                LOGGER.debug("%s throttles %s: %s", event.owner, event.model, event.code)
            case Settled():
                LOGGER.debug("an attempt of %s ended: %s", event.key_id, event.outcome)

    def _out_of_use(self, event: Unavailable) -> None:
        """Log a state once: probes of a key that stays out of use are no news."""
        if event.state not in _OUT_OF_USE or self._out.get(event.subject) == event.state:
            return
        self._out[event.subject] = event.state
        reason = event.reason or "no reason given"
        message = "%s is out of use (%s): %s"
        self._bounded(logging.WARNING, message, event.subject, event.state, reason)

    def _bounded(self, level: int, message: str, *facts: object) -> None:
        now = self._clock.now()
        if now - self._since >= PERIOD:
            if self._left_out:
                LOGGER.log(level, "%d further changes were not logged", self._left_out)
            self._since, self._left, self._left_out = now, MAX_LINES, 0
        if self._left > 0:
            self._left -= 1
            LOGGER.log(level, message, *facts)
        else:
            self._left_out += 1
