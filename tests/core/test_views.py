"""Buckets and accounts that show what another place holds."""

from __future__ import annotations

import pytest

from quotafleet import Limits
from quotafleet._core.quota.ledger import Ledger
from quotafleet._core.quota.token_bucket import TokenBucket
from quotafleet.limits import Limit


def ledger(**owners: Limits) -> Ledger:
    return Ledger(lambda name, project, family: owners.get(name, Limits()))


def test_a_mirror_shows_what_it_is_told() -> None:
    bucket = TokenBucket.of(Limit(name="tpm", amount=6000), "acme", now=0.0)
    bucket.mirror(level=100.0, limit=6000.0, ceiling=6000.0, throttle=1.0, now=10.0)
    assert (bucket.level, bucket.at, bucket.rate) == (100.0, 10.0, 100.0)
    assert bucket.ready_at(200.0, 10.0) == pytest.approx(11.0)
    bucket.mirror(level=50.0, limit=3000.0, ceiling=3000.0, throttle=1.0, now=10.0)
    assert (bucket.level, bucket.limit, bucket.rate) == (50.0, 3000.0, 50.0)
    bucket.mirror(level=50.0, limit=3000.0, ceiling=3000.0, throttle=0.5, now=10.0)
    assert bucket.rate == 25.0
    bucket.mirror(level=50.0, limit=3000.0, ceiling=3000.0, throttle=1.0, now=10.0)
    assert bucket.rate == 50.0
    bucket.mirror(
        level=20.0, limit=3000.0, ceiling=3000.0, throttle=1.0, burst=50.0, price=2.0, now=10.0
    )
    assert (bucket.rate, bucket.capacity, bucket.snapshot(10.0).available) == (25.0, 18.75, 37.5)
    bucket.mirror(level=20.0, limit=3000.0, ceiling=3000.0, throttle=1.0, now=10.0)
    assert (bucket.rate, bucket.capacity, bucket.burst) == (50.0, 2987.5, None)


def test_a_mirror_of_slots_has_no_rate() -> None:
    bucket = TokenBucket.of(Limit(name="concurrent", amount=3), "acme", now=0.0)
    bucket.mirror(level=1.0, limit=3.0, ceiling=3.0, throttle=1.0, now=5.0)
    assert (bucket.level, bucket.rate) == (1.0, 0.0)


def test_a_limit_that_another_process_learned_is_shown_to_all_it_holds_for() -> None:
    view = ledger(acme=Limits(rpm=60))
    own = view.account("acme", None, "m", 0.0)
    web = view.account("acme", "web", "m", 0.0)
    other = view.account("acme", None, "n", 0.0)
    alien = view.account("birch", None, "m", 0.0)
    learned = view.show(own, "acme", "tpm", 6000.0, 0.0)
    assert learned.configured is None
    assert [learned in a.buckets for a in (own, web, other, alien)] == [True, True, False, False]
    assert view.show(web, "acme", "tpm", 1.0, 0.0) is learned
    below = view.show(web, "acme/web", "tpm", 100.0, 0.0)
    assert [below in a.buckets for a in (own, web)] == [False, True]
    slots = view.show(own, "acme", "concurrent", 3.0, 0.0)
    assert [slots in a.buckets for a in (own, web, other, alien)] == [True, True, True, False]
    assert len(own.buckets) == 3


def test_a_slowed_bucket_tells_when_it_is_ready_at_its_own_rate() -> None:
    bucket = TokenBucket.of(Limit(name="tpm", amount=6000), "acme", now=0.0)
    bucket.slow_down(0.0)
    bucket.take(bucket.capacity)
    assert bucket.ready_at(100.0, 1.0) == pytest.approx(2.0, abs=0.01)
