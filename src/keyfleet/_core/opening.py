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
to test, and the opening is over. If it is refused, the ledger learns the burst from the refusal.

Where a minute's worth is less than `FEW` requests, there is nothing to flood anybody with, and a
window of a second would hold none: such owners are used as they are.

A minute's worth is so let go after three answers. That costs the first calls of a process a
few round trips, and a batch nothing.
"""

from __future__ import annotations

from math import inf
from typing import Final

from .._limits import MINUTE, Costs, Metric
from .._outcome import Kind, Outcome
from .bucket import MARGIN
from .health import Subject
from .ledger import WINDOW, Account

#: The share of a window that is used without a test: the rest is the scatter of arrivals.
FIRST: Final = 1.0 - MARGIN
#: The share of a window that a test uses up to; more than all, by the scatter of arrivals.
TEST: Final = 1.0 + MARGIN
#: The share from which on an answer proves that the window isn't enforced.
PROOF: Final = 1.0 + MARGIN / 2
#: Seconds after which a test counts as passed that was not refused: refusals come within a round
#: trip, which a busy client reads late.
REFUSED_WITHIN: Final = 1.0
#: So many calls go at once even where they are more than a window's worth: limits so small are not
#: worth their callers' time.
FEWEST: Final = 4
#: Calls differ in size by so much or less, where most are too small to be counted one by one.
SIZES: Final = 4.0
#: Requests a minute below which an owner is not tested: two a second.
FEW: Final = 120.0
#: A window that was no limit grows by so much.
GROWTH: Final = 4.0


class Opening:
    """The short bucket of an owner that was not tested yet."""

    __slots__ = ("at", "skipped", "slack", "spent", "test_from", "test_until", "window")

    def __init__(self, now: float) -> None:
        self.window = WINDOW
        #: Seconds' worth that are spent and not refilled yet.
        self.spent = 0.0
        self.at = now
        #: Between these instants was granted what can prove something.
        self.test_from = inf
        self.test_until = inf
        #: So many grants more needn't be counted: they are small beside the window. And how many
        #: were not, since the last that was.
        self.slack = 0
        self.skipped = 0

    def take(self, seconds: float, now: float) -> float:
        """Take a call's seconds' worth; return the instant until which no more may be granted."""
        spent = self.spent - (now - self.at)
        spent = self.spent = (spent if spent > 0.0 else 0.0) + seconds * (1 + self.skipped)
        self.at = now
        self.slack = self.skipped = 0
        if self.test_until < inf:
            most = FIRST * self.window
        else:
            window = max(self.window, seconds * FEWEST)
            most = TEST * window
            if self.test_from == inf and spent >= PROOF * window:
                self.test_from = now
            if spent >= most:
                self.test_until = now
                most = FIRST * self.window
        if spent >= most:
            # Nobody is asked to look again sooner than a call's worth is there.
            return now + max(spent - most, seconds)
        if seconds > 0.0:
            self.slack = self.skipped = int((FIRST * self.window - spent) / (SIZES * seconds))
            self.slack = self.skipped = max(0, self.slack)
        return now

    def tests(self, granted_at: float) -> bool:
        """Whether the answer to a call that was granted then tells whether the window is enforced.

        It does if the call was one of a test.
        """
        return self.test_from <= granted_at <= self.test_until

    def pass_test(self) -> None:
        """Take in that a call of the test was answered: the window is no limit."""
        self.window = max(self.window, self.spent) * GROWTH
        self.repeat_test()

    def repeat_test(self) -> None:
        """Take in that a call of the test failed for another reason: it proved nothing."""
        self.test_from = self.test_until = inf


class Openings:
    """Keeps the openings of a fleet, which its owners' model families bear."""

    __slots__ = ("testing",)

    def __init__(self) -> None:
        #: How many tests are under way.
        self.testing = 0

    def take(self, family: Subject, account: Account, costs: Costs, now: float) -> float | None:
        """Count a grant; return until when the owner pauses from now on, if it does."""
        opening = family.opening
        if opening is None:
            return None
        tested = opening.test_from < inf
        until = opening.take(seconds_worth(account, costs), now)
        if not tested and opening.test_from < inf:
            self.testing += 1
        if until <= now or family.pauses_until > -inf:
            return None
        family.pauses_until = until
        return until

    def resume(self, family: Subject, at: float, now: float) -> bool:
        """End a pause that was to last until `at`; False = it was ended before, or there is none.

        Answers may take long, but a refusal would have come by now.
        """
        if family.pauses_until != at:
            return False
        family.pauses_until = -inf
        opening = family.opening
        if opening is not None and opening.test_until + REFUSED_WITHIN <= now:
            self._passed(family, opening)
        return True

    def tested(self, family: Subject, granted_at: float, outcome: Outcome) -> bool:
        """Take in an answer; return whether the owner may be granted more at once.

        If a test was refused, the ledger knows by now what is let through: the opening is over.
        One that failed for another reason is repeated.
        """
        opening = family.opening
        if opening is None or not opening.tests(granted_at):
            return False
        family.pauses_until = -inf
        if outcome.ok:
            self._passed(family, opening)
            return True
        self.testing -= 1
        if outcome.kind is Kind.RATE_LIMITED:
            family.opening = None
        else:
            opening.repeat_test()
        return True

    def _passed(self, family: Subject, opening: Opening) -> None:
        self.testing -= 1
        opening.pass_test()
        if opening.window > MINUTE:
            family.opening = None


def is_tested(account: Account) -> bool:
    """Whether an owner may be granted so many requests at once that they should be tested first."""
    return not any(
        bucket.metric is Metric.REQUESTS and bucket.period == MINUTE and bucket.limit < FEW
        for bucket in account.buckets
    )


def seconds_worth(account: Account, costs: Costs) -> float:
    """Return what a call takes of the account's scarcest limit per minute, in seconds."""
    most = 0.0
    for bucket in account.buckets:
        if bucket.period == MINUTE:
            seconds = costs[bucket.metric] / bucket.rate
            if seconds > most:
                most = seconds
    return most
