"""Which limit a reading of headers is about: its name, its bucket, a reservation's mark in it."""

from __future__ import annotations

from ...limits import RULES
from ...outcomes import Reading
from .account import Account
from .reservations import Reservation
from .token_bucket import Mark, TokenBucket


def name_of(reading: Reading) -> str | None:
    """Return the limit's name for what headers told; ``None`` where no rule has that period."""
    for name, (metric, period) in RULES.items():
        if metric is reading.metric and period == reading.period:
            return name
    return None


def mark_of(reservation: Reservation, reading: Reading) -> Mark | None:
    """Return the reservation's mark in the bucket that a reading is about."""
    account = reservation.account
    for mark in reservation.marks:
        if mark[0].metric is reading.metric and _is_about(reading, mark[0], account):
            return mark
    return None


def bucket_of(account: Account, reading: Reading) -> TokenBucket | None:
    """Return the account's bucket that a reading is about."""
    for bucket in account.buckets:
        if bucket.metric is reading.metric and _is_about(reading, bucket, account):
            return bucket
    return None


def _is_about(reading: Reading, bucket: TokenBucket, account: Account) -> bool:
    """Whether it is about a bucket of its metric; without a period it is told by its limit."""
    if reading.project and account.project is None:
        return False
    if bucket.scope != (account.owner if reading.project else account.organization):
        return False
    if reading.period is None:
        return bucket.limit == reading.limit
    return bucket.period == reading.period
