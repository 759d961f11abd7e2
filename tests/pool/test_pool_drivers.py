"""One pool under many threads, tasks and loops: nothing over-admitted, lost or leaked."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from quotafleet import (
    Demand,
    KeyPool,
    Limit,
    Limits,
    Organization,
    PoolClosed,
    Usage,
    WaitTimeout,
)
from quotafleet._core.call.flow import AttemptResult
from quotafleet.events import (
    Available,
    Leased,
    OwnersMerged,
    Refused,
    Settled,
    Throttled,
    Unavailable,
)
from quotafleet.outcomes import OK, Kind, Observation, Outcome

ONE = Demand(model="m", input_tokens=10, output_tokens=10)


def organization(name: str, **limits: float | Limit) -> Organization:
    return Organization(
        name=name,
        keys=(f"sk-{name}-0123456789abcdef",),
        limits=Limits(**limits),
    )


def fast(name: str = "a", per_minute: float = 60_000, burst: float = 50) -> Organization:
    """An owner that refills in milliseconds, so that calls wait, but not the test."""
    return organization(name, rpm=Limit(name="rpm", amount=per_minute, burst=burst))


def assert_idle(pool: KeyPool) -> None:
    status = pool.status()
    assert status.waiting == 0
    assert status.in_flight == 0
    assert pool._store.open == 0  # type: ignore[attr-defined]


class TestManyAtOnce:
    def test_200_threads_take_turns_and_all_come_through(self) -> None:
        pool = KeyPool([fast("a"), fast("b", per_minute=30_000)])
        inside, most, lock = 0, 0, threading.Lock()

        def work() -> None:
            nonlocal inside, most
            for _ in range(4):
                with pool.lease(ONE):
                    with lock:
                        inside += 1
                        most = max(most, inside)
                    with lock:
                        inside -= 1

        threads = [threading.Thread(target=work) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_idle(pool)
        assert sum(key.answered for key in pool.status().keys) == 800

    def test_slots_are_never_over_admitted_by_threads(self) -> None:
        pool = KeyPool([organization("a", concurrent=7)])
        inside, most, lock = 0, 0, threading.Lock()

        def work(_: int) -> None:
            nonlocal inside, most
            with pool.lease(ONE):
                with lock:
                    inside += 1
                    most = max(most, inside)
                threading.Event().wait(0.001)
                with lock:
                    inside -= 1

        with ThreadPoolExecutor(100) as threads:
            list(threads.map(work, range(300)))
        assert most == 7
        assert_idle(pool)

    async def test_slots_are_never_over_admitted_by_200_tasks(self) -> None:
        pool = KeyPool([organization("a", concurrent=7)])
        inside = most = 0

        async def work() -> None:
            nonlocal inside, most
            async with pool.alease(ONE):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        await asyncio.gather(*(work() for _ in range(200)))
        assert most == 7
        assert_idle(pool)

    async def test_cancelled_tasks_leak_nothing_and_wake_the_next(self) -> None:
        pool = KeyPool([organization("a", concurrent=3)])
        done = 0

        async def work() -> None:
            nonlocal done
            async with pool.alease(ONE):
                await asyncio.sleep(0.002)
            done += 1

        tasks = [asyncio.create_task(work()) for _ in range(200)]
        for n, task in enumerate(tasks):
            await asyncio.sleep(0)
            if n % 2:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert done == sum(not task.cancelled() for task in tasks) >= 100
        assert_idle(pool)

    async def test_timeouts_around_a_wait_leak_nothing(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])
        held = pool.lease(ONE)

        async def work() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await pool.alease(ONE)

        await asyncio.gather(*(work() for _ in range(50)))
        assert pool.status().waiting == 0
        held.settle()
        (await pool.alease(ONE)).settle()
        assert_idle(pool)

    def test_one_pool_serves_threads_and_several_loops(self) -> None:
        pool = KeyPool([organization("a", concurrent=5)])
        done = []

        async def loop_work() -> None:
            async def one() -> None:
                async with pool.alease(ONE):
                    await asyncio.sleep(0.001)
                done.append(1)

            await asyncio.gather(*(one() for _ in range(50)))

        def thread_work() -> None:
            for _ in range(50):
                with pool.lease(ONE):
                    pass
                done.append(1)

        workers = [threading.Thread(target=asyncio.run, args=(loop_work(),)) for _ in range(3)]
        workers += [threading.Thread(target=thread_work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(done) == 300
        assert_idle(pool)

    def test_a_loop_that_dies_with_waiting_tasks_does_not_stop_the_others(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])
        held = pool.lease(ONE)
        loop = asyncio.new_event_loop()
        task = asyncio.ensure_future(pool.alease(ONE), loop=loop)
        loop.run_until_complete(asyncio.sleep(0.01))
        assert pool.status().waiting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()
        held.settle()
        pool.lease(ONE, timeout=1).settle()
        gc.collect()
        assert_idle(pool)


class TestLease:
    def test_shows_the_key_and_never_its_secret(self) -> None:
        pool = KeyPool([organization("acme", rpm=60)])
        with pool.lease(ONE) as lease:
            assert lease.key_id == "acme#1"
            assert lease.owner == "acme"
            assert lease.provider == "openai"
            assert lease.base_url == "https://api.openai.com/v1"
            assert lease.waited_for == pytest.approx(0, abs=0.1)
            assert lease.secret.reveal() == "sk-acme-0123456789abcdef"
            assert lease.headers["authorization"] == "Bearer sk-acme-0123456789abcdef"
            for shown in (repr(lease), str(lease.secret), repr(lease.secret), repr(pool)):
                assert "0123456789" not in shown
            assert not lease.settled
        assert lease.settled

    def test_settles_with_the_real_usage_once(self) -> None:
        pool = KeyPool([organization("a", tpm=60_000)])
        with pool.lease(Demand(input_tokens=1000)) as lease:
            lease.settle(Usage(input_tokens=400))
            lease.settle(Usage(input_tokens=9000))
            lease.release()
        (scope,) = pool.status().scopes
        assert scope.levels[0].available == pytest.approx(59_750 - 400, abs=100)
        (key,) = pool.status().keys
        assert (key.answered, key.input_tokens) == (1, 400)

    def test_a_block_that_does_not_settle_keeps_its_estimate(self) -> None:
        pool = KeyPool([organization("a", tpm=60_000)])
        with pool.lease(Demand(input_tokens=1000)):
            pass
        with pytest.raises(ZeroDivisionError), pool.lease(Demand(input_tokens=1000)):
            raise ZeroDivisionError
        (scope,) = pool.status().scopes
        assert scope.levels[0].available == pytest.approx(59_750 - 2000, abs=100)

    def test_release_gives_all_back(self) -> None:
        pool = KeyPool([organization("a", rpd=86_400, concurrent=1)])
        lease = pool.lease(ONE)
        lease.release()
        levels = {level.name: level.available for level in pool.status().scopes[0].levels}
        assert levels["concurrent"] == 1
        assert levels["rpd"] == pytest.approx(86_399.75)
        assert pool.status().keys[0].granted == 0

    async def test_asynchronous_ends_do_the_same(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])
        await (await pool.alease(ONE)).asettle(Usage(input_tokens=3))
        await (await pool.alease(ONE)).arelease()
        await (await pool.alease(ONE)).acomplete(Usage(), Usage(input_tokens=4))
        lease = await pool.alease(ONE)
        await lease.afail(Outcome(kind=Kind.SERVER_ERROR, charged=True))
        with pytest.raises(ZeroDivisionError):
            async with pool.alease(ONE):
                raise ZeroDivisionError
        (key,) = pool.status().keys
        assert (key.answered, key.failed, key.input_tokens) == (2, 2, 7)
        assert_idle(pool)


class TestCall:
    def test_sends_until_an_answer_is_final(self) -> None:
        pool = KeyPool([fast("a"), fast("b")])
        sent = []

        def send(lease: object) -> AttemptResult[str]:
            sent.append(lease.owner)  # type: ignore[attr-defined]
            if len(sent) == 1:
                return AttemptResult(outcome=Outcome(kind=Kind.SERVER_ERROR), response="no")
            return AttemptResult(outcome=OK, response="yes")

        lease, reply = pool.call(pool.order(ONE), send)
        lease.settle()
        assert reply.response == "yes"
        assert sorted(sent) == ["a", "b"]
        assert_idle(pool)

    def test_what_send_raises_ends_the_call_and_settles_it(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])

        def send(lease: object) -> AttemptResult[str]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            pool.call(pool.order(ONE), send)
        assert_idle(pool)

    async def test_cancelling_a_send_settles_it(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])
        began = asyncio.Event()

        async def send(lease: object) -> AttemptResult[str]:
            began.set()
            await asyncio.sleep(100)
            raise AssertionError

        task = asyncio.create_task(pool.acall(pool.order(ONE), send))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_idle(pool)

    async def test_waits_between_attempts_without_blocking_the_loop(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])
        answers = [Outcome(kind=Kind.CONFLICT, retry_after=0.02), OK]

        async def send(lease: object) -> AttemptResult[str]:
            return AttemptResult(outcome=answers.pop(0), response="")

        lease, reply = await pool.acall(pool.order(ONE), send)
        await lease.asettle()
        assert reply.outcome.ok
        pool_answers = [Outcome(kind=Kind.CONFLICT, retry_after=0.02), OK]
        lease, reply = pool.call(
            pool.order(ONE), lambda lease: AttemptResult(outcome=pool_answers.pop(0), response="")
        )
        lease.settle()
        assert_idle(pool)

    def test_a_driver_that_answers_nonsense_is_told(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])
        with pytest.raises(TypeError, match="answered Send with str, not a Reply"):
            pool.call(pool.order(ONE), lambda lease: "nonsense")  # type: ignore[arg-type, return-value]


class TestClosing:
    def test_threads_that_wait_are_told(self) -> None:
        pool = KeyPool([organization("a", concurrent=1)])
        held = pool.lease(ONE)
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                pool.lease(ONE)
            except PoolClosed as error:
                failures.append(error)

        threads = [threading.Thread(target=wait) for _ in range(5)]
        for thread in threads:
            thread.start()
        while pool.status().waiting < 5:
            threading.Event().wait(0.001)
        pool.close()
        for thread in threads:
            thread.join()
        assert len(failures) == 5
        held.settle()
        assert_idle(pool)

    async def test_as_a_context(self) -> None:
        with KeyPool([organization("a", rpm=60)]) as pool:
            pool.lease(ONE).settle()
        with pytest.raises(PoolClosed):
            pool.lease(ONE)
        async with KeyPool([organization("a", rpm=60)]) as pool:
            (await pool.alease(ONE)).settle()
        with pytest.raises(PoolClosed):
            await pool.alease(ONE)


class TestEvents:
    @pytest.mark.usefixtures("believed_at_once")
    def test_listeners_learn_of_everything_and_cannot_harm(self) -> None:
        heard: list[object] = []

        def faulty(event: object) -> None:
            raise RuntimeError("a listener's own fault")

        pool = KeyPool(
            [organization("a", rpm=60, tpm=1000), organization("b", rpm=60)],
            listeners=(faulty, heard.append),
            strategy="round-robin",
        )
        lease = pool.lease(ONE)
        lease.observe(Observation(organization_id="org-1"))
        lease.settle(Usage(input_tokens=5))
        limited = pool.lease(ONE)
        assert limited.owner == "b"
        limited.observe(Observation(organization_id="org-1"))
        limited.fail(Outcome(kind=Kind.RATE_LIMITED, code="rate_limit_exceeded", retry_after=2.0))
        other = pool.lease(ONE)
        other.fail(Outcome(kind=Kind.KEY_INVALID, scope="key", code="invalid_api_key"))
        pool.revive()
        while pool.eta(ONE) == 0:
            pool.lease(ONE).settle()
        with pytest.raises(WaitTimeout):
            pool.lease(ONE, timeout=0)
        kinds = [type(event) for event in heard]
        for kind in (Leased, Settled, Throttled, Unavailable, Available, OwnersMerged, Refused):
            assert kind in kinds
        throttled = next(event for event in heard if isinstance(event, Throttled))
        assert (throttled.code, throttled.retry_after) == ("rate_limit_exceeded", 2.0)
        waited = next(event for event in heard if isinstance(event, Refused))
        assert (waited.model, waited.code) == ("m", "wait_timeout")
        assert pool.failed_listeners == len(heard)
        assert "0123456789" not in repr(heard)
