"""How fast an owner is used at first: no faster than is known to be let through.

Theory of operation. Limits are stated per minute, and the buckets behind them mostly hold a whole
minute (measured on recorded OpenAI traffic, 2023-10 to 2026-08). But "60,000 requests/minute may be
enforced as 1,000 requests/second" (OpenAI help centre, articles 5955604 and 6891753), Azure counts
requests in windows of 1 or 10 seconds, and no header tells so. A batch that begins with a minute's
worth at once would be refused by the hundred. So would one that the provider charges by another
formula than we assume, before the first answer could tell.

All amounts are therefore measured in *seconds' worth*: what a call takes of the scarcest limit per
minute, times 60 s. A new owner has a short bucket of `FIRST` seconds' worth, filled at one second
a second: so much any provider lets through, and no rate is lost by it, since the owner's own
buckets go on refilling meanwhile. When the short bucket is empty, a little more is sent as a
*test*, so that in all `TEST` of a window is used. If a call of the test is answered, the provider's
bucket is larger than the window, and the window grows by `GROWTH`; beyond a minute there is nothing
to test, and the slow start is over. If it is refused, the ledger learns the burst from the refusal.

A client that begins with hundreds of calls sends, and reads, what it was granted long after. So a
window grows only once most of what was in flight is answered: then it holds no more calls on its
way than one window, what the answers told of levels and prices is known, and a test's calls leave
together. Where they told of another price than assumed, all must be answered: each that is still on
its way leaves in doubt what is charged. Where answers take long, a test counts as passed when
`REFUSED_WITHIN` seconds have gone without any: had it been refused, that would be known, unless the
client is late with everything.

How limits are enforced is the provider's way, not an owner's. So of the owners at one provider one
is tested first, and the others follow once it was let through. Where it was refused they keep to
the window, and one of them tests again `RETESTED_AFTER` seconds later.

Where no limit is known a request counts as a second's worth, the first window holds `UNKNOWN` of
them, and windows grow by a few: so few are refused when the limit is met. From there on see
`assumed`.

Where a minute's worth is less than `FEW` requests, there is nothing to flood anybody with, and a
window of a second would hold none: such owners are used as they are.

A minute's worth is so let go after six round trips. That costs the first calls of a process
their time, and a batch nothing, since what was used refills meanwhile.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ...limits import MINUTE, Costs, Metric
from ...outcomes import Kind, Outcome
from ..quota.account import Account
from ..quota.token_bucket import MARGIN, WINDOW
from .circuit_breaker import Circuit

#: The share of a window that is used without a test: the rest is the scatter of arrivals.
FIRST: Final = 1.0 - MARGIN
#: The share of a window that a test uses up to; more than all, by the scatter of arrivals.
TEST: Final = 1.0 + MARGIN
#: The share from which on an answer proves that the window isn't enforced.
PROOF: Final = 1.0 + MARGIN / 2
#: Seconds without an answer after which a test counts as passed that was not refused: refusals come
#: within a round trip, which a busy client reads late.
REFUSED_WITHIN: Final = 1.0
#: So many calls go at once even where they are more than a window's worth: limits so small are not
#: worth their callers' time.
FEWEST: Final = 4
#: So many at first where no limit is known: fewer than most providers let through in a minute.
UNKNOWN: Final = 32.0
#: Calls differ in size by so much or less, where most are too small to be counted one by one.
SIZES: Final = 4.0
#: Requests a minute below which an owner is not tested: two a second.
FEW: Final = 12.0
#: A window that was no limit grows by so much.
GROWTH: Final = 2.0
#: And of an owner whose limits nobody tells, by so much, and by so many requests at least: what it
#: refuses at last is what the window grew by.
PROBING_GROWTH: Final = 1.03
PROBING_STEP: Final = 3.0
#: Requests at once that such an owner lets through who is then taken for one without limits.
PROBED: Final = 600.0
#: A test's answer counts once no more than this share of the calls of its window is in flight, and
#: where a price is being learned once none is.
ON_THEIR_WAY: Final = 1 / 8
#: Seconds after which another owner is tested where a window was found to be enforced.
RETESTED_AFTER: Final = 60.0
#: Seconds for which others wait for the first owner's test: it may have no more calls to make one.
WAITED_FOR: Final = 2.0
#: Seconds by which a client is late with what it should have done, and so with reading refusals.
LATE: Final = 0.1


class ProviderWindow:
    """How a provider enforces its limits, as far as its owners' tests told."""

    __slots__ = ("first", "held", "is_proven", "others_from")

    def __init__(self) -> None:
        #: Some owner was let through more than a window's worth.
        self.is_proven = False
        #: Whose test is the first, and when others may begin theirs whatever comes of it.
        self.first: SlowStart | None = None
        self.others_from = -inf
        #: Those that paused without a test, since they may not begin theirs yet; in that order.
        self.held: dict[Circuit, SlowStart] = {}

    def may_test(self, slow_start: SlowStart, now: float) -> bool:
        """Whether an owner may begin a test, or go on with it."""
        if self.is_proven or self.first is slow_start:
            return True
        if now < self.others_from:
            return False
        self.first, self.others_from = slow_start, now + WAITED_FOR
        return True

    def passed(self) -> list[Circuit]:
        """Take in that an owner was let through more than a window's worth.

        Returns whose pause is over by that: they may begin their tests.
        """
        held = [family for family, start in self.held.items() if start.test_from == inf]
        self.held.clear()
        self.is_proven = True
        for family in held:
            family.pauses_until = -inf
        return held

    def refused(self, now: float) -> None:
        """Take in that a window is enforced."""
        self.is_proven, self.first = False, None
        self.others_from = now + RETESTED_AFTER


class SlowStart:
    """The short bucket of an owner that was not tested yet."""

    __slots__ = (
        "account",
        "answered",
        "at",
        "crowd",
        "heard_at",
        "is_known",
        "refilled_at",
        "skipped",
        "slack",
        "spent",
        "test_from",
        "test_until",
        "way",
        "window",
    )

    def __init__(self, now: float, way: ProviderWindow, account: Account) -> None:
        self.way = way
        self.account = account
        #: A limit of it is known, so that seconds' worths are what they are said to be.
        self.is_known = bool(account.buckets)
        self.window = WINDOW
        #: Seconds' worth that are spent and not refilled yet.
        self.spent = 0.0
        self.at = now
        #: Between these instants was granted what can prove something.
        self.test_from = inf
        self.test_until = inf
        #: How many calls were in flight when the test had been granted, and whether one of its own
        #: was answered; when any was.
        self.crowd = 0
        self.answered = False
        self.heard_at = -inf
        #: When so much has refilled that more may be granted, whatever the test shows.
        self.refilled_at = -inf
        #: So many grants more needn't be counted: they are small beside the window. And how many
        #: were not, since the last that was.
        self.slack = 0
        self.skipped = 0

    def take(self, seconds: float, now: float, in_flight: int = 0) -> float:
        """Take a call's seconds' worth; return the instant until which no more may be granted."""
        if not self.is_known and self.account.buckets:  # it was measured by another unit
            self.is_known, self.spent = True, 0.0
        spent = self.spent - (now - self.at)
        spent = self.spent = (spent if spent > 0.0 else 0.0) + seconds * (1 + self.skipped)
        self.at = now
        self.slack = self.skipped = 0
        fewest = seconds * FEWEST if self.is_known else UNKNOWN
        most = FIRST * (self.window if self.is_known else max(self.window, fewest))
        if self.test_until == inf and spent >= most and self.way.may_test(self, now):
            window = max(self.window, fewest)
            if self.test_from == inf and spent >= PROOF * window:
                self.test_from = now
            if spent < TEST * window:
                most = TEST * window
            else:
                self.test_until = now
                self.crowd = in_flight
        if spent >= most:
            # Nobody is asked to look again sooner than a call's worth is there.
            until = self.refilled_at = now + max(spent - most, seconds)
            passes_at = self.test_until + REFUSED_WITHIN
            return passes_at if now < passes_at < until else until
        if seconds > 0.0:
            self.slack = self.skipped = int((FIRST * self.window - spent) / (SIZES * seconds))
            self.slack = self.skipped = max(0, self.slack)
        return now

    def pauses_on(self, now: float) -> float | None:
        """Return until when a pause goes on that was to end by now; ``None`` = no further.

        While answers come, refusals may be among those that are still to be read.
        """
        if self.test_until == inf:
            return None
        until = min(self.heard_at + REFUSED_WITHIN, self.refilled_at)
        return until if until > now else None

    def tests(self, granted_at: float) -> bool:
        """Whether the answer to a call that was granted then tells whether the window is enforced.

        It does if the call was one of a test.
        """
        return self.test_from <= granted_at <= self.test_until

    def pass_test(self) -> None:
        """Take in that a call of the test was answered: the window is no limit."""
        if self.account.buckets:
            self.window = max(self.window, self.spent) * GROWTH
        else:
            window = max(self.window, self.spent / TEST)
            self.window = max(window * PROBING_GROWTH, window + PROBING_STEP)
        self.end_test()

    def end_test(self) -> None:
        """Take in that a test is over; if it proved nothing, another may follow."""
        self.test_from = self.test_until = inf
        self.answered = False


class SlowStarts:
    """Keeps the slow_starts of a fleet, which its owners' model families bear."""

    __slots__ = ("_ways", "active", "resumed", "testing")

    def __init__(self) -> None:
        #: The owners' model families that are not tested yet; most are, so this is usually empty.
        self.active: dict[Circuit, SlowStart] = {}
        #: How many tests are under way.
        self.testing = 0
        #: Whose pause ended by what was learned of another.
        self.resumed: list[Circuit] = []
        #: Of each provider's model, how it enforces its limits.
        self._ways: dict[Circuit, ProviderWindow] = {}

    def begin(self, family: Circuit, provider: Circuit, account: Account, now: float) -> None:
        """Let an owner's model family be tested, unless there is nothing to be found out."""
        if family not in self.active and is_tested(account):
            way = self._ways.get(provider)
            if way is None:
                way = self._ways[provider] = ProviderWindow()
            self.active[family] = SlowStart(now, way, account)

    def take(self, family: Circuit, account: Account, costs: Costs, now: float) -> float | None:
        """Count a grant; return until when the owner pauses from now on, if it does."""
        slow_start = self.active.get(family)
        if slow_start is None:
            return None
        tested = slow_start.test_from < inf
        until = slow_start.take(account.worth(costs), now, account.in_flight)
        if not tested and slow_start.test_from < inf:
            self.testing += 1
        if until <= now or family.pauses_until > -inf:
            return None
        family.pauses_until = until
        if slow_start.test_from == inf and not slow_start.way.is_proven:
            slow_start.way.held[family] = slow_start
        return until

    def resume(self, family: Circuit, at: float, now: float) -> bool:
        """End a pause that was to last until `at`; False = it was ended before, or there is none.

        Answers may take long, but a refusal would have come by now.
        """
        if family.pauses_until != at:
            return False
        family.pauses_until = -inf
        slow_start = self.active.get(family)
        if slow_start is not None and slow_start.test_until + REFUSED_WITHIN <= now:
            self._passed(family, slow_start)
        return True

    def tested(
        self, family: Circuit, account: Account, granted_at: float, outcome: Outcome, now: float
    ) -> bool:
        """Take in an answer; return whether the owner may be granted more at once.

        If a test was refused, the ledger knows by now what is let through: the slow start is over.
        One that failed for another reason is repeated.
        """
        slow_start = self.active.get(family)
        if slow_start is None or slow_start.test_until == inf:
            return False
        slow_start.heard_at = now
        if slow_start.tests(granted_at):
            if outcome.kind is Kind.RATE_LIMITED:
                if any(bucket.burst is not None for bucket in account.buckets):
                    slow_start.way.refused(now)
                self._end(family, slow_start)
                return self._ended(family, slow_start)
            if not outcome.ok:
                return self._ended(family, slow_start)
            slow_start.answered = True
        is_priced = any(bucket.price != 1.0 for bucket in account.buckets)
        most = 0 if is_priced else ON_THEIR_WAY * slow_start.crowd
        if not slow_start.answered or account.in_flight > most:
            return False
        self._passed(family, slow_start)
        family.pauses_until = -inf
        return True

    def _end(self, family: Circuit, slow_start: SlowStart) -> None:
        del self.active[family]
        slow_start.way.held.pop(family, None)

    def _ended(self, family: Circuit, slow_start: SlowStart) -> bool:
        self.testing -= 1
        slow_start.end_test()
        family.pauses_until = -inf
        return True

    def _passed(self, family: Circuit, slow_start: SlowStart) -> None:
        self.testing -= 1
        slow_start.pass_test()
        self.resumed += slow_start.way.passed()
        most = MINUTE if slow_start.account.buckets else PROBED
        if slow_start.window > most:
            self._end(family, slow_start)


def is_tested(account: Account) -> bool:
    """Whether an owner may be granted so many requests at once that they should be tested first."""
    return not any(
        bucket.metric is Metric.REQUESTS and bucket.period == MINUTE and bucket.limit < FEW
        for bucket in account.buckets
    )
