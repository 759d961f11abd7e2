"""One limit's arithmetic.

Theory of operation. A limit of `L` per period `P` is a bucket that refills continuously at `L / P`
a second up to its capacity: so do OpenAI (2,904 of 2,906 recorded header triples, 2023-10 to
2026-08, daily limits too), Groq and Anthropic. A call is admitted when the level covers its cost,
and the cost is taken. Settling gives back what wasn't used or takes more, also below zero: a debt,
which delays the next call and nothing else.

*Need.* A cost above the capacity but within the limit is admitted by a full bucket and leaves a
debt: the rate keeps its long-term bound.

*Margin.* The provider debits when a request arrives, we when it leaves, and until the first burst
has arrived the provider's bucket is full and gains nothing. So our capacity is smaller than the
provider's by `MARGIN` seconds of refill: requests may take that much longer than each other to
arrive before one is refused. It costs those seconds of quota once, and no rate.

*Anchor.* An answer's headers tell the provider's level right after it charged that request. Our
own level right after we took its cost is its *mark*, so the difference is what we had wrong then,
less what other answers have corrected since. It is not exact: requests overtake each other on the
way. What we took after the mark may be charged already, and what was on its way then may not be;
and while the request was under way the provider's bucket refilled. So the difference only bounds
our error from both sides, and we correct what is certain: nothing where 0 lies between the bounds.
An isolated answer is believed wholly; a crowd of them does no harm. What stays uncertain is an
offset, which costs a little of the burst once, and no rate; a refusal ends it (`refused`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from ...limits import Limit, Metric
from .calibration import Calibration, LevelReading

#: What is estimated by a formula, and may be charged by another.
PRICED: Final = frozenset({Metric.TOKENS, Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS})
#: Seconds of refill that our capacity stays below the provider's. Twice the scatter of arrival
#: times seen on a busy machine; 0.4 % of a per-minute limit, once.
MARGIN: Final = 0.25
#: Seconds of refill that our level stays below what a quick answer told, besides its own time: the
#: scatter of arrivals on an idle machine.
LEAST_MARGIN: Final = 0.02
#: Seconds after a refusal for which the margin is kept whole.
WARY_FOR: Final = 60.0
#: Requests by which our level stays below the provider's while the margin is kept whole. Who spends
#: the same quota sends between ours: with less, each of its requests would get one of ours refused.
#: But no more than so many seconds of refill: of three requests a minute one and a half is long.
WARY_LEAD: Final = 1.5
WARY_SECONDS: Final = 2.0
#: Seconds in which a limit per minute is enforced that isn't by the minute: "60,000 requests/minute
#: may be enforced as 1,000 requests/second" (OpenAI help centre).
WINDOW: Final = 1.0
#: How many times its limit a bucket may owe before that counts as an error of what was reported.
LONGEST_DEBT: Final = 2.0
#: Relative slack of comparisons, so that waking at a computed instant finds enough.
EPSILON: Final = 1e-9
#: OpenAI's advice on "slow_down": grow at most 50 % per 15 minutes (Error codes guide, 2026-11).
REGROWTH_PER_SECOND: Final = 1.5 ** (1 / 900)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketLevel:
    """A bucket as it stands, for status and reports.

    Args:
        scope: whose limit it is: ``"acme"``, or its project ``"acme/research"``.
        name: the limit's name, such as ``"tpm"``.
        limit: amount per period.
        available: what it holds now; below 0 is debt.
        learned: the limit came from headers, not from the configuration.
    """

    scope: str
    name: str
    limit: float
    available: float
    learned: bool


#: A bucket, and at the moment when a cost was taken from it: its level after that, its `corrected`,
#: its `pending` before, its `taken` after.
Mark = tuple["TokenBucket", float, float, float, float]


class TokenBucket:
    """What one owner may still spend of one limit. Its store's lock guards it."""

    __slots__ = (
        "at",
        "believed_until",
        "burst",
        "calibration",
        "capacity",
        "ceiling",
        "configured",
        "corrected",
        "level",
        "limit",
        "limit_before",
        "metric",
        "name",
        "pending",
        "period",
        "price",
        "rate",
        "returned",
        "scope",
        "taken",
        "throttle",
        "wary_until",
    )

    def __init__(
        self,
        *,
        scope: str,
        name: str,
        metric: Metric,
        period: float | None,
        limit: float,
        configured: Limit | None = None,
        now: float,
    ) -> None:
        #: The owner's name, ``"acme"`` or ``"acme/research"``.
        self.scope = scope
        self.name = name
        self.metric = metric
        #: Seconds from empty to full; `None` = it doesn't refill (calls in flight).
        self.period = period
        #: The rule that the user stated, an upper bound to what headers tell.
        self.configured = configured
        #: The capacity that refusals proved to be smaller than the limit; `None` = none did.
        self.burst: float | None = None
        #: The provider's units for one of ours; `calibration` learns it, for token limits.
        self.price = 1.0
        self.calibration = Calibration() if metric in PRICED else None
        self.throttle = 1.0
        self._adopt(limit, limit)
        self.level = self.capacity
        self.at = now
        #: Sum of all corrections by headers so far.
        self.corrected = 0.0
        #: Sum of all costs taken so far, and of those whose answer's headers weren't seen yet.
        self.taken = 0.0
        self.pending = 0.0
        #: Sum of all that settling gave back, less what it took more.
        self.returned = 0.0
        #: Until then the margin is kept whole, since something was refused.
        self.wary_until = -inf
        #: When a limit that was far below the one before is doubted again; infinite = it isn't.
        self.believed_until = inf
        self.limit_before = limit

    @classmethod
    def of(cls, limit: Limit, scope: str, now: float) -> TokenBucket:
        """Return the full bucket of a configured limit."""
        return cls(
            scope=scope,
            name=limit.name,
            metric=limit.metric,
            period=limit.period,
            limit=limit.amount,
            configured=limit,
            now=now,
        )

    def __repr__(self) -> str:
        return f"<Bucket {self.scope} {self.name} {self.level:.6g} of {self.limit:g}>"

    def _adopt(self, limit: float, ceiling: float) -> None:
        """Set the limit, and capacity and rate that follow from it."""
        self.limit = limit
        #: The provider's capacity; ours, `capacity`, is smaller.
        self.ceiling = ceiling
        own = self.configured.burst if self.configured is not None else None
        full = ceiling if own is None else min(ceiling, own)
        if self.burst is not None and self.burst < full:
            full = self.burst
        full /= self.price
        if self.period is None:
            self.rate, self.capacity = 0.0, full
        else:
            full_rate = limit / self.period / self.price
            self.rate = full_rate * self.throttle
            self.capacity = full - min(MARGIN * full_rate, full / 2)

    def refill(self, now: float) -> None:
        """Bring the level up to `now`. An earlier `now` changes nothing."""
        elapsed = now - self.at
        if elapsed <= 0:
            return
        self.at = now
        if self.rate:
            level = self.level + elapsed * self.rate
            self.level = level if level < self.capacity else self.capacity
            if self.throttle < 1.0:
                self._set_throttle(self.throttle * REGROWTH_PER_SECOND ** min(elapsed, 9000.0))

    def _set_throttle(self, throttle: float) -> None:
        self.throttle = min(1.0, max(throttle, 1 / 64))
        if self.period is not None:
            self.rate = self.limit / self.period / self.price * self.throttle

    def slow_down(self, now: float) -> None:
        """Halve the rate; it grows back by half every 15 minutes."""
        self.refill(now)
        self._set_throttle(self.throttle / 2)

    def too_large(self, cost: float) -> bool:
        """Whether no level would ever admit the call."""
        return cost > self.limit * (1 + EPSILON)

    def need(self, cost: float) -> float:
        """Return the level at which a call of this cost is admitted."""
        return (cost if cost < self.capacity else self.capacity) * (1 - EPSILON)

    def ready_at(self, cost: float, now: float) -> float:
        """Return the instant when the call would fit; infinite = never, or not by waiting."""
        # The hot path: `refill` and `need` written out.
        if cost > self.limit * (1 + EPSILON):
            return inf
        capacity, level = self.capacity, self.level
        if now > self.at:
            if self.throttle < 1.0:
                self.refill(now)
                level = self.level
            else:
                level += (now - self.at) * self.rate
                level = self.level = level if level < capacity else capacity
                self.at = now
        need = cost if cost < capacity else capacity
        if level >= need * (1 - EPSILON):
            return now
        return now + (need - level) / self.rate if self.rate else inf

    def spares(self, cost: float, *, other: float, at: float) -> bool:
        """Whether, after a call of `cost`, one of `other` still fits at the instant `at`."""
        level = self.level - cost
        if self.rate and at > self.at:
            level = min(level + (at - self.at) * self.rate, self.capacity)
        return level >= self.need(other)

    def take(self, cost: float) -> Mark:
        """Take the cost; return the mark that `anchor` compares with."""
        level = self.level = self.level - cost
        pending = self.pending
        self.pending = pending + cost
        taken = self.taken = self.taken + cost
        return self, level, self.corrected, pending, taken

    def give_back(self, amount: float) -> None:
        """Give back what was taken and not used; negative = take more, into debt if need be."""
        level = self.level + amount
        self.level = level if level < self.capacity else self.capacity

    def settled(self, back: float, now: float) -> None:
        """Give back what a settlement says was not used; negative = what it took more."""
        if now > self.at:
            self.refill(now)
        self.give_back(back)
        self.returned += back

    def anchor(self, told: float, mark: Mark, *, flew_for: float, upward: bool) -> None:
        """Correct the level as far as an answer's headers make certain.

        Args:
            told: the provider's level right after it charged that request.
            mark: from when we took its cost.
            flew_for: seconds since then, an upper bound of its way to the provider.
            upward: whether the provider may know better that there is more.
        """
        lead = self._lead()
        told /= self.price
        if told > self.capacity + lead:
            return  # the bucket that is shown isn't the one that binds
        _, level_then, corrected_then, pending_then, taken_then = mark
        scatter = flew_for + LEAST_MARGIN
        if self.at < self.wary_until:
            lead = max(lead, self._wary_lead())
        elif scatter < MARGIN:
            lead = max(0.0, lead - (MARGIN - scatter) * self.rate)
        wrong = (told - lead) - level_then - (self.corrected - corrected_then)
        at_most = wrong + (self.taken - taken_then)
        at_least = wrong - pending_then - flew_for * self.rate
        if at_most < 0:
            self._correct(at_most)
        elif at_least > 0 and upward:
            self._correct(at_least)

    def sent_late(self, cost: float, mark: Mark, waited_for: float) -> None:
        """Take back what refilled while the provider's bucket was full: a cost left only now.

        Args:
            cost: what was taken.
            mark: from when it was taken. Only the first cost that a full bucket gave counts.
            waited_for: seconds since then.
        """
        _, level_then, _, _, taken_then = mark
        if level_then + cost >= self.capacity * (1 - EPSILON):
            self._correct(-min(waited_for * self.rate, self.taken - taken_then + cost))

    def _correct(self, change: float) -> None:
        before = self.level
        self.give_back(change)
        self.corrected += self.level - before

    def _lead(self) -> float:
        """By how much the provider's bucket is above ours when both are full."""
        if self.burst is None:
            return self.ceiling / self.price - self.capacity
        return min(MARGIN * self.rate, self.capacity)

    def _wary_lead(self) -> float:
        """By how much it is at least above ours after a refusal."""
        if self.metric is not Metric.REQUESTS:
            return 0.0
        return min(WARY_LEAD, WARY_SECONDS * self.rate, self.capacity)

    def reprice(self, told: float, mark: Mark, granted_at: float) -> None:
        """Learn from an answer's headers what the provider charges for a unit of ours.

        Args:
            told: the provider's level right after it charged that request.
            mark: from when we took its cost.
            granted_at: that instant. The bucket is refilled to now.
        """
        if self.calibration is None or self.period is None:
            return
        _, _, _, pending_then, taken_then = mark
        at_least = taken_then - pending_then - self.returned
        at_most = self.taken - self.returned
        reading = LevelReading(told, at_least, at_most, granted_at, self.at)
        price = self.calibration.update(reading, limit=self.ceiling, rate=self.limit / self.period)
        if price != self.price:
            before = self.level
            self.level *= self.price / price
            self.price = price
            self._adopt(self.limit, self.ceiling)
            self.give_back(0.0)
            self.corrected += self.level - before

    def place(self, told: float) -> None:
        """Set the level of a bucket just learned: the provider's, less our margin."""
        self.level = min(told / self.price - self._lead(), self.capacity)

    def learn(self, limit: float, ceiling: float) -> None:
        """Adopt a limit that headers told because it changed.

        A configured limit stays an upper bound: the provider may lower it (Azure does so for
        hours) and give it back, but what a user keeps for other uses is not taken.
        """
        if self.configured is not None and self.configured.amount <= limit:
            limit = ceiling = self.configured.amount
        if limit != self.limit or ceiling != self.ceiling:
            self._adopt(limit, ceiling)
            self._correct(0.0)  # what no longer fits is gone, for marks made before too

    def refused(self, *, cost: float, ready_after: float) -> None:
        """Believe a refusal: the provider will not admit `cost` for so many seconds."""
        if not self.rate:
            return
        self.wary_until = self.at + WARY_FOR
        lead = max(self.rate * MARGIN, self._wary_lead())
        level = self.need(cost) - self.rate * ready_after - lead
        if level < self.level:
            self._correct(level - self.level)

    def enforce(self, window: float) -> None:
        """Believe that the limit is enforced in windows of so many seconds: no burst beyond one."""
        if self.period is not None and (self.burst is None or self.rate * window < self.burst):
            self.burst = max(1.0, self.limit / self.period * window)
            self._adopt(self.limit, self.ceiling)
            self._correct(0.0)

    def restore(self) -> bool:
        """Adopt the limit again that held before a doubted one; return whether that is higher."""
        self.believed_until = inf
        if self.limit_before <= self.limit:
            return False
        self._adopt(self.limit_before, self.limit_before)
        return True

    @property
    def is_misled(self) -> bool:
        """Whether answers have brought it below what its user stated, or into a debt for long."""
        owed = -self.level > self.limit * LONGEST_DEBT
        stated = self.configured
        return owed or (stated is not None and self.limit < stated.amount)

    def forget(self, now: float) -> None:
        """Forget what answers taught: the stated limit, the plain price, a full bucket."""
        self.at = max(self.at, now)
        self.burst, self.price, self.throttle, self.wary_until = None, 1.0, 1.0, -inf
        self.believed_until = inf
        self.calibration = Calibration() if self.metric in PRICED else None
        limit = self.limit if self.configured is None else self.configured.amount
        self._adopt(limit, limit)
        self._correct(self.capacity - self.level)

    def merge(self, other: TokenBucket, now: float) -> None:
        """Take over another bucket that turned out to be this one: both were spent from it."""
        self.refill(now)
        other.refill(now)
        self.learn(min(self.limit, other.limit), min(self.ceiling, other.ceiling))
        self.give_back(min(0.0, other.level - other.capacity))
        self.pending += other.pending

    def mirror(
        self,
        *,
        level: float,
        limit: float,
        ceiling: float,
        throttle: float,
        burst: float | None = None,
        price: float = 1.0,
        now: float,
    ) -> None:
        """Show the state that another place holds: this is then a view of it as of `now`."""
        same = (limit, ceiling, throttle) == (self.limit, self.ceiling, self.throttle)
        if not same or burst != self.burst or price != self.price:
            self.throttle, self.burst, self.price = throttle, burst, price
            self._adopt(limit, ceiling)
        self.level = level
        self.at = now

    def snapshot(self, now: float) -> BucketLevel:
        """Return the bucket as it stands, changing nothing."""
        available = min(self.level + max(0.0, now - self.at) * self.rate, self.capacity)
        return BucketLevel(
            scope=self.scope,
            name=self.name,
            limit=self.limit,
            available=available * self.price,
            learned=self.configured is None,
        )
