"""What the provider tells about itself: the oracle that a client's behaviour is judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .accounts import AccountStates, KeyState, MeteredLimit
from .bucket import go_ms, remaining

if TYPE_CHECKING:
    from .provider import MockProvider


def report(provider: MockProvider, now: float) -> dict[str, object]:
    """Return levels and counters, ready for JSON; secrets are not in it, names of keys are."""
    accounts = provider.accounts
    for meter in accounts.meters.values():
        meter.bucket.refill(now)
    return {
        "now_s": now - accounts.started_at,
        "received": provider.received,
        "admitted": provider.admitted,
        "completed": provider.completed,
        "aborted": provider.aborted,
        "refused": provider.refused,
        "rejected": dict(provider.rejected),
        "faults_waiting": len(provider.faults),
        "scripts_waiting": len(provider.scripts),
        "keys": {key.spec.name: _key(key) for key in accounts.keys.values()},
        "orgs": _orgs(accounts),
        "buckets": {name: _bucket(meter) for name, meter in accounts.meters.items()},
        "admitted_per_second": {
            name: {str(second): list(beat) for second, beat in pulse.items()}
            for name, pulse in accounts.pulses.items()
        },
    }


def _key(key: KeyState) -> dict[str, object]:
    return {
        "org": key.org.spec.id,
        "project": key.project.spec.id,
        "revoked": key.revoked,
        "admitted": key.admitted,
        "in_flight": key.in_flight,
        "rejected": dict(key.rejected),
    }


def _orgs(accounts: AccountStates) -> dict[str, object]:
    return {
        name: {
            "month_spend_usd": str(org.month_spend_usd),
            "credits_usd": None if org.credits_usd is None else str(org.credits_usd),
        }
        for name, org in accounts.orgs.items()
    }


def _bucket(meter: MeteredLimit) -> dict[str, object]:
    bucket = meter.bucket
    return {
        "limit": bucket.limit,
        "period_s": bucket.period_s,
        "level": bucket.level,
        "remaining": remaining(bucket.level),
        "used": bucket.used,
        "reset": go_ms(bucket.wait_s(bucket.capacity)),
    }
