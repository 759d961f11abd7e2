"""Who comes first, over all processes: in the order of asking, whoever asks."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.stores.redis_kit import TestServer

from quotafleet import Limits
from quotafleet._core.quota.reservations import Claim, NotReady, Reservation, Settlement
from quotafleet.keys import ApiKey, Secret
from quotafleet.stores.redis import RedisStore
from quotafleet.testing import FakeClock
from quotafleet.usage import Demand, Usage

NAMES = count()
KEY = ApiKey(key_id="a#1", secret=Secret("sk-a-0123456789abcdef"), organization="a")
RATE = 100.0  # tokens a second


class Process:
    """The heads of one process's lines: what each has booked."""

    def __init__(self, url: str, namespace: str, clock: FakeClock) -> None:
        self.clock = clock
        limits = Limits(tpm=RATE * 60)
        self.store = RedisStore(url, namespace=namespace, limits_for=lambda *_: limits, clock=clock)
        self.store.script_clock = clock.now
        self.account = self.store.account(KEY, "m", clock.now())

    def ask(self, tokens: int, held: Reservation | None = None) -> Reservation:
        costs = Demand(requests=0, input_tokens=tokens).costs
        claim = Claim([self.account], costs, reserve_ahead=600.0, held=held)
        answer = self.store.reserve(claim, self.clock.now())
        if isinstance(answer, Reservation):
            return answer
        assert isinstance(answer, NotReady)
        assert answer.future is not None
        return answer.future

    def leave(self, held: Reservation) -> None:
        unused = Usage(requests=0).costs
        self.store.settle(Settlement(held, unused), self.clock.now())
        self.store.flush()


asks = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "again", "leave", "wait"]), st.integers(0, 2)
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(st.tuples(asks, st.integers(1, 500)), min_size=3, max_size=25))
def test_calls_of_all_processes_come_in_the_order_of_asking(
    server: TestServer, script: list[tuple[tuple[str, int], int]]
) -> None:
    """Nobody loses a place by asking again, or is overtaken, but into what another one gave up."""
    clock, namespace = FakeClock(start=1000.0), f"order-{next(NAMES)}"
    processes = [Process(server.url, namespace, clock) for _ in range(3)]
    processes[0].ask(int(RATE * 60))  # what is left after it are debts
    row: list[tuple[Process, Reservation, int]] = []
    given_up = 0.0
    for (what, who), number in script:
        process = processes[who]
        mine = [one for one in row if one[0] is process and one[1].starts_at > clock.now()]
        if what == "ask":
            held = process.ask(number)
            last = max((other.starts_at for _, other, _ in row), default=0.0)
            assert held.starts_at >= last - given_up - 1e-5 or held.starts_at < clock.now()
            row.append((process, held, number))
        elif what == "again" and mine:
            _, held, tokens = mine[-1]
            again = process.ask(tokens, held)
            assert again.starts_at <= held.starts_at, "it lost its place"
            row[row.index(mine[-1])] = (process, again, tokens)
        elif what == "leave" and mine:
            process.leave(mine[-1][1])
            row.remove(mine[-1])
            given_up += mine[-1][2] / RATE
        elif what == "wait":
            clock.advance(number / 200)
    for process in processes:
        process.store.close()


def test_a_place_that_is_given_up_goes_to_who_asks_next_and_delays_nobody(
    server: TestServer,
) -> None:
    clock, namespace = FakeClock(start=1000.0), f"order-{next(NAMES)}"
    first, second = (Process(server.url, namespace, clock) for _ in range(2))
    first.ask(int(RATE * 60))
    held = [process.ask(500) for process in (first, second, first)]
    after = [one.starts_at - clock.now() for one in held]
    assert after == pytest.approx([5.25, 10.25, 15.25], abs=0.1)
    second.leave(held[1])
    assert first.ask(500, held[2]) is held[2], "nothing begins earlier than what it has"
    assert second.ask(500).starts_at - clock.now() == pytest.approx(15.25, abs=0.1)
    for process in (first, second):
        process.store.close()
