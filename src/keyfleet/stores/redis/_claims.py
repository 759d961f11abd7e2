"""Claims and settlements of one process: what is said to the server, and what can go wrong in it.

A claim is a conversation: a generator that yields steps and is sent replies, so that threads and
event loops carry the same one over and back.
"""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from typing import Final

from ..._clock import Clock
from ..._core.account import Account
from ..._core.bucket import Mark
from ..._core.claims import Answer, Claim, Oversize, Reservation, Settlement, Short, State
from ...errors import StoreError
from . import _wire as wire
from ._alone import Alone
from ._away import Absence
from ._books import Books, Step, Wants
from ._companion import Companion
from ._row import LISTENS_WITHIN, Row
from ._server import Lost, Reply, Unready
from ._shares import Shares
from ._view import Portion

#: Claims of one conversation: an owner that was merged, a bucket to be made, an answer lost.
TURNS: Final = 8

Talk = Generator[Step, Reply, Answer]


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
        books: Books,
        absence: Absence,
        companion: Companion,
        *,
        clock: Clock,
        shares: Shares | None,
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
        self._alone: Alone | None = None
        #: Reservations that it made on its own so far.
        self.granted_alone = 0
        #: Bookings whose exchange is under way, with what is to become of them afterwards.
        self._exchanged: dict[int, Settlement | None] = {}
        self._row = Row(books.view, companion)
        self._booked_until = -inf

    def at_once(self, claim: Claim, now: float) -> Reservation | Short | None:
        """Answer a claim without asking the server; ``None`` = it must be asked."""
        if claim.held is not None or claim.dropped is not None:
            return None
        with self._lock:
            if self._shares is not None:
                granted = self._shares.grant(claim, now)
                if granted is not None:
                    return granted
            return self._row.answer(claim, now) if self._row else None

    def waits_no_more(self, prefix: str) -> None:
        """No call of this process waits for slots of these keys' owner: others are told of them."""
        with self._lock:
            self._row.left(prefix)

    def talk(self, claim: Claim) -> Talk:
        """Claim; what a driver does is to carry the steps over and back."""
        held = claim.held
        if claim.dropped is not None:
            self.settle(Settlement(claim.dropped, wire.UNUSED), self._clock.now())
        accounts = list(claim.accounts)
        if held is not None:
            with self._lock:
                if held.state is not State.OPEN:
                    held = None
                else:
                    self._exchanged[held.number] = None
        try:
            if self._waits_out:
                absent = yield from self._absent(accounts, claim, held)
                if absent is not None:
                    self._exchange(held, kept=True)
                    return absent
            answer: Answer | None = None
            if self._shares is not None:
                answer = yield from self._ask_sparing(self._shares, accounts, claim, held)
            if answer is None:
                answer = yield from self._ask_all(accounts, claim, held)
        except BaseException as error:  # also cancellation: no booking is left half exchanged
            lost = not isinstance(error, StoreError) or isinstance(error, Lost)
            if lost and held is not None:  # it may be exchanged or not: neither is used
                self._take_back(held)
            self._exchange(held, kept=not lost)
            if not self._waits_out or not isinstance(error, Unready):
                raise
            return self._short_since(error, None if lost else held)
        kept = isinstance(answer, Short) and answer.booking is held
        self._exchange(held, kept=kept)
        return answer

    def _absent(
        self, accounts: list[Account], claim: Claim, held: Reservation | None
    ) -> Generator[Step, Reply, Answer | None]:
        """Return what a claim gets without asking while the server is away; ``None`` = ask it.

        An empty step goes first, so that nothing need be undone if that isn't answered either.
        """
        with self._lock:
            if self._absence.away is None or not accounts:
                return None
            if self._alone is not None:
                return self._on_its_own(self._alone, accounts, claim, held)
            if self._absence.holds_back(self._clock.now()):
                return self._absence.answer(held)
            group = self._books.group(accounts[0].organization)
            step = self._books.step(self._books.header(), group)
        try:
            yield step
        except Unready as error:
            return self._short_since(error, held)
        return None

    def _short_since(self, error: Unready, held: Reservation | None) -> Short:
        with self._lock:
            answer = self._absence.failed(str(error), self._clock.now(), held)
            size = self._absence.fleet_size()
            if self._absence.on_failure == "degrade" and size and self._alone is None:
                self._alone = Alone(size, self._view.all, lifetime=self._books.lifetime)
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
        self, alone: Alone, accounts: list[Account], claim: Claim, held: Reservation | None
    ) -> Answer:
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

    def knock(self) -> Step:
        """Return an empty step, which tells whether the server is there."""
        with self._lock:
            account = next(iter(self._view.all()))
            return self._books.step(self._books.header(), self._books.group(account.organization))

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
        """End an exchange. A booking that was given up for another is settled by that."""
        if held is None:
            return
        with self._lock:
            settlement = self._exchanged.pop(held.number)
            if not kept:
                held.state = State.SETTLED
                held.account.in_flight -= 1
        if kept and settlement is not None:
            self.settle(settlement, self._clock.now())

    def _ask_sparing(
        self, shares: Shares, accounts: list[Account], claim: Claim, held: Reservation | None
    ) -> Generator[Step, Reply, Reservation | None]:
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
        answer: Answer | None = None
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
        return self._ask(accounts, claim, claim.books_for, held)

    def _ask_each(self, accounts: list[Account], claim: Claim, held: Reservation | None) -> Talk:
        """Ask a cluster, where an organization is one slot: one after the other, then the best."""
        best: Short | None = None
        oversize: Oversize | None = None
        by_owner: dict[str, list[Account]] = {}
        for account in accounts:
            by_owner.setdefault(account.organization, []).append(account)
        for some in by_owner.values():
            answer = yield from self._ask(some, claim, 0.0, None)
            if isinstance(answer, Reservation):
                if held is not None:
                    self._take_back(held)
                return answer
            if isinstance(answer, Oversize):
                if oversize is None or answer.bucket.limit > oversize.bucket.limit:
                    oversize = answer
            elif best is None or answer.ready_at < best.ready_at:
                best = answer
        if best is None:
            return oversize if oversize is not None else Short(None, inf)
        if held is not None and held.starts_at <= best.ready_at:
            return Short(held.account, held.starts_at, booking=held)
        if best.account is None or not claim.books_for > 0:
            return best
        booked = yield from self._ask([best.account], claim, claim.books_for, None)
        if held is not None:
            self._take_back(held)
        return booked

    def _take_back(self, held: Reservation) -> None:
        """Give a booking back that another was granted for."""
        with self._lock:
            self._books.put(Settlement(held, wire.UNUSED), self._clock.now())
        self._companion.nudge(soon=True)

    def _ask(
        self, accounts: list[Account], claim: Claim, books_for: float, held: Reservation | None
    ) -> Talk:
        with self._lock:
            number = self._books.next_number()
            wants: Wants = {}
            if self._shares is not None:
                wants = self._shares.want(accounts, claim.costs, self._clock.now())
        try:
            return (yield from self._converse(accounts, claim, books_for, held, number, wants))
        finally:
            if self._shares is not None:
                with self._lock:
                    self._shares.asked(wants)

    def _converse(
        self,
        accounts: list[Account],
        claim: Claim,
        books_for: float,
        held: Reservation | None,
        number: int,
        wants: Wants,
    ) -> Talk:
        create = again = False
        for _ in range(TURNS):
            if not accounts:
                return Short(None, inf)
            group = self._books.group(accounts[0].organization)
            waits = self._companion.listening.is_set()
            lender = self._shares if any(wants.values()) else None
            with self._lock:
                batch = self._books.buffer.begin(group)
                header = self._books.header(
                    batch=batch.number if batch else -1,
                    settlements=len(batch.endings) if batch else 0,
                    candidates=len(accounts),
                    create=create,
                    again=again,
                    horizon=wire.microseconds(books_for) if books_for > 0 else -1,
                    waits=waits and books_for > 0,
                    waited=bool(self._row),
                    lends_for=lender.lends_for if lender is not None else 0,
                    fraction=lender.fraction if lender is not None else 0,
                    costs=claim.costs,
                )
                step = self._books.step(
                    header,
                    group,
                    accounts=accounts,
                    wants=wants,
                    batch=batch,
                    number=number,
                    held=held,
                )
            sent_at = self._clock.now()
            try:
                raw = yield step
            except StoreError as error:
                with self._lock:
                    self._books.buffer.failed(batch)
                    once = again or held is not None or self._absence.away is not None
                    if once or not isinstance(error, Lost):
                        self._books.undo(accounts, number, claim.costs)
                        raise
                again = True
                continue
            except BaseException:  # also cancellation: what was granted must come back
                with self._lock:
                    self._books.buffer.failed(batch)
                    self._books.undo(accounts, number, claim.costs)
                raise
            reply = wire.read(raw)
            now = self._clock.now()
            with self._lock:
                freed = self._books.end_batch(group, batch, reply, now)
            self._books.tell(freed)
            if self._absence.away is not None:
                self.is_back()
            if reply.what == wire.MOVED:
                with self._lock:
                    self._view.merge(accounts[reply.which].organization, reply.name, now)
                    accounts, wants = self._view.resolved(accounts, now), {}
            elif reply.what == wire.MISSING:
                create = True
            else:
                with self._lock:
                    return self._answer(accounts, claim, reply, number, held, wants, sent_at, now)
        raise StoreError("Redis gave no answer to a claim: is something else writing to its keys?")

    def _answer(
        self,
        accounts: list[Account],
        claim: Claim,
        reply: wire.Reply,
        number: int,
        held: Reservation | None,
        wants: Wants,
        sent_at: float,
        now: float,
    ) -> Answer:
        marks: list[Mark] = []
        for index, (names, numbers) in enumerate(reply.views):
            # A repeated claim's answer shows only the account that it was granted on.
            which = reply.which if len(reply.views) == 1 else index
            seen = self._view.show(accounts[which], names, numbers, now)
            if which == reply.which:
                marks = seen
        account = accounts[reply.which] if reply.which >= 0 else None
        if reply.what == wire.GRANTED and account is not None:
            reservation = self._view.granted(account, claim.costs, marks, number, reply, sent_at)
            if self._shares is not None and reply.lent > 0:
                self._shares.lent(reservation, wants, reply, sent_at)
                self._companion.nudge(soon=False)
            if reply.after <= 0:
                return reservation
            reservation.starts_at = now + reply.after
            self._booked_until = max(self._booked_until, reservation.starts_at)
            return Short(account, reservation.starts_at, booking=reservation)
        if reply.what == wire.OVERSIZE and account is not None:
            return Oversize(account, self._view.bucket(account, reply.name))
        return self._short(accounts, account, reply, claim, held, now)

    def _short(
        self,
        accounts: list[Account],
        account: Account | None,
        reply: wire.Reply,
        claim: Claim,
        held: Reservation | None,
        now: float,
    ) -> Short:
        if held is not None:  # nothing begins earlier, or else the server had exchanged it
            return Short(held.account, held.starts_at, booking=held)
        expires_at = now + reply.expires_after
        if reply.after == inf and claim.books_for > 0:
            if self._companion.listening.is_set():
                expires_at = min(expires_at, self._row.joined(accounts, now))
            elif self._books.freed is not None:
                if not self._books.by_owner:
                    self._companion.listen()
                expires_at = min(expires_at, now + LISTENS_WITHIN)
        return Short(account, now + reply.after, expires_at)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Take in what became of a reservation, once. True if capacity came back.

        It is brought to the server with the next claim, or a few milliseconds later.
        """
        reservation = settlement.reservation
        with self._lock:
            if reservation.number in self._exchanged:
                self._exchanged[reservation.number] = settlement
                return False
            ended = reservation.state is State.SETTLED
            if ended and settlement.outcome is None and not settlement.readings:
                return False
            if settlement.used is None and not settlement.readings and settlement.outcome is None:
                return False
            if self._shares is not None and type(reservation) is Portion:
                freed = self._shares.settle(settlement, now)
                if freed is not None:
                    return freed
            if self._alone is not None and self._alone.settle(settlement, now):
                return self._view.take_in(settlement, now)
            self._books.put(settlement, now)
            freed = self._view.take_in(settlement, now)
            soon = freed or settlement.outcome is not None or now > self._booked_until
        self._companion.nudge(soon=soon)
        return freed
