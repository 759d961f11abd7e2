"""Which owners may serve a model, and which of them are usable now.

A *candidate* is one owner's place on a candidate set: its account, and its keys that are alive,
which take turns. Candidates leave and join the ready ones in constant time when a circuit's health
changes, so that neither the number of owners nor of sick ones is felt by a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from heapq import heappop, heappush
from math import inf
from typing import Final

from ...keys import ApiKey
from ...limits import MINUTE, Costs, Metric
from ..health.circuit_breaker import LOCKED, Circuit, CircuitState
from ..quota.account import Account
from .ready_index import MANY, ReadyIndex, size_of

#: Seconds for each owner that what they hold together is kept.
SUPPLY_KEPT_FOR: Final = 0.001


#: By how much owners' tokens for each request must differ for it to matter who serves what.
MIXED: Final = 1.1


class OwnerCandidate:
    """One owner on one model's candidates."""

    __slots__ = ("_turn", "account", "circuits", "family", "keys", "position")

    def __init__(self, account: Account, circuits: tuple[Circuit, ...]) -> None:
        self.account = account
        self.keys: list[tuple[ApiKey, Circuit]] = []
        #: The circuits besides its keys whose health decides; one is the owner's model family.
        self.circuits = circuits
        self.family = circuits[1]
        #: Its index among the ready ones; -1 = it is not ready.
        self.position = -1
        self._turn = 0

    def __repr__(self) -> str:
        return f"<OwnerCandidate {self.account!r} {[key.key_id for key, _ in self.keys]}>"

    @property
    def usable(self) -> bool:
        """Whether an attempt may be made here now."""
        return all(circuit.usable for circuit in self.circuits) and any(
            circuit.usable and circuit.trusted for _, circuit in self.keys
        )

    @property
    def has_siblings(self) -> bool:
        """Whether more than one of its keys is in use."""
        return sum(circuit.usable and circuit.trusted for _, circuit in self.keys) > 1

    @property
    def is_dead(self) -> bool:
        """Whether no attempt will be made here for long: its keys are dead, or the model denied."""
        family = self.family
        if family.state is CircuitState.PARKED and family.reason != LOCKED:
            return True
        return any(circuit.state is CircuitState.DEAD for circuit in self.circuits) or all(
            circuit.state is CircuitState.DEAD for _, circuit in self.keys
        )

    @property
    def may_serve(self) -> bool:
        """Whether an attempt may be made here soon, if it may not now."""
        lost = (CircuitState.DEAD, CircuitState.PARKED)
        return not any(circuit.state in lost for circuit in self.circuits) and any(
            circuit.state not in lost for _, circuit in self.keys
        )

    @property
    def until(self) -> float:
        """The instant until which it is certainly not usable; infinite = not known, or for good.

        A probe in flight, leave to probe, or the first answer to a key on trial, may open it at
        any moment.
        """
        if self.is_dead:
            return inf
        keys = min(_key_ends_at(circuit) for _, circuit in self.keys)
        return max([keys, *(_ends_at(s) for s in self.circuits if not s.usable)])

    def next_key(self) -> tuple[ApiKey, Circuit]:
        """Return the key whose turn it is: keys of one owner share all, so they rotate evenly."""
        keys = self.keys
        if len(keys) == 1:
            return keys[0]
        for _ in keys:
            self._turn = (self._turn + 1) % len(keys)
            circuit = keys[self._turn][1]
            if circuit.usable and circuit.trusted:
                break
        return keys[self._turn]


class CandidateSet:
    """The owners of one model; with a `pinned_key`, only the owner of that key."""

    __slots__ = (
        "_entries",
        "_has_slots",
        "_is_mixed",
        "_ready_indexes",
        "_resting",
        "by_account",
        "by_organization",
        "model",
        "pinned_key",
        "ready",
        "supply_at",
        "supply_cache",
    )

    def __init__(self, model: str, pinned_key: str | None = None) -> None:
        self.model = model
        self.pinned_key = pinned_key
        self.by_account: dict[Account, OwnerCandidate] = {}
        #: The accounts of the candidates that are usable now: what a strategy ranks.
        self.ready: list[Account] = []
        #: The accounts of each organization: they share its buckets.
        self.by_organization: dict[str, list[Account]] = {}
        self.supply_at = -inf
        self.supply_cache: list[tuple[Metric, float, float]] = []
        #: Some owner bounds how many calls are in flight; as of the same instant.
        self._has_slots = False
        self._is_mixed = False
        #: When candidates that are not ready may be, the earliest first; entries may be out of
        #: date.
        self._resting: list[tuple[float, int, OwnerCandidate]] = []
        self._entries = 0
        #: While calls wait, who may fit which size of them; see `ready_index`.
        self._ready_indexes: dict[tuple[int, ...], ReadyIndex] = {}

    def clear(self) -> None:
        """Forget all candidates."""
        self._ready_indexes.clear()
        self.by_account.clear()
        self.ready.clear()
        self.by_organization.clear()
        self._resting.clear()
        self.supply_at = -inf

    def candidate_of(self, account: Account) -> OwnerCandidate:
        """Return the candidate of an account that was granted, under whoever owns it by now."""
        candidate = self.by_account.get(account)
        if candidate is not None:
            return candidate
        # Its owner was merged into another, or split by project, after it was granted.
        return self.by_account[self.by_organization[account.organization][0]]

    def refresh(self, candidate: OwnerCandidate) -> bool:
        """Let a candidate join or leave the ready ones; return whether it joined."""
        usable = candidate.usable
        if usable and candidate.position < 0:
            candidate.position = len(self.ready)
            self.ready.append(candidate.account)
            for ready_index in self._ready_indexes.values():
                ready_index.add(candidate.account)
            return True
        if not usable and candidate.position >= 0:
            last = self.ready.pop()
            if last is not candidate.account:
                self.ready[candidate.position] = last
                self.by_account[last].position = candidate.position
            candidate.position = -1
            for ready_index in self._ready_indexes.values():
                ready_index.drop(candidate.account)
        if not usable and (until := candidate.until) < inf:
            self._entries += 1
            heappush(self._resting, (until, self._entries, candidate))
        return False

    def ready_except(self, avoid: frozenset[str]) -> list[Account]:
        """Return the ready accounts without some owners, or all where none is left."""
        if not avoid:
            return self.ready
        return [account for account in self.ready if account.owner not in avoid] or self.ready

    def ready_index(self, costs: Costs, now: float) -> ReadyIndex | None:
        """Return who of many owners may fit such calls; ``None`` = look at each.

        They are few, or no instant is known at which one fits.
        """
        if len(self.ready) < MANY:
            return None
        size = size_of(costs)
        found = self._ready_indexes.get(size)
        if found is None or found.is_old(now):
            found = self._ready_indexes[size] = ReadyIndex(self.ready, costs, now)
        return found if found.first()[0] < inf else None

    def came_back(self, organization: str, now: float) -> None:
        """Take in that something came back to an organization."""
        for ready_index in self._ready_indexes.values():
            for account in self.by_organization.get(organization, ()):
                ready_index.put(account, now)

    def rest(self) -> None:
        """Take in that no call waits any more: nobody keeps the ready indexes up to date."""
        self._ready_indexes.clear()

    def ready_last(self, avoid: frozenset[str], last: frozenset[str]) -> list[Account]:
        """Return the ready accounts of some owners, without others."""
        return [a for a in self.ready if a.owner in last and a.owner not in avoid]

    def usable_at(self) -> float:
        """Return the earliest instant when an unready candidate may become ready; inf: none."""
        resting = self._resting
        while resting:
            until, _, candidate = resting[0]
            if candidate.position < 0 and candidate.until == until:
                return until
            heappop(resting)
        return inf

    @property
    def is_hopeless(self) -> bool:
        """Whether every owner is dead."""
        return not self.ready and all(candidate.is_dead for candidate in self.by_account.values())

    def supply(self, now: float) -> list[tuple[Metric, float, float]]:
        """Return ``(metric, level, rate)`` of every limit that all owners have which may serve.

        What they hold together bounds how fast a backlog can go; one that only rests is soon back.
        Kept for a second, or for a millisecond an owner, since it costs a look at every bucket.
        """
        if not 0 <= now - self.supply_at < max(1.0, SUPPLY_KEPT_FOR * len(self.by_account)):
            self.supply_at = now
            accounts = [
                candidate.account for candidate in self.by_account.values() if candidate.may_serve
            ]
            self.supply_cache = list(_supply(accounts, now))
            self._has_slots = any(b.period is None for a in accounts for b in a.buckets)
            self._is_mixed = len(accounts) < MANY and _is_mixed(accounts)
        return self.supply_cache

    def supply_changed(self) -> None:
        """Take in that an owner's health changed. Of many, one is a small part of the supply."""
        if len(self.by_account) < MANY:
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


def _key_ends_at(circuit: Circuit) -> float:
    if circuit.usable:
        return -inf if circuit.trusted else inf
    return inf if circuit.state is CircuitState.DEAD else _ends_at(circuit)


def _ends_at(circuit: Circuit) -> float:
    if circuit.pauses_until > -inf:
        return circuit.pauses_until
    return (
        inf
        if circuit.state in (CircuitState.PROBING, CircuitState.CLAIMING_PROBE)
        else circuit.until
    )


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
