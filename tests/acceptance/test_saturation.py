"""What quotafleet promises: almost no refusal, nothing lost. How fast: `benchmarks/saturation.py`.

Real SDK, real sockets, real time; the provider is the mock, in a process of its own.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest
from benchmarks.saturation import FAULTS, SICK, UNEQUAL, batch, pool_of, rejected

from quotafleet.testing import MockFleet, MockSettings, serve_process

pytestmark = [pytest.mark.realtime, pytest.mark.timeout(180)]


def test_a_saturating_batch_is_hardly_refused_and_loses_nothing() -> None:
    fleet = MockFleet.simple(UNEQUAL)
    count = 750  # a quarter more than all buckets hold at first
    with serve_process(fleet, MockSettings(ttft_s=0.05)) as server:
        pool = pool_of(fleet, server.base_url, UNEQUAL)
        seconds, ended = asyncio.run(batch(pool, count))
        refused = rejected(server.url)
    assert ended == {"answered": count}
    assert refused.total() <= count * 0.03, refused  # 0.5 % is for an idle machine to show
    assert seconds > (count - 600) / 10 * 0.98, "faster than the provider allows"
    assert pool.status().in_flight == pool.status().waiting == 0


def test_sick_owners_lose_nothing_and_are_hardly_asked() -> None:
    fleet = MockFleet.simple(SICK)
    count = 700
    with serve_process(fleet, MockSettings(ttft_s=0.02)) as server:
        answer = httpx.post(f"{server.url}/_mock/faults", json=FAULTS)
        assert answer.status_code == 200, answer.text
        pool = pool_of(fleet, server.base_url, SICK)
        _, ended = asyncio.run(batch(pool, count))
    assert ended == {"answered": count}
    asked = {key.owner: key for key in pool.status().keys}
    assert asked["revoked"].granted <= 6
    assert asked["broke"].granted <= 6
    assert asked["cutting"].granted <= 20
    assert pool.status().in_flight == pool.status().waiting == 0
