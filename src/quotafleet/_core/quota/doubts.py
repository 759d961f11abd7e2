"""Limits that an answer states far below what was known.

Theory of operation. A limit that drops to less than an eighth, or to next to nothing, is more often
a slip than the truth: a gateway's own counter, a number of another unit, an error's placeholder.
Believed at once it would lock its owner out, and an owner that is not asked corrects nothing. So
such a limit is believed once a second request's answer states about the same, and then only for
`BELIEVED_FOR` seconds: after that the former limit is tried again, and answers say what holds.
"""

from __future__ import annotations

from typing import Final

from .account import Account
from .token_bucket import TokenBucket

#: A limit below this share of the known one is doubted: providers lower limits by steps of 2 to 5.
FAR_BELOW: Final = 8.0
#: Where none is known, a limit below so many is doubted: it would admit next to nothing.
LEAST_LIMIT: Final = 2.0
#: Two answers state about the same if they differ by no more than this factor.
ALIKE: Final = 2.0
#: Seconds for which a doubted limit holds: as long as between probes of a parked owner.
BELIEVED_FOR: Final = 600.0


def is_believed(account: Account, name: str, limit: float, *, request: int) -> bool:
    """Return whether a doubtful limit may be adopted: another answer stated about the same.

    Args:
        account: whose limit it is.
        name: the limit's name, such as ``"rpm"``.
        limit: what the answer states.
        request: the number of the answered reservation.
    """
    if limit <= 0:
        return False  # no rate follows from it
    before = account.doubts.get(name)
    account.doubts[name] = request, limit
    if before is None or before[0] == request:
        return False
    return limit <= ALIKE * before[1] and before[1] <= ALIKE * limit


def lower(bucket: TokenBucket, now: float) -> None:
    """Remember what holds now, before a doubted limit is adopted for a while."""
    if bucket.believed_until > now + BELIEVED_FOR:
        bucket.limit_before = bucket.limit
    bucket.believed_until = now + BELIEVED_FOR


def try_again(account: Account, now: float) -> bool:
    """Restore limits that were believed for long enough; return whether any was."""
    restored = False
    for bucket in account.buckets:
        if bucket.believed_until <= now:
            restored = bucket.restore() or restored
            account.doubts.pop(bucket.name, None)
    return restored
