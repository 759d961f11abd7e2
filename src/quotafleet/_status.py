"""A pool's state as frozen values: for people, dashboards and tests. It holds no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ._core.admission.refusals import why
from ._core.admission.scheduler import Scheduler
from ._core.quota.token_bucket import BucketLevel
from .outcomes import Kind, Outcome
from .usage import Usage


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a key has done since the pool began. The pool's lock guards it.

    Args:
        granted: attempts that got the key.
        answered: attempts that succeeded.
        refused: attempts that the provider refused for a rate limit.
        failed: attempts that ended otherwise.
        input_tokens: LLM tokens used, where answers told.
        output_tokens: likewise.
    """

    granted: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def ended(self, outcome: Outcome | None, usage: Usage | None) -> None:
        """Count an attempt that ended; ``None`` = it was given back unused."""
        if outcome is None:
            self.granted -= 1
        elif outcome.ok:
            self.answered += 1
        elif outcome.kind in (Kind.RATE_LIMITED, Kind.SLOW_DOWN):
            self.refused += 1
        else:
            self.failed += 1
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """One key: its owner, its health, what it has done."""

    key_id: str
    owner: str
    masked: str
    health: str
    reason: str
    granted: int
    answered: int
    refused: int
    failed: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeStatus:
    """What one owner may spend on one model family now.

    Args:
        owner: ``"acme"`` or ``"acme/research"``.
        family: the model family; ``""`` = all.
        levels: its limits, with those of the organization above it.
        in_flight: calls that hold a reservation.
        granted: reservations granted so far.
    """

    owner: str
    family: str
    levels: tuple[BucketLevel, ...]
    in_flight: int
    granted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnavailableStatus:
    """A key, owner or model that is not in use, and why.

    Args:
        subject: its name.
        state: a `CircuitState`'s value.
        reason: the provider's code of what happened.
        retry_after: seconds until it is probed; ``None`` = not known.
        age: seconds since its state last changed.
    """

    subject: str
    state: str
    reason: str
    retry_after: float | None
    age: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStatus:
    """The calls that wait for one model: how many, for how long, and for what.

    Those that sleep before a further attempt are counted too.
    """

    model: str
    waiting: int
    longest_for: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A pool as it is at one instant."""

    scopes: tuple[ScopeStatus, ...]
    keys: tuple[KeyStatus, ...]
    unavailable: tuple[UnavailableStatus, ...]
    queues: tuple[WaitStatus, ...]

    @property
    def waiting(self) -> int:
        """Calls that wait for headroom."""
        return sum(queue.waiting for queue in self.queues)

    @property
    def in_flight(self) -> int:
        """Calls that hold a reservation."""
        return sum(scope.in_flight for scope in self.scopes)


def repr_of(scheduler: Scheduler) -> str:
    """Describe a pool's state in one line, as ``<KeyPool: 3 keys of 2 organizations, ...>``."""
    keys = scheduler.fleet.keys
    owners = {key.organization for key in keys}
    in_flight = sum(account.in_flight for account in scheduler.fleet.accounts())
    unavailable = len(list(scheduler.health_tracker.ailing()))
    return (
        f"<KeyPool: {len(keys)} keys of {len(owners)} organizations, {in_flight} in flight, "
        f"{scheduler.waiting} waiting, {unavailable} unavailable"
        f"{', closed' if scheduler.is_closed else ''}>"
    )


def status_of(scheduler: Scheduler, counts: Mapping[str, Counts], now: float) -> Status:
    """Return the state of a scheduler; its pool holds its lock."""
    return Status(
        scopes=tuple(_scopes(scheduler, now)),
        keys=tuple(_keys(scheduler, counts)),
        unavailable=tuple(_unavailable(scheduler, now)),
        queues=tuple(_queues(scheduler, now)),
    )


def _scopes(scheduler: Scheduler, now: float) -> list[ScopeStatus]:
    return [
        ScopeStatus(
            owner=account.owner,
            family=account.family,
            levels=tuple(bucket.snapshot(now) for bucket in account.buckets),
            in_flight=account.in_flight,
            granted=account.granted,
        )
        for account in scheduler.fleet.accounts()
    ]


def _keys(scheduler: Scheduler, counts: Mapping[str, Counts]) -> list[KeyStatus]:
    found = []
    for key in scheduler.fleet.keys:
        circuit = scheduler.fleet.key_circuit(key)
        done = counts[key.key_id]
        found.append(
            KeyStatus(
                key_id=key.key_id,
                owner=key.organization if key.project is None else key.scopes[1].name,
                masked=key.secret.masked,
                health=circuit.state.value,
                reason=circuit.reason,
                granted=done.granted,
                answered=done.answered,
                refused=done.refused,
                failed=done.failed,
                input_tokens=done.input_tokens,
                output_tokens=done.output_tokens,
            )
        )
    return found


def _unavailable(scheduler: Scheduler, now: float) -> list[UnavailableStatus]:
    return [
        UnavailableStatus(
            subject=circuit.name,
            state=circuit.state.value,
            reason=circuit.reason,
            retry_after=circuit.until - now if circuit.until < float("inf") else None,
            age=max(0.0, now - circuit.since),
        )
        for circuit in scheduler.health_tracker.ailing()
    ]


def _queues(scheduler: Scheduler, now: float) -> list[WaitStatus]:
    return [*_for_quota(scheduler, now), *_before_attempts(scheduler, now)]


def _before_attempts(scheduler: Scheduler, now: float) -> list[WaitStatus]:
    """Return the calls that sleep before a further attempt, by model and reason."""
    found: dict[tuple[str, str], list[float]] = {}
    for model, since, reason in scheduler.health_tracker.resting_calls.values():
        found.setdefault((model, reason), []).append(now - since)
    return [
        WaitStatus(model=model, waiting=len(times), longest_for=max(times), why=reason)
        for (model, reason), times in found.items()
    ]


def _for_quota(scheduler: Scheduler, now: float) -> list[WaitStatus]:
    return [
        WaitStatus(
            model=queue.candidates.model,
            waiting=queue.waiting,
            longest_for=now - min(waiter.entered_at for waiter in queue),
            why=why(head, now),
        )
        for queue in scheduler.waiting_queues()
        if (head := queue.head) is not None
    ]
