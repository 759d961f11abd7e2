"""All buckets: reserve the first fit of a ranking, settle once, expire, learn from answers.

Theory of operation. A *reservation* takes its costs from every bucket that its account draws on,
all or nothing, and remembers where from. It is **open** until it is settled (what was used
replaces what was taken; the difference comes back or becomes debt) or until its lifetime ends
(**expired**: all comes back, so that a dead process strands no quota). A settlement that comes
after that still counts what was used, once. Settling twice counts once.

    open --settle--> settled
    open --expire--> expired --settle--> settled
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from ...limits import OWNER_WIDE, RULES, Costs, Limits
from ...outcomes import Kind, Outcome, Reading
from . import doubts
from .account import Account, scope_of
from .aimd import AimdLimit
from .header_readings import bucket_of, mark_of, name_of
from .reservations import (
    Claim,
    ClaimAnswer,
    HeadReservation,
    NeverFits,
    NotReady,
    Reservation,
    ReservationState,
    Settlement,
)
from .token_bucket import MARGIN, WINDOW, TokenBucket

#: Seconds after which an unsettled reservation comes back: the SDK's own time-out for a request
#: is 600 s, and a stream may go on for longer.
LIFETIME: Final = 900.0
#: Seconds to keep away from an owner that refused without saying for how long.
UNKNOWN_REFUSAL: Final = 1.0
#: Seconds that a refusal which no bucket explains keeps calls away at most; health probes longer
#: delays.
UNEXPLAINED_AT_MOST: Final = 60.0
#: How many times what was planned an answer's usage may be. Prompts are estimated within a factor
#: of four; more is an error of the endpoint, and would be a debt of years.
OVERUSE: Final = 16.0
#: ``retry-after`` is in whole seconds, rounded up.
ROUNDED: Final = 1.0

#: What an expired reservation still holds.
NOTHING_TAKEN: Final[Costs] = (0, 0, 0, 0, 0, 0, 0)

#: The limits of an organization (project ``None``) or of a project, for one model family.
LimitsFor = Callable[[str, str | None, str], Limits]


class Ledger:
    """The state of every limit. Not thread-safe: its store holds a lock around each call.

    Args:
        limits_for: the configured limits.
        lifetime: seconds after which a reservation that nobody settled comes back.
        assumes: seek the rate of owners that tell none; see `assumed`.
    """

    def __init__(
        self, limits_for: LimitsFor, *, lifetime: float = LIFETIME, assumes: bool = False
    ) -> None:
        self._assumes = assumes
        self._limits_for = limits_for
        self._lifetime = lifetime
        self._buckets: dict[tuple[str, str, str], TokenBucket] = {}
        self._accounts: dict[tuple[str, str | None, str], Account] = {}
        # Insertion order is expiry order, since all live equally long.
        self._open: dict[int, Reservation] = {}
        #: No open reservation expires before this instant.
        self._none_before = inf
        self._alias: dict[str, str] = {}
        self._number = 0

    # Accounts

    def account(self, organization: str, project: str | None, family: str, now: float) -> Account:
        """Return the account of an owner for a family, made from the configured limits."""
        organization = self._alias.get(organization, organization)
        key = (organization, project, family)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(organization, project, family)
            account.buckets = self._configured_buckets(account, now)
            if self._assumes and not account.buckets:
                account.assumed = AimdLimit()
        return account

    def _configured_buckets(self, account: Account, now: float) -> tuple[TokenBucket, ...]:
        owners: list[str | None] = [None]
        if account.project is not None:
            owners.append(account.project)
        found: list[TokenBucket] = []
        for project in owners:
            scope = scope_of(account.organization, project)
            for limit in self._limits_for(account.organization, project, account.family):
                family = "" if limit.name in OWNER_WIDE else account.family
                key = (scope, family, limit.name)
                if key not in self._buckets:
                    self._buckets[key] = TokenBucket.of(limit, scope, now)
            found += self._buckets_of(scope, account.family)
        return tuple(found)

    def _buckets_of(self, scope: str, family: str) -> list[TokenBucket]:
        names = ((scope, "" if name in OWNER_WIDE else family, name) for name in RULES)
        return [self._buckets[key] for key in names if key in self._buckets]

    def accounts(self) -> tuple[Account, ...]:
        """Return every account that was asked for so far."""
        return tuple(self._accounts.values())

    @property
    def open(self) -> int:
        """How many reservations are open."""
        return len(self._open)

    def next_expiry(self) -> float:
        """Return the instant when the oldest open reservation expires; infinite = there is none."""
        return next((r.expires_at for r in self._open.values()), inf)

    # Reserve

    def reserve(self, claim: Claim, now: float) -> ClaimAnswer:
        """Reserve the claim's costs on its first account that fits, on all its buckets or none."""
        if now >= self._none_before:
            self.expire(now)
        costs, guards = claim.costs, claim.guards
        best_at, best = inf, None
        largest: NeverFits | None = None
        may_fit = False
        for account in claim.accounts:
            at = account.ready_at(costs, now)
            if at > now and account.doubts and doubts.try_again(account, now):
                at = account.ready_at(costs, now)
            if at <= now:
                at = _guarded_until(guards, account, costs) if guards else now
                if at <= now:
                    return self._take(account, costs, now)
            if at == inf and (bucket := account.too_large(costs)) is not None:
                if largest is None or bucket.limit > largest.bucket.limit:
                    largest = NeverFits(account, bucket)
                continue
            may_fit = True
            if best is None or at < best_at:
                best_at, best = at, account
        if largest is not None and not may_fit:
            return largest
        return NotReady(best, best_at, self.next_expiry())

    def _take(self, account: Account, costs: Costs, now: float) -> Reservation:
        for bucket in account.buckets:
            if bucket.at < now:  # what a call takes nothing of wasn't looked at
                bucket.refill(now)
        marks = [bucket.take(costs[bucket.metric]) for bucket in account.buckets]
        self._number += 1
        account.in_flight += 1
        account.granted += 1
        if account.assumed is not None:
            account.assumed.granted(now)
        expires_at = now + self._lifetime
        if expires_at < self._none_before:
            self._none_before = expires_at
        reservation = Reservation(self._number, account, costs, marks, expires_at)
        self._open[self._number] = reservation
        return reservation

    # Settle

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Take in what became of a reservation. True if a waiting call may now fit earlier."""
        reservation = settlement.reservation
        freed = False
        if settlement.readings and not reservation.answered:
            if settlement.outcome is not None or reservation.headers_matter(now):
                freed = self._observe(settlement, now)
            self._answer(reservation)
        if settlement.used is not None and reservation.state is not ReservationState.SETTLED:
            freed = self._close(reservation, settlement.used, now) or freed
        elif settlement.sent and reservation.state is ReservationState.OPEN:
            self._sent(reservation, now)
        if settlement.outcome is not None:
            self._refused(reservation, settlement.outcome, now)
        return freed

    def _close(self, reservation: Reservation, used: Costs, now: float) -> bool:
        taken = reservation.costs
        held = NOTHING_TAKEN if reservation.state is ReservationState.EXPIRED else taken
        reservation.state = ReservationState.SETTLED
        if held is taken:
            del self._open[reservation.number]
            reservation.account.in_flight -= 1
        unanswered, reservation.answered = not reservation.answered, True
        freed = False
        for mark in reservation.marks:
            bucket = mark[0]
            metric = bucket.metric
            if unanswered:
                bucket.pending -= taken[metric]
            back = held[metric] - used[metric]
            if back:
                if back < -bucket.limit:  # more than the limit itself: bounded by what was planned
                    back = max(back, min(-bucket.limit, -OVERUSE * max(taken[metric], 1.0)))
                bucket.settled(back, now)
                if back > 0:
                    freed = True
        return freed

    def _sent(self, reservation: Reservation, now: float) -> None:
        waited_for = now - (reservation.expires_at - self._lifetime)
        for mark in reservation.marks:
            bucket = mark[0]
            bucket.refill(now)
            bucket.sent_late(reservation.costs[bucket.metric], mark, waited_for)

    def expire(self, now: float) -> int:
        """Give back what reservations took whose lifetime ended; return how many there were."""
        count = 0
        while self._open:
            oldest = next(iter(self._open.values()))
            if oldest.expires_at > now:
                break
            self._expire(oldest, now)
            count += 1
        self._none_before = self.next_expiry()
        return count

    def _expire(self, reservation: Reservation, now: float) -> None:
        reservation.state = ReservationState.EXPIRED
        del self._open[reservation.number]
        reservation.account.in_flight -= 1
        if not reservation.answered:
            self._answer(reservation)
        for mark in reservation.marks:
            mark[0].settled(reservation.costs[mark[0].metric], now)

    @staticmethod
    def _answer(reservation: Reservation) -> None:
        reservation.answered = True
        for mark in reservation.marks:
            mark[0].pending -= reservation.costs[mark[0].metric]

    # Learn

    def _observe(self, settlement: Settlement, now: float) -> bool:
        """Anchor the buckets that headers told of, and learn limits not known. True: there's more.

        Only the first headers of a reservation count: its mark is one moment.
        """
        reservation = settlement.reservation
        if settlement.headers_at_admission:
            reservation.account.heard_at = now
        more = False
        for reading in settlement.readings:
            mark = mark_of(reservation, reading)
            if mark is None:
                self._learn(reservation, reading, now)
                continue
            bucket, limit = mark[0], reading.limit
            if limit * doubts.FAR_BELOW < bucket.limit:
                if not self._believes(reservation, bucket, limit):
                    reservation.account.heard_at = -inf  # the next answer's headers matter
                    continue
                doubts.lower(bucket, now)
            reservation.account.assumed = None
            bucket.refill(now)
            before = bucket.level
            bucket.learn(limit, reading.burst or limit)
            if settlement.headers_at_admission:
                granted_at = reservation.expires_at - self._lifetime
                flew_for = now - granted_at
                bucket.reprice(reading.level, mark, granted_at)
                bucket.anchor(reading.level, mark, flew_for=flew_for, upward=limit <= bucket.limit)
            more = more or bucket.level > before
        return more

    def _learn(self, reservation: Reservation, reading: Reading, now: float) -> None:
        """Make the bucket of a limit that was not known.

        Calls in flight took nothing from it: those made later than the answered one are missing
        from the told level too, so their cost is subtracted here.
        """
        account = reservation.account
        name = name_of(reading)
        if name is None or (reading.project and account.project is None):
            return
        project = account.project if reading.project else None
        scope = scope_of(account.organization, project)
        key = (scope, account.family, name)
        known = self._buckets.get(key)
        if known is not None and known in account.buckets:
            return  # learned from another answer while this one was on its way
        if reading.limit < doubts.LEAST_LIMIT and not doubts.is_believed(
            account, name, reading.limit, request=reservation.number
        ):
            return
        bucket = TokenBucket(
            scope=scope,
            name=name,
            metric=reading.metric,
            period=reading.period,
            limit=reading.limit,
            now=now,
        )
        bucket.learn(reading.limit, reading.burst or reading.limit)
        later = sum(
            other.costs[reading.metric]
            for other in self._open.values()
            if other.number > reservation.number and _shares(other.account, account, project)
        )
        bucket.place(reading.level - later)
        self._buckets[key] = bucket
        for other in self._accounts.values():
            if _shares(other, account, project):
                other.buckets = (*other.buckets, bucket)

    @staticmethod
    def _believes(reservation: Reservation, bucket: TokenBucket, limit: float) -> bool:
        return doubts.is_believed(
            reservation.account, bucket.name, limit, request=reservation.number
        )

    def _refused(self, reservation: Reservation, outcome: Outcome, now: float) -> None:
        """Believe a refusal: nothing of its size is admitted before the told instant."""
        account = reservation.account
        after = outcome.retry_after if outcome.retry_after is not None else UNKNOWN_REFUSAL
        if outcome.kind is Kind.SLOW_DOWN:
            for bucket in account.buckets:
                bucket.slow_down(now)
            account.not_before = max(account.not_before, now + after)
        elif outcome.kind is Kind.RATE_LIMITED:
            refusing = self._refusing(reservation, outcome, now)
            if refusing is None:
                self._refused_somehow(reservation, account, after, now)
                return
            cost = outcome.requested or reservation.costs[refusing.metric] * refusing.price
            limit, period = outcome.limit, outcome.period
            if outcome.used is not None and limit is not None and period is not None:
                # By the limit that was told: the one that counts here may be configured lower.
                missing = outcome.used + cost - limit
                after = _exactly(refusing, missing * period / limit, after)
            refusing.refused(cost=cost / refusing.price, ready_after=after)

    def _refused_somehow(
        self, reservation: Reservation, account: Account, after: float, now: float
    ) -> None:
        """Believe a refusal that named no limit of ours."""
        account.not_before = max(account.not_before, now + min(after, UNEXPLAINED_AT_MOST))
        assumed = account.assumed
        if assumed is None:
            return
        bucket = assumed.bucket
        if bucket is None:
            if account.buckets:  # headers told one meanwhile
                account.assumed = None
                return
            scope = scope_of(account.organization, None)
            bucket = assumed.begin(scope, account.in_flight, now)
            if bucket is None:
                return
            self._buckets[scope, account.family, bucket.name] = bucket
            for other in self._accounts.values():
                if _shares(other, account, None):
                    other.buckets = (*other.buckets, bucket)
        else:
            bucket.refill(now)
            assumed.refused(bucket, reservation.expires_at - self._lifetime, now)

    def _refusing(
        self, reservation: Reservation, outcome: Outcome, now: float
    ) -> TokenBucket | None:
        """Return the bucket that a refusal was about, made from what it told if need be."""
        if outcome.metric is None or outcome.limit is None or outcome.period is None:
            return None
        reading = Reading(
            metric=outcome.metric,
            period=outcome.period,
            limit=outcome.limit,
            level=0.0 if outcome.used is None else outcome.limit - outcome.used,
            project=outcome.scope == "project",
        )
        account = reservation.account
        bucket = bucket_of(account, reading)
        if bucket is None:
            self._learn(reservation, reading, now)
            return bucket_of(account, reading)
        account.assumed = None
        bucket.refill(now)
        if reading.limit * doubts.FAR_BELOW < bucket.limit:
            if not self._believes(reservation, bucket, reading.limit):
                return None
            doubts.lower(bucket, now)
        bucket.learn(reading.limit, min(bucket.ceiling, reading.limit))
        return bucket

    def show(
        self, account: Account, scope: str, name: str, limit: float, now: float
    ) -> TokenBucket:
        """Return the bucket of a limit that another place knows of, made here if need be."""
        family = "" if name in OWNER_WIDE else account.family
        bucket = self._buckets.get((scope, family, name))
        if bucket is None:
            metric, period = RULES[name]
            bucket = self._buckets[scope, family, name] = TokenBucket(
                scope=scope, name=name, metric=metric, period=period, limit=limit, now=now
            )
            for other in self._accounts.values():
                if scope in (other.organization, other.owner) and family in ("", other.family):
                    other.buckets = (*other.buckets, bucket)
        return bucket

    # Identity

    def merge(self, organization: str, into: str, now: float) -> None:
        """Make two organizations one: the provider says that they are. Their use adds up."""
        organization = self._alias.get(organization, organization)
        into = self._alias.get(into, into)
        if organization == into:
            return
        for name, target in list(self._alias.items()):
            if target == organization:
                self._alias[name] = into
        self._alias[organization] = into
        for key in [k for k in self._buckets if _inscope_of(k[0], organization)]:
            scope, family, name = key
            bucket = self._buckets.pop(key)
            bucket.scope = into + scope[len(organization) :]
            renamed = (bucket.scope, family, name)
            kept = self._buckets.setdefault(renamed, bucket)
            if kept is not bucket:
                kept.merge(bucket, now)
        for old in [k for k in self._accounts if k[0] == organization]:
            # Reservations on it still settle into the buckets that they took from.
            self._accounts.pop(old).organization = into
        for account in self._accounts.values():
            if account.organization == into:
                account.buckets = self._configured_buckets(account, now)

    def resolve(self, organization: str) -> str:
        """Return the name under which an organization's buckets stand."""
        return self._alias.get(organization, organization)


def _inscope_of(scope: str, organization: str) -> bool:
    return scope == organization or scope.startswith(f"{organization}/")


def _exactly(bucket: TokenBucket, exactly: float, after: float) -> float:
    """Return the seconds that a refusal means, where it told more than a delay in whole seconds.

    A delay that is longer than rounding explains is believed: its period is not the bucket's
    ("Please try again in 114h18m0s", openai/openai-dotnet#404).
    """
    if exactly < 0:  # there was room for it: a shorter window refused, which is empty
        bucket.enforce(WINDOW)
        exactly = MARGIN
    return exactly if after <= max(exactly, WINDOW) + ROUNDED else after


def _guarded_until(guards: tuple[HeadReservation, ...], account: Account, costs: Costs) -> float:
    """Return when the guarded calls that this would delay are served; -inf = it delays none."""
    delayed = (guard.at for guard in guards if guard.is_delayed_by(account, costs))
    return max(delayed, default=-inf)


def _shares(other: Account, account: Account, project: str | None) -> bool:
    """Whether the other account draws on the same organization's (or project's) buckets."""
    same = other.organization == account.organization and other.family == account.family
    return same and (project is None or other.project == project)
