"""The provider's own report: the oracle by which a client's behavior is judged."""

from __future__ import annotations

from collections.abc import Mapping

from .accounts import AccountStates, KeyState, MeteredLimit
from .bucket import go_ms, remaining


def report(
    accounts: AccountStates, counters: Mapping[str, object], now: float
) -> dict[str, object]:
    """Return levels and counters, ready for JSON, with keys' names and without their secrets."""
    for meter in accounts.meters.values():
        meter.refill(now)
    return {
        "now_s": now - accounts.started_at,
        **counters,
        "keys": {key.spec.name: _key(key) for key in accounts.keys.values()},
        "orgs": _orgs(accounts),
        "buckets": {name: _bucket(meter) for name, meter in accounts.meters.items()},
        "admitted_per_second": {
            name: {str(second): list(counts) for second, counts in seconds.items()}
            for name, seconds in accounts.admitted.items()
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
            "co_consumers": [
                {
                    "admitted": one.admitted,
                    "refused": one.refused,
                    "requests": one.requests,
                    "tokens": one.tokens,
                }
                for one in accounts.co_consumers
                if one.chain.key.org is org
            ],
        }
        for name, org in accounts.orgs.items()
    }


def _bucket(meter: MeteredLimit) -> dict[str, object]:
    limiter = meter.shown
    return {
        "limit": limiter.limit,
        "period_s": limiter.period_s,
        "level": limiter.level,
        "remaining": remaining(limiter.level),
        "used": limiter.used,
        "reset": go_ms(limiter.reset_s(limiter.level)),
    }
