"""Which limit a reading of headers is about: its name, its bucket, a reservation's mark in it."""

from __future__ import annotations

from collections.abc import Iterable

from .._limits import RULES
from .._outcome import Reading
from .account import Account, scope_of
from .bucket import Bucket, Mark
from .claims import Reservation


def name_of(reading: Reading) -> str | None:
    """Return the limit's name for what headers told; ``None`` where no rule has that period."""
    for name, (metric, period) in RULES.items():
        if metric is reading.metric and period == reading.period:
            return name
    return None


def mark_of(reservation: Reservation, reading: Reading) -> Mark | None:
    """Return the reservation's mark in the bucket that a reading is about."""
    bucket = bucket_of(reservation.account, [mark[0] for mark in reservation.marks], reading)
    for mark in reservation.marks:
        if mark[0] is bucket:
            return mark
    return None


def bucket_of(account: Account, buckets: Iterable[Bucket], reading: Reading) -> Bucket | None:
    """Return the bucket that a reading is about; one without a period is told by its limit."""
    if reading.project and account.project is None:
        return None
    scope = scope_of(account.organization, account.project if reading.project else None)
    for bucket in buckets:
        if bucket.metric is reading.metric and bucket.scope == scope:
            if reading.period is None:
                matches = bucket.limit == reading.limit
            else:
                matches = bucket.period == reading.period
            if matches:
                return bucket
    return None
