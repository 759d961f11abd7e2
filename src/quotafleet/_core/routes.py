"""Which owners may serve a model, and which of them are usable now.

A *seat* is one owner's place on a route: its account, and its keys that are alive, which take
turns. Seats leave and join the ready ones in constant time when a subject's health changes, so that
neither the number of owners nor of sick ones is felt by a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from heapq import heappop, heappush
from math import inf
from typing import Final

from .._keys import ApiKey
from .._limits import MINUTE, Costs, Metric
from .account import Account
from .frontier import MANY, Frontier, size_of
from .health import State, Subject

#: Seconds for each owner that what they hold together is kept.
SUPPLY_KEPT_FOR: Final = 0.001


#: By how much owners' tokens for each request must differ for it to matter who serves what.
MIXED: Final = 1.1


class Seat:
    """One owner on one model's route."""

    __slots__ = ("_turn", "account", "family", "keys", "position", "subjects")

    def __init__(self, account: Account, subjects: tuple[Subject, ...]) -> None:
        self.account = account
        self.keys: list[tuple[ApiKey, Subject]] = []
        #: The subjects besides its keys whose health decides; one is the owner's model family.
        self.subjects = subjects
        self.family = subjects[1]
        #: Its index among the ready ones; -1 = it is not ready.
        self.position = -1
        self._turn = 0

    def __repr__(self) -> str:
        return f"<Seat {self.account!r} {[key.key_id for key, _ in self.keys]}>"

    @property
    def usable(self) -> bool:
        """Whether an attempt may be made here now."""
        return all(subject.usable for subject in self.subjects) and any(
            subject.usable and subject.trusted for _, subject in self.keys
        )

    @property
    def is_dead(self) -> bool:
        """Whether no attempt will be made here unless something is revived."""
        return any(subject.state is State.DEAD for subject in self.subjects) or all(
            subject.state is State.DEAD for _, subject in self.keys
        )

    @property
    def may_serve(self) -> bool:
        """Whether an attempt may be made here soon, if it may not now."""
        lost = (State.DEAD, State.PARKED)
        return not any(subject.state in lost for subject in self.subjects) and any(
            subject.state not in lost for _, subject in self.keys
        )

    @property
    def until(self) -> float:
        """The instant until which it is certainly not usable; infinite = not known, or for good.

        A probe in flight, leave to probe, or the first answer to a key on trial, may open it at
        any moment.
        """
        if self.is_dead or not any(s.usable and s.trusted for _, s in self.keys):
            return inf
        return max((_ends_at(s) for s in self.subjects if not s.usable), default=-inf)

    def next_key(self) -> tuple[ApiKey, Subject]:
        """Return the key whose turn it is: keys of one owner share all, so they rotate evenly."""
        keys = self.keys
        if len(keys) == 1:
            return keys[0]
        for _ in keys:
            self._turn = (self._turn + 1) % len(keys)
            subject = keys[self._turn][1]
            if subject.usable and subject.trusted:
                break
        return keys[self._turn]


class Route:
    """The owners of one model; with a `holder`, only the owner of that key."""

    __slots__ = (
        "_entries",
        "_frontiers",
        "_has_slots",
        "_is_mixed",
        "_resting",
        "holder",
        "kin",
        "model",
        "ready",
        "seats",
        "supply_at",
        "supply_cache",
    )

    def __init__(self, model: str, holder: str | None = None) -> None:
        self.model = model
        self.holder = holder
        self.seats: dict[Account, Seat] = {}
        #: The accounts of the seats that are usable now: what a strategy ranks.
        self.ready: list[Account] = []
        #: The accounts of each organization: they share its buckets.
        self.kin: dict[str, list[Account]] = {}
        self.supply_at = -inf
        self.supply_cache: list[tuple[Metric, float, float]] = []
        #: Some owner bounds how many calls are in flight; as of the same instant.
        self._has_slots = False
        self._is_mixed = False
        #: When seats that are not ready may be, the earliest first; entries may be out of date.
        self._resting: list[tuple[float, int, Seat]] = []
        self._entries = 0
        #: While calls wait, who may fit which size of them; see `frontier`.
        self._frontiers: dict[tuple[int, ...], Frontier] = {}

    def clear(self) -> None:
        """Forget all seats."""
        self._frontiers.clear()
        self.seats.clear()
        self.ready.clear()
        self.kin.clear()
        self._resting.clear()
        self.supply_at = -inf

    def seat_of(self, account: Account) -> Seat:
        """Return the seat of an account that was granted, under whoever owns it by now."""
        seat = self.seats.get(account)
        if seat is not None:
            return seat
        # Its owner was merged into another, or split by project, after it was granted.
        return self.seats[self.kin[account.organization][0]]

    def refresh(self, seat: Seat) -> bool:
        """Let a seat join or leave the ready ones; return whether it joined."""
        usable = seat.usable
        if usable and seat.position < 0:
            seat.position = len(self.ready)
            self.ready.append(seat.account)
            for frontier in self._frontiers.values():
                frontier.add(seat.account)
            return True
        if not usable and seat.position >= 0:
            last = self.ready.pop()
            if last is not seat.account:
                self.ready[seat.position] = last
                self.seats[last].position = seat.position
            seat.position = -1
            for frontier in self._frontiers.values():
                frontier.drop(seat.account)
        if not usable and (until := seat.until) < inf:
            self._entries += 1
            heappush(self._resting, (until, self._entries, seat))
        return False

    def ready_except(self, avoid: frozenset[str]) -> list[Account]:
        """Return the ready accounts without some owners, or all where none is left."""
        if not avoid:
            return self.ready
        return [account for account in self.ready if account.owner not in avoid] or self.ready

    def frontier(self, costs: Costs, now: float) -> Frontier | None:
        """Return who of many owners may fit such calls; ``None`` = look at each.

        They are few, or no instant is known at which one fits.
        """
        if len(self.ready) < MANY:
            return None
        size = size_of(costs)
        found = self._frontiers.get(size)
        if found is None or found.is_old(now):
            found = self._frontiers[size] = Frontier(self.ready, costs, now)
        return found if found.first()[0] < inf else None

    def came_back(self, organization: str, now: float) -> None:
        """Take in that something came back to an organization."""
        for frontier in self._frontiers.values():
            for account in self.kin.get(organization, ()):
                frontier.put(account, now)

    def rest(self) -> None:
        """Take in that no call waits any more: nobody keeps the frontiers up to date."""
        self._frontiers.clear()

    def ready_last(self, avoid: frozenset[str], last: frozenset[str]) -> list[Account]:
        """Return the ready accounts of some owners, without others."""
        return [a for a in self.ready if a.owner in last and a.owner not in avoid]

    def usable_at(self) -> float:
        """Return the earliest instant when a seat that is not ready may be; infinite = none."""
        resting = self._resting
        while resting:
            until, _, seat = resting[0]
            if seat.position < 0 and seat.until == until:
                return until
            heappop(resting)
        return inf

    @property
    def is_hopeless(self) -> bool:
        """Whether every owner is dead."""
        return not self.ready and all(seat.is_dead for seat in self.seats.values())

    def supply(self, now: float) -> list[tuple[Metric, float, float]]:
        """Return ``(metric, level, rate)`` of every limit that all owners have which may serve.

        What they hold together bounds how fast a backlog can go; one that only rests is soon back.
        Kept for a second, or for a millisecond an owner, since it costs a look at every bucket.
        """
        if not 0 <= now - self.supply_at < max(1.0, SUPPLY_KEPT_FOR * len(self.seats)):
            self.supply_at = now
            accounts = [seat.account for seat in self.seats.values() if seat.may_serve]
            self.supply_cache = list(_supply(accounts, now))
            self._has_slots = any(b.period is None for a in accounts for b in a.buckets)
            self._is_mixed = len(accounts) < MANY and _is_mixed(accounts)
        return self.supply_cache

    def supply_changed(self) -> None:
        """Take in that an owner's health changed. Of many, one is a small part of the supply."""
        if len(self.seats) < MANY:
            self.supply_at = -inf

    def is_mixed(self, now: float) -> bool:
        """Whether its owners are few, and some have more tokens for each request than others."""
        self.supply(now)
        return self._is_mixed

    def may_be_freed(self, costs: Costs, now: float) -> bool:
        """Whether a usable owner would serve such a call at once if another's call ended.

        Nobody knows when that is, so an instant at which some owner is ready isn't the earliest.
        """
        self.supply(now)
        return self._has_slots and any(
            account.ready_at(costs, now) == inf and account.too_large(costs) is None
            for account in self.ready
        )

    def price(self, costs: Sequence[float], now: float) -> float:
        """Return the seconds that all ready owners together need to earn some costs.

        The metric that takes longest counts. Where no owner's rate is known, a request is as good
        as another: one second each.
        """
        supply = self.supply(now)
        seconds = (costs[metric] / rate for metric, _, rate in supply if rate)
        return max(seconds, default=costs[Metric.REQUESTS])


def _ends_at(subject: Subject) -> float:
    if subject.pauses_until > -inf:
        return subject.pauses_until
    return inf if subject.state in (State.PROBING, State.ASKING) else subject.until


def _supply(accounts: list[Account], now: float) -> Iterable[tuple[Metric, float, float]]:
    totals: dict[tuple[Metric, float], tuple[Metric, float, float]] = {}
    seen: set[int] = set()
    holders: dict[tuple[Metric, float], int] = {}
    for account in accounts:
        kinds = {(b.metric, b.period) for b in account.buckets if b.period is not None}
        for metric, period in kinds:
            holders[metric, period] = holders.get((metric, period), 0) + 1
        for bucket in account.buckets:
            if bucket.period is None or id(bucket) in seen:
                continue
            seen.add(id(bucket))
            _, level, rate = totals.get((bucket.metric, bucket.period), (bucket.metric, 0.0, 0.0))
            held = max(0.0, bucket.level + (now - bucket.at) * bucket.rate)
            total = (bucket.metric, level + min(held, bucket.capacity), rate + bucket.rate)
            totals[bucket.metric, bucket.period] = total
    for kind, total in totals.items():
        if holders[kind] == len(accounts):
            yield total


def _is_mixed(accounts: list[Account]) -> bool:
    ratios = set()
    for account in accounts:
        rates = {b.metric: b.rate for b in account.buckets if b.period == MINUTE}
        tokens, requests = rates.get(Metric.TOKENS), rates.get(Metric.REQUESTS)
        if tokens is not None and requests is not None:
            ratios.add(tokens / requests)
    return bool(ratios) and max(ratios) > MIXED * min(ratios)


def allows(key: ApiKey, model: str) -> bool:
    """Whether the key may be used for the model."""
    return not key.only_models or any(fnmatchcase(model, p) for p in key.only_models)


def owner_of(key: ApiKey) -> tuple[str, str | None]:
    """Return the organization and the project that a key belongs to, as far as is known."""
    return key.organization, key.project
