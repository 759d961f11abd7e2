"""A pool as a member of a fleet of processes: what the others found out is taken in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from ._clock import Clock
from ._core.admission.scheduler import Scheduler
from ._core.health.circuit_breaker import HealthChange
from .events import Event, OwnersMerged
from .keys import ApiKey


class Membership:
    """What a shared store is given of a pool; see `quotafleet.protocols.FleetMember`.

    Args:
        scheduler: the pool's.
        lock: what guards it.
        clock: what tells the pool's time.
        wake: wakes calls, and tells listeners what changed; called without the lock.
        emit: tells listeners of one event; called without the lock.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        lock: Lock,
        clock: Clock,
        wake: Callable[[], None],
        emit: Callable[[Event], None],
    ) -> None:
        self._scheduler = scheduler
        self._lock = lock
        self._clock = clock
        self._wake = wake
        self._emit = emit

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The pool's keys, under their owners as far as is known by now."""
        with self._lock:
            return self._scheduler.fleet.keys

    @property
    def waiting(self) -> int:
        """Calls that wait for headroom."""
        return self._scheduler.waiting

    def apply_remote(self, changes: Sequence[HealthChange]) -> None:
        """Take in what another process found of keys, owners and models, in this order."""
        now = self._clock.now()
        with self._lock:
            for one in changes:
                self._scheduler.health_tracker.apply_remote(one, now)
        self._wake()

    def merged(self, organization: str, into: str) -> None:
        """Take in that another process found two organizations to be one."""
        with self._lock:
            changed = self._scheduler.merged(organization, into)
        self._wake()
        if changed:
            self._emit(OwnersMerged(organization=organization, into=into))
