"""A rate that nobody tells: found by trying.

Theory of operation. Some providers send no rate-limit headers, and their refusals name no limit. Of
such an owner nothing is known until it refuses. What it had let through by then is what a minute's
bucket held, full at first, and what had refilled: so the first refusal gives a rate. From there on
it is sought as TCP seeks a path's capacity: every refusal of a call that was granted since the last
one takes a part of the rate (`CUT`), and every second of use adds a little (`GROWTH`). So the rate
stays within a tenth of the true one, at a refusal or so in 25 seconds, and follows it when it
changes. An owner that is not used up proves nothing, and gains nothing.

An owner that refuses after fewer than `FEWEST` answers in a minute told nothing of a rate: it may
be busy, or spent by others. It is left alone for as long as it says, and no rate is assumed.

Headers that tell a limit after all, or a refusal that names it, end the search.
"""

from __future__ import annotations

from typing import Final

from ...limits import MINUTE, Metric
from .token_bucket import TokenBucket

#: What a refusal leaves of the rate.
CUT: Final = 0.9
#: What a second of use adds, as a share of the rate that was refused last.
GROWTH: Final = 0.004
#: Requests let through in a minute, and so a rate, below which nothing is assumed.
FEWEST: Final = 8.0
#: An owner counts as used up whose bucket holds fewer requests.
USED_UP: Final = 4.0


class AimdLimit:
    """What is assumed of one account's requests per minute."""

    __slots__ = ("bucket", "counted", "cut_at", "grown_at", "refused_rate", "since")

    def __init__(self) -> None:
        #: Requests granted since an instant at most a minute ago, until one was refused.
        self.counted = 0
        self.since = 0.0
        #: The bucket that holds the account to the rate; ``None`` = none was refused yet.
        self.bucket: TokenBucket | None = None
        self.cut_at = self.grown_at = 0.0
        self.refused_rate = 0.0

    def granted(self, now: float) -> None:
        """Count a grant, or grow."""
        bucket = self.bucket
        if bucket is None:
            if not self.counted or now - self.since >= MINUTE:
                self.counted, self.since = 0, now
            self.counted += 1
            return
        if bucket.level < USED_UP:
            used_for = min(now - self.grown_at, 1.0)
            limit = bucket.limit + GROWTH * self.refused_rate * used_for
            bucket.learn(limit, limit)
        self.grown_at = now

    def begin(self, scope: str, in_flight: int, now: float) -> TokenBucket | None:
        """Take in the first refusal; return the bucket that is to hold the account to a rate.

        ``None`` = too little was let through to tell.
        """
        limit = (self.counted - in_flight - 1) / (1 + (now - self.since) / MINUTE)
        if limit < FEWEST:
            return None
        self.bucket = TokenBucket(
            scope=scope, name="rpm", metric=Metric.REQUESTS, period=MINUTE, limit=limit, now=now
        )
        self.bucket.level = float(-in_flight)  # let through or refused, each takes one
        self.refused_rate = limit
        self.cut_at = self.grown_at = now
        return self.bucket

    def refused(self, bucket: TokenBucket, granted_at: float, now: float) -> None:
        """Take in a further refusal. Those of calls granted before the last cut say nothing new."""
        if granted_at >= self.cut_at:
            self.refused_rate = bucket.limit
            limit = max(FEWEST, CUT * bucket.limit)
            bucket.learn(limit, limit)
            self.cut_at = now
