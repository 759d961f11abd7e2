"""What one process holds of a shared ledger: accounts and buckets as of the last answer.

It decides nothing: strategies compare it, and the scheduler reads from it when a call may fit.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..._core.quota.account import Account
from ..._core.quota.ledger import Ledger, LimitsFor
from ..._core.quota.reservations import Reservation, ReservationState, Settlement
from ..._core.quota.token_bucket import Mark, TokenBucket
from ...limits import Costs
from . import _codec as wire


class LeasedReservation(Reservation):
    """A reservation that was granted here, from a share: the server has none of that name."""

    __slots__ = ("lent_at",)

    def __init__(
        self,
        number: int,
        account: Account,
        costs: Costs,
        marks: list[Mark],
        expires_at: float,
        lent_at: float,
    ) -> None:
        super().__init__(number, account, costs, marks, expires_at)
        #: When its share was lent, in microseconds of the server's clock.
        self.lent_at = lent_at


class Known:
    """What stays of an account: its prefix, its blob, its buckets by the script's names."""

    __slots__ = ("blob", "buckets", "limits", "names", "prefix")

    def __init__(self, prefix: str, blob: bytes, limits: list[tuple[str, str]]) -> None:
        self.prefix = prefix
        self.blob = blob
        self.limits = limits
        self.names = b""
        self.buckets: list[TokenBucket] = []


class Replica:
    """The accounts of one process. Its store's lock guards it.

    Args:
        namespace: which fleet of the server it is a view of.
        limits_for: the configured limits, which are told to the server.
        lifetime: seconds after which an unsettled reservation comes back.
    """

    def __init__(self, namespace: str, limits_for: LimitsFor, *, lifetime: float) -> None:
        self._namespace = namespace
        self._limits_for = limits_for
        self._lifetime = lifetime
        self._ledger = Ledger(limits_for, lifetime=lifetime)
        self._known: dict[Account, Known] = {}
        #: Of each bucket what it was last shown with, but for its level.
        self._rules: dict[TokenBucket, tuple[float, ...]] = {}

    def account(self, organization: str, project: str | None, family: str, now: float) -> Account:
        """Return the account of an owner for a family."""
        account = self._ledger.account(organization, project, family, now)
        self.know(account)
        return account

    @property
    def in_flight(self) -> int:
        """How many reservations this process holds, booked ones among them."""
        return sum(account.in_flight for account in self._ledger.accounts())

    def resolved(self, accounts: Iterable[Account], now: float) -> list[Account]:
        """Return the accounts under the owners that are known by now, each once."""
        found = (self.account(a.organization, a.project, a.family, now) for a in accounts)
        return list(dict.fromkeys(found))

    def of(self, organizations: set[str]) -> list[Account]:
        """Return the accounts of some organizations."""
        return [a for a in self._ledger.accounts() if a.organization in organizations]

    def all(self) -> tuple[Account, ...]:
        """Return every account that was asked for so far."""
        return self._ledger.accounts()

    def under(self, prefix: str) -> list[Account]:
        """Return the accounts whose keys begin so."""
        return [account for account, known in self._known.items() if known.prefix == prefix]

    def resolve(self, organization: str) -> str:
        """Return the name under which an organization stands."""
        return self._ledger.resolve(organization)

    def prefix(self, organization: str) -> str:
        """Return what an organization's keys begin with."""
        return wire.prefix(self._namespace, self.resolve(organization))

    def merge(self, organization: str, into: str, now: float) -> None:
        """Show two organizations as one."""
        self._ledger.merge(organization, into, now)
        self._known.clear()
        self._rules.clear()

    def know(self, account: Account) -> Known:
        """Return what stays of an account."""
        known = self._known.get(account)
        if known is None:
            blob, limits = wire.blob_of(account, self._limits_for)
            prefix = wire.prefix(self._namespace, account.organization)
            known = self._known[account] = Known(prefix, blob, limits)
        return known

    def show(self, account: Account, names: bytes, numbers: bytes, now: float) -> None:
        """Refresh the view of an account."""
        known = self.know(account)
        if known.names != names:
            known.buckets, known.names = self._named(account, names, now), names
        rules = self._rules
        for bucket, shown in zip(known.buckets, wire.VIEW.iter_unpack(numbers), strict=True):
            rule, level = shown[:-1], shown[-1]
            if rules.get(bucket) == rule and bucket.throttle == 1.0:  # mostly its level alone moved
                bucket.level, bucket.at = level, now
                continue
            rules[bucket] = rule
            limit, ceiling, throttle, learned, burst, price = rule
            if learned:
                bucket.configured = None
            bucket.mirror(
                level=level,
                limit=limit,
                ceiling=ceiling,
                throttle=throttle,
                burst=burst if burst >= 0 else None,
                price=price,
                now=now,
            )

    def _named(self, account: Account, names: bytes, now: float) -> list[TokenBucket]:
        """Return an account's buckets by the script's names of them."""
        return [
            self._ledger.show(
                account,
                account.organization if "@" not in name else account.owner,
                wire.limit_named(name),
                1.0,
                now,
            )
            for name in names.decode().split(",")
            if name
        ]

    def marks(self, account: Account, text: bytes, now: float) -> list[Mark]:
        """Return how an account's buckets stood when a claim was granted, by what that answered."""
        names, _, numbers = text.partition(b"\0")
        known = self.know(account)
        buckets = known.buckets if known.names == names else self._named(account, names, now)
        marks = wire.MARK.iter_unpack(numbers)
        return [(bucket, *mark) for bucket, mark in zip(buckets, marks, strict=True)]

    def hints(self, account: Account, pending: Iterable[wire.Ending], now: float) -> bytes:
        """Return the levels at which buckets are made: as this process last knew them.

        Without what settlements give back that are `pending`: the server takes those in later.
        """
        levels = {
            (bucket.scope, bucket.name): bucket.snapshot(now).available
            for bucket in account.buckets
        }
        for ending in pending:
            for bucket, *_ in ending.ends.marks if ending.ends is not None else ():
                name = bucket.scope, bucket.name
                if bucket in account.buckets:
                    levels[name] = min(levels[name] - ending.unused[bucket.metric], bucket.capacity)
        return wire.levels([levels[limit] for limit in self.know(account).limits])

    def granted(
        self,
        account: Account,
        costs: Costs,
        marks: list[Mark],
        number: int,
        after: float,
        sent_at: float,
    ) -> Reservation:
        """Return the reservation that the server made, which begins so long after it answered."""
        if after > 0:  # as they will stand when it begins
            marks = [
                (b, min(level + after * b.rate, b.capacity - costs[b.metric]), c, p, t)
                for b, level, c, p, t in marks
            ]
        expires_at = sent_at + after + self._lifetime
        account.in_flight += 1
        account.granted += 1
        return Reservation(number, account, costs, marks, expires_at)

    def ending(self, settlement: Settlement, reservation_id: str, now: float) -> wire.Ending:
        """Return a settlement as it travels; the reservation is as it was before."""
        reservation = settlement.reservation
        return wire.ending(
            settlement,
            reservation_id,
            self.know(reservation.account).blob,
            lifetime=self._lifetime,
            now=now,
            lent_at=reservation.lent_at if isinstance(reservation, LeasedReservation) else -1.0,
        )

    def take_in(self, settlement: Settlement, now: float) -> bool:
        """Let the view know what the server will know soon."""
        reservation, used = settlement.reservation, settlement.used
        if settlement.readings:
            reservation.answered = True
        if used is None or reservation.state is ReservationState.SETTLED:
            return False
        expired = now >= reservation.expires_at
        reservation.state, reservation.answered = ReservationState.SETTLED, True
        reservation.account.in_flight -= 1
        freed = False
        for bucket, *_ in reservation.marks:
            held = 0.0 if expired else reservation.costs[bucket.metric]
            back = held - used[bucket.metric]
            if back:
                bucket.refill(now)
                bucket.give_back(back)
                freed = freed or back > 0
        return freed

    def slot_is_free(self, accounts: Iterable[Account], now: float) -> None:
        """Show a free slot, of which the server told."""
        for bucket in {b: None for a in accounts for b in a.buckets if b.period is None}:
            bucket.mirror(
                level=max(bucket.level, 1.0),
                limit=bucket.limit,
                ceiling=bucket.ceiling,
                throttle=1.0,
                now=now,
            )

    def bucket(self, account: Account, name: str) -> TokenBucket:
        """Return an account's bucket by the name that the script gives it."""
        limit, in_project = wire.limit_named(name), "@" in name
        for bucket in account.buckets:
            if bucket.name == limit and ("/" in bucket.scope) == in_project:
                return bucket
        raise KeyError(name)
