"""Who listens to a pool, and what they are told of what happens in it."""

from __future__ import annotations

from collections.abc import Iterable

from ._clock import Clock
from ._core.admission.effects import Grant, Settle
from ._core.health.circuit_breaker import CircuitState
from ._log import EventLog
from .errors import CannotServe, WaitTimeout
from .events import (
    Available,
    Event,
    Leased,
    LimitChanged,
    Listener,
    OwnersMerged,
    Refused,
    Settled,
    Throttled,
    Unavailable,
)
from .outcomes import Kind


class EventDispatcher:
    """The listeners of one pool, and its log. They are called outside the pool's lock.

    Changes of state are always logged. What happens to single calls is logged only where the
    logger's level is DEBUG when the pool is made, so that it costs nothing elsewhere.
    """

    def __init__(self, listeners: Iterable[Listener], clock: Clock) -> None:
        self._log = EventLog(clock)
        self._verbose = self._log.is_verbose
        more: tuple[Listener, ...] = (self._log,) if self._verbose else ()
        self.listeners = (*listeners, *more)
        #: Configured limits of which answers state more; reported once each.
        self._raised: set[tuple[str, str, float]] = set()
        #: How often one of them raised.
        self.failed = 0

    def emit(self, event: Event) -> None:
        """Call every listener with an event."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # a listener's fault is its own, not the call's
                self.failed += 1

    def leased(self, grant: Grant) -> None:
        """Tell that a call was granted a key."""
        self.emit(
            Leased(
                key_id=grant.key.key_id,
                owner=grant.candidate.account.owner,
                model=grant.demand.model,
                waited_for=grant.waited_for,
            )
        )

    def gave_up(self, refusal: CannotServe) -> None:
        """Tell that a call was not granted any."""
        waited_for = refusal.waited_for if isinstance(refusal, WaitTimeout) else 0.0
        self.emit(
            Refused(model=refusal.model, waited_for=waited_for, code=refusal.code, why=refusal.why)
        )

    def ended(self, settle: Settle, now: float) -> None:
        """Tell what became of an attempt in the end."""
        grant, outcome = settle.grant, settle.outcome
        key_id, owner = grant.key.key_id, grant.candidate.account.owner
        model = grant.demand.model
        if outcome is not None and outcome.kind in (Kind.RATE_LIMITED, Kind.SLOW_DOWN):
            self.emit(
                Throttled(
                    key_id=key_id,
                    owner=owner,
                    model=model,
                    code=outcome.code,
                    retry_after=outcome.retry_after,
                )
            )
        self.emit(
            Settled(
                key_id=key_id,
                owner=owner,
                model=model,
                outcome=outcome.kind.value if outcome is not None else "released",
                usage=settle.usage,
                held_for=now - grant.at,
            )
        )

    def observed(self, settle: Settle) -> None:
        """Report, once for each limit, that an answer states more than is configured."""
        for reading in settle.observation.readings:
            for bucket in settle.grant.candidate.account.buckets:
                limit = bucket.configured
                if (
                    limit is None
                    or limit.metric is not reading.metric
                    or (limit.period != reading.period or limit.period is None)
                ):
                    continue
                subject = bucket.scope, bucket.name, limit.amount
                if reading.limit > limit.amount and subject not in self._raised:
                    self._raised.add(subject)
                    self._report(
                        LimitChanged(
                            owner=bucket.scope,
                            metric=limit.metric.name.lower(),
                            period=reading.period or 0.0,
                            configured=limit.amount,
                            told=reading.limit,
                        )
                    )

    def moved(self, changed: Iterable[tuple[str, CircuitState, str]]) -> None:
        """Report which keys, owners and models are in use or out of use from now on."""
        for name, state, reason in changed:
            if state is CircuitState.CLOSED:
                self._report(Available(subject=name))
            else:
                self._report(Unavailable(subject=name, state=state.value, reason=reason))

    def merged(self, merges: Iterable[tuple[str, str]]) -> None:
        """Report which organizations turned out to be one."""
        for organization, into in merges:
            self._report(OwnersMerged(organization=organization, into=into))

    def _report(self, event: Event) -> None:
        if not self._verbose:
            self._log(event)
        self.emit(event)
