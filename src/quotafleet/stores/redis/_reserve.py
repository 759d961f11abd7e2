"""Claims and settlements of one process: what is said to the server, and what can go wrong in it.

A claim is a conversation: a generator that yields what it asks and is sent what was answered, so
that threads and event loops carry the same one over and back, several of them in one step.
"""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from typing import Final

from ..._clock import Clock
from ..._core.quota.account import Account
from ..._core.quota.reservations import (
    Claim,
    ClaimAnswer,
    NeverFits,
    NotReady,
    Reservation,
    ReservationState,
    Settlement,
)
from ...errors import StoreError
from . import _codec as wire
from ._background import BackgroundWorker
from ._batches import LOGGER, BatchBuilder
from ._connection import ConnectionLost, Unready, WrongProtocol
from ._degraded import DegradedMode
from ._outage import Outage
from ._quota_leases import QuotaLeases
from ._replica import LeasedReservation
from ._slot_queue import LISTENS_WITHIN, SlotQueue
from ._step import GRANTED, MISSING, MOVED, OVERSIZE, ClaimRequest, Round, StepAnswer, Wants

#: Claims of one conversation: an owner that was merged, a bucket to be made, an answer lost.
TURNS: Final = 8

Talk = Generator[ClaimRequest, StepAnswer, ClaimAnswer]


class Claims:
    """The claims of one store, and the settlements that end them.

    Args:
        books: what this process holds; their lock guards what is here too.
        absence: whether the server is away, and what calls do then.
        companion: brings settlements over that no claim takes along.
        clock: what tells this process's time.
        shares: what calls may take without asking; ``None`` = nothing.
    """

    def __init__(
        self,
        books: BatchBuilder,
        absence: Outage,
        companion: BackgroundWorker,
        *,
        clock: Clock,
        shares: QuotaLeases | None,
    ) -> None:
        self._books = books
        self._lock = books.lock
        self._view = books.view
        self._absence = absence
        self._companion = companion
        self._clock = clock
        self._shares = shares
        self._waits_out = absence.on_failure != "fail"
        #: What this process may spend on its own; ``None`` = it asks the server.
        self._alone: DegradedMode | None = None
        #: Reservations that it made on its own so far.
        self.granted_alone = 0
        self._warned = False  # of a server of another protocol
        #: Bookings whose exchange is under way, with what is to become of them afterwards.
        self._exchanged: dict[int, Settlement | None] = {}
        self._row = SlotQueue(books.view, companion, clustered=books.by_owner)
        self._booked_until = -inf

    def at_once(self, claim: Claim, now: float) -> Reservation | NotReady | None:
        """Answer a claim without asking the server; ``None`` = it must be asked."""
        if claim.held is not None or claim.dropped is not None:
            return None
        with self._lock:
            if self._shares is not None:
                granted = self._shares.grant(claim, now)
                if granted is not None:
                    return granted
            return self._row.answer(claim, now) if self._row else None

    @property
    def waits(self) -> bool:
        """Whether this process stands in a row for slots."""
        return bool(self._row)

    def waits_no_more(self, prefix: str) -> None:
        """No call of this process waits for slots of these keys' owner: others are told of them."""
        with self._lock:
            self._row.left(prefix)

    def talk(self, claim: Claim) -> Talk:
        """Claim; what a driver does is to carry what is asked over and back."""
        held = claim.held
        if claim.dropped is not None:
            self.settle(Settlement(claim.dropped, wire.UNUSED), self._clock.now())
        accounts = list(claim.accounts)
        if held is not None:
            with self._lock:
                if held.state is not ReservationState.OPEN:
                    held = None
                else:
                    self._exchanged[held.number] = None
        try:
            if self._waits_out:
                absent = yield from self._absent(accounts, claim, held)
                if absent is not None:
                    self._exchange(held, kept=True)
                    return absent
            answer: ClaimAnswer | None = None
            if self._shares is not None:
                answer = yield from self._ask_sparing(self._shares, accounts, claim, held)
            if answer is None:
                answer = yield from self._ask_all(accounts, claim, held)
        except BaseException as error:  # also cancellation: no future is left half exchanged
            lost = not isinstance(error, StoreError) or isinstance(error, ConnectionLost)
            if lost and held is not None:  # it may be exchanged or not: neither is used
                self._take_back(held)
            self._exchange(held, kept=not lost)
            if not self._waits_out or not isinstance(error, Unready):
                raise
            return self._short_since(error, None if lost else held)
        kept = isinstance(answer, NotReady) and answer.future is held
        self._exchange(held, kept=kept)
        return answer

    def _absent(
        self, accounts: list[Account], claim: Claim, held: Reservation | None
    ) -> Generator[ClaimRequest, StepAnswer, ClaimAnswer | None]:
        """Return what a claim gets without asking while the server is away; ``None`` = ask it.

        A question for nothing goes first, so that nothing need be undone if there is no answer.
        """
        with self._lock:
            if self._absence.away is None or not accounts:
                return None
            if self._alone is not None:
                return self._on_its_own(self._alone, accounts, claim, held)
            if self._absence.holds_back(self._clock.now()):
                return self._absence.answer(held)
        try:
            yield ClaimRequest(self._books.group(accounts[0].organization))
        except Unready as error:
            return self._short_since(error, held)
        return None

    def _short_since(self, error: Unready, held: Reservation | None) -> NotReady:
        if isinstance(error, WrongProtocol) and not self._warned:
            self._warned = True
            LOGGER.warning("The store can't be used: %s", error)
        with self._lock:
            answer = self._absence.failed(str(error), self._clock.now(), held)
            size = self._absence.fleet_size()
            if self._absence.on_failure == "degrade" and size and self._alone is None:
                self._alone = DegradedMode(size, self._view.all, lifetime=self._books.lifetime)
        if self._alone is not None:
            self._companion.nudge(soon=True)  # it asks for the server from now on
        return answer

    def is_back(self) -> None:
        """Let those that wait for the server ask it, if it was away. Not under a pool's lock."""
        with self._lock:
            if self._alone is not None:  # some step came through; `rejoin` ends it
                return
            accounts = self._view.all() if self._absence.ended() else ()
        self._books.tell(accounts)

    # On its own

    def _on_its_own(
        self, alone: DegradedMode, accounts: list[Account], claim: Claim, held: Reservation | None
    ) -> ClaimAnswer:
        """Return what this process's part of the quota allows; what was booked before stays so."""
        if held is not None:
            return self._absence.answer(held)
        answer = alone.reserve(accounts, claim, self._books.next_number(), self._clock.now())
        self.granted_alone += isinstance(answer, Reservation)
        return answer

    @property
    def is_alone(self) -> bool:
        """Whether this process spends its part of the quota, and asks nobody."""
        return self._alone is not None

    def knock(self) -> Round:
        """Return a step without claims, which tells whether the server is there."""
        with self._lock:
            account = next(iter(self._view.all()))
            return self._books.round(self._books.group(account.organization))

    def is_away(self) -> None:
        """It doesn't answer."""
        with self._lock:
            if self._alone is not None:
                self._alone.answers_since = None

    def answers(self) -> bool:
        """It does: tell what was spent, and be one of the fleet again once the others are too."""
        now = self._clock.now()
        with self._lock:
            alone = self._alone
            if alone is None:
                return True
            if alone.answers_since is None:
                alone.answers_since = now
            if now - alone.answers_since < self._absence.rejoins_after:
                self._books.tell_alone(alone, now, last=False)
                return False
        self.rejoin()
        return True

    def rejoin(self) -> None:
        """Ask the server from now on; what was spent alone goes ahead of all that it is told."""
        with self._lock:
            alone, self._alone = self._alone, None
            if alone is not None:
                self._books.tell_alone(alone, self._clock.now(), last=True)

    def _exchange(self, held: Reservation | None, *, kept: bool) -> None:
        """End an exchange. A future that was given up for another is settled by that."""
        if held is None:
            return
        with self._lock:
            settlement = self._exchanged.pop(held.number)
            if not kept:
                held.state = ReservationState.SETTLED
                held.account.in_flight -= 1
        if kept and settlement is not None:
            self.settle(settlement, self._clock.now())

    def _ask_sparing(
        self, shares: QuotaLeases, accounts: list[Account], claim: Claim, held: Reservation | None
    ) -> Generator[ClaimRequest, StepAnswer, Reservation | None]:
        """Ask for as much as this process's shares don't cover; ``None`` = nothing fits.

        Who is short has no share left: each of the owners concerned has then been given back.
        """
        patient = Claim(accounts, claim.costs)  # but books nothing
        owners = {account.organization for account in accounts}
        with self._lock:
            now = self._clock.now()
            first = shares.before(accounts, claim.costs, now)
            if first is None and not shares.holds(owners):
                return None
            ahead = [a for a in accounts[:first] if a.ready_at(claim.costs, now) <= now]
        answer: ClaimAnswer | None = None
        if ahead:
            answer = yield from self._ask_all(ahead, patient, None)
        with self._lock:
            if not isinstance(answer, Reservation):
                patient.accounts = accounts[first:] if first is not None else []
                answer = shares.grant(patient, self._clock.now())
            if answer is None:
                shares.give_back(owners)
        if answer is not None and held is not None:
            self._take_back(held)
        return answer

    def _ask_all(self, accounts: list[Account], claim: Claim, held: Reservation | None) -> Talk:
        if self._books.by_owner:
            return self._ask_each(accounts, claim, held)
        return self._ask(accounts, claim, claim.reserve_ahead, held)

    def _ask_each(self, accounts: list[Account], claim: Claim, held: Reservation | None) -> Talk:
        """Ask a cluster, where an organization is one slot: one after the other, then the best."""
        best: NotReady | None = None
        oversize: NeverFits | None = None
        by_owner: dict[str, list[Account]] = {}
        for account in accounts:
            by_owner.setdefault(account.organization, []).append(account)
        for some in by_owner.values():
            answer = yield from self._ask(some, claim, 0.0, None)
            if isinstance(answer, Reservation):
                if held is not None:
                    self._take_back(held)
                return answer
            if isinstance(answer, NeverFits):
                if oversize is None or answer.bucket.limit > oversize.bucket.limit:
                    oversize = answer
            elif best is None or answer.ready_at < best.ready_at:
                best = answer
        if best is None:
            return oversize if oversize is not None else NotReady(None, inf)
        if held is not None and held.starts_at <= best.ready_at:
            return NotReady(held.account, held.starts_at, future=held)
        if best.account is None or best.ready_at == inf or not claim.reserve_ahead > 0:
            return best
        booked = yield from self._ask([best.account], claim, claim.reserve_ahead, None)
        if held is not None:
            self._take_back(held)
        return booked

    def _take_back(self, held: Reservation) -> None:
        """Give a future back that another was granted for."""
        with self._lock:
            self._books.put(Settlement(held, wire.UNUSED), self._clock.now())
        self._companion.nudge(soon=True)

    def _ask(
        self, accounts: list[Account], claim: Claim, reserve_ahead: float, held: Reservation | None
    ) -> Talk:
        with self._lock:
            number = self._books.next_number()
            wants: Wants = {}
            if self._shares is not None:
                wants = self._shares.want(accounts, claim.costs, self._clock.now())
        try:
            return (yield from self._converse(accounts, claim, reserve_ahead, held, number, wants))
        finally:
            if self._shares is not None:
                with self._lock:
                    self._shares.asked(wants)

    def _converse(
        self,
        accounts: list[Account],
        claim: Claim,
        reserve_ahead: float,
        held: Reservation | None,
        number: int,
        wants: Wants,
    ) -> Talk:
        create = again = False
        for _ in range(TURNS):
            if not accounts:
                return NotReady(None, inf)
            ask = ClaimRequest(
                self._books.group(accounts[0].organization),
                accounts,
                number,
                claim.costs,
                create,
                again,
                waits=claim.reserve_ahead > 0 and self._companion.listening.is_set(),
                horizon=wire.microseconds(reserve_ahead) if reserve_ahead > 0 else -1,
                held=held,
                wants=wants,
            )
            try:
                answered = yield ask
            except StoreError as error:
                with self._lock:
                    once = again or held is not None or self._absence.away is not None
                    if once or not isinstance(error, ConnectionLost):
                        self._books.undo(accounts, number, claim.costs)
                        raise
                again = True
                continue
            except BaseException:  # also cancellation: what was granted must come back
                if ask.sent_at is not None or again:
                    with self._lock:
                        self._books.undo(accounts, number, claim.costs)
                raise
            now = self._clock.now()
            if self._absence.away is not None:
                self.is_back()
            if answered.what == MOVED:
                with self._lock:
                    into = answered.text.decode()
                    self._view.merge(accounts[answered.which].organization, into, now)
                    accounts, wants = self._view.resolved(accounts, now), {}
            elif answered.what == MISSING:
                create = True
            else:
                with self._lock:
                    return self._answer(ask, claim, answered, now)
        raise StoreError("Redis gave no answer to a claim: is something else writing to its keys?")

    def _answer(
        self, ask: ClaimRequest, claim: Claim, answered: StepAnswer, now: float
    ) -> ClaimAnswer:
        if answered.which < 0:
            return self._short(ask, None, answered, claim, now)
        account = ask.accounts[answered.which]
        if answered.what == OVERSIZE:
            return NeverFits(account, self._view.bucket(account, answered.text.decode()))
        if answered.what != GRANTED or ask.sent_at is None:
            return self._short(ask, account, answered, claim, now)
        marks = self._view.marks(account, answered.text, now)
        reservation = self._view.granted(
            account, claim.costs, marks, ask.number, answered.after, ask.sent_at
        )
        if self._shares is not None and answered.part > 0:
            self._shares.lent(reservation, ask.wants, answered, ask.sent_at)
            self._companion.nudge(soon=False)
        if answered.after <= 0:
            return reservation
        reservation.starts_at = now + answered.after
        self._booked_until = max(self._booked_until, reservation.starts_at)
        return NotReady(account, reservation.starts_at, future=reservation)

    def _short(
        self,
        ask: ClaimRequest,
        account: Account | None,
        answered: StepAnswer,
        claim: Claim,
        now: float,
    ) -> NotReady:
        if ask.held is not None:  # nothing begins earlier, or else the server had exchanged it
            return NotReady(ask.held.account, ask.held.starts_at, future=ask.held)
        expires_at = now + answered.expires_after
        if answered.after == inf and claim.reserve_ahead > 0:
            if self._companion.listening.is_set():
                expires_at = min(expires_at, self._row.joined(ask.accounts, now))
            elif self._books.freed is not None:
                self._companion.listen()
                expires_at = min(expires_at, now + LISTENS_WITHIN)
        return NotReady(account, now + answered.after, expires_at)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Take in what became of a reservation, once. True if capacity came back.

        It is brought to the server with the next claim, or a few milliseconds later.
        """
        reservation = settlement.reservation
        with self._lock:
            if reservation.number in self._exchanged:
                self._exchanged[reservation.number] = settlement
                return False
            ended = reservation.state is ReservationState.SETTLED
            if ended and settlement.outcome is None and not settlement.readings:
                return False
            if settlement.used is None and not settlement.readings and settlement.outcome is None:
                return False
            if self._shares is not None and type(reservation) is LeasedReservation:
                freed = self._shares.settle(settlement, now)
                if freed is not None:
                    return freed
            if self._alone is not None and self._alone.settle(settlement, now):
                return self._view.take_in(settlement, now)
            self._books.put(settlement, now)
            # What refills waits for the next claim, which comes as a future begins; no slot does.
            slots = any(bucket.period is None for bucket, *_ in reservation.marks)
            freed = self._view.take_in(settlement, now)
            urgent = settlement.outcome is not None or (freed and slots)
            soon = urgent or now > self._booked_until
        self._companion.nudge(soon=soon)
        return freed
