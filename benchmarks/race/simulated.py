"""The production core in a race on a simulated clock: exact, and a thousand times faster.

Between a grant and its arrival at the provider lie the client's own work and the network's scatter.
The client is a single thread: what its requests and answers cost it, it does one after the other,
in the order in which they came up; a batch that begins with hundreds of calls keeps it busy before
the first request leaves. The scatter comes from a seed, so that a run repeats exactly.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from benchmarks.race.result import Result
from benchmarks.race.scenarios import AT_A_TIME, MODEL, SCENARIOS, Job, Scenario

from quotafleet import Demand, KeyPool, Limits, Organization, RetryPolicy, Usage
from quotafleet._core.admission.effects import Send
from quotafleet._core.call.flow import AttemptResult
from quotafleet._lease import Lease
from quotafleet.errors import CannotServe
from quotafleet.outcomes import OK, Kind, Outcome
from quotafleet.simulate import Process, Simulation
from quotafleet.strategies import strategy
from quotafleet.testing import FakeClock, MockCall, MockProvider, RequestSize
from quotafleet.testing.mock.faults import read_faults

#: Seconds of the client's own work on each call: what the OpenAI SDK takes of a middling processor.
WORK: Final = 0.003
#: The shares of it that fall to making the request, to sending it, and to reading the answer.
MAKING, SENDING, READING = 0.3, 0.4, 0.3
#: Mean seconds of the network's scatter, one way; the distribution is exponential.
SCATTER: Final = 0.004


class Flight(Process[Any]):
    """A call whose request is on its way for a while before it arrives."""

    arrive: Callable[[Any], tuple[float, AttemptResult[object]]]
    way: Callable[[], float]
    work: Callable[[float], float]

    def _perform(self, effect: Any) -> bool:
        simulation = self._simulation
        if not isinstance(effect, Send):
            return super()._perform(effect)

        def arrived() -> None:
            seconds, reply = self.arrive(effect.grant)
            simulation.at(simulation.now() + seconds, lambda: self._read(reply))

        simulation.at(self.work(SENDING) + self.way(), arrived)
        return False

    def _waker(self) -> Callable[[], None]:
        wake = super()._waker()
        return lambda: self._simulation.at(self.work(0.0), wake)

    def _read(self, reply: AttemptResult[object]) -> None:
        self._simulation.at(self.work(READING), lambda: self.resume(reply))


class Race:
    """One scenario, run by the production core.

    Args:
        scenario: what is raced.
        seed: of the provider, the network and the client.
        horizon: seconds after which it ends at the latest.
        work: seconds of the client's own work on each call.
    """

    def __init__(
        self, scenario: Scenario, *, seed: int = 1, horizon: float = 900.0, work: float = WORK
    ) -> None:
        self.scenario = scenario
        self.work = work
        self.horizon = horizon
        self.clock = FakeClock()
        self.provider = MockProvider(
            scenario.fleet(), clock=self.clock, seed=seed, settings=scenario.settings
        )
        if scenario.faults:
            self.provider.inject(*read_faults(list(scenario.faults)))
        self.random = Random(seed)
        told = scenario.told or {}
        self.pool = KeyPool(
            [
                Organization(name=name, keys=(secret,), limits=Limits(**told.get(name, {})))
                for name, secret in scenario.secrets().items()
            ],
            clock=self.clock,
            strategy=strategy("headroom-weighted", Random(seed)),
            retry=RetryPolicy(jitter=lambda delay: self.random.uniform(0.0, delay)),
        )
        self.simulation = Simulation(self.pool, self.clock)
        self.busy_until = 0.0
        self.under_way = 0
        self.queued: deque[Job] = deque()
        self.ended: list[float] = []
        self.delays: list[float] = []
        self.lost: list[CannotServe | Outcome] = []
        self.refusals: list[tuple[float, str, str]] = []
        self.foreign_admitted = 0

    def run(self) -> Result:
        """Run it to its end."""
        for job in self.scenario.jobs:
            self.simulation.at(job.at, lambda job=job: self._come(job))
        if self.scenario.foreign is not None:
            self._foreign(0.0)
        self.simulation.run(self.horizon)
        return Result(
            seconds=max(self.ended, default=0.0),
            bound=self.scenario.bound(self.foreign_admitted),
            answered=len(self.ended),
            lost=len(self.scenario.jobs) - len(self.ended),
            refused=len(self.refusals),
            delays=tuple(sorted(self.delays)),
        )

    def _work(self, share: float) -> float:
        """Return the instant when the client has done so much more of the work on a call."""
        self.busy_until = max(self.busy_until, self.clock.now()) + share * self.work
        return self.busy_until

    def _way(self) -> float:
        """Return the seconds from a grant to the arrival."""
        return self.random.expovariate(1 / SCATTER)

    def _come(self, job: Job) -> None:
        """Let the client make the request, and then begin the call."""
        if self.under_way == AT_A_TIME:
            self.queued.append(job)
            return
        self.under_way += 1
        self.simulation.at(self._work(MAKING), lambda: self._begin(job))

    def _go(self) -> None:
        """Let the next call begin, now that one has ended."""
        self.under_way -= 1
        if self.queued:
            self._come(self.queued.popleft())

    def _begin(self, job: Job) -> None:
        tokens = -(-job.size // 4) + 1
        order = self.pool.order(Demand(model=MODEL, input_tokens=tokens, output_tokens=1))

        def done(result: Any) -> None:
            grant, reply = result
            self._go()
            if not reply.outcome.ok:
                self.lost.append(reply.outcome)
                return
            demand = grant.demand
            used = Usage(input_tokens=demand.input_tokens, output_tokens=demand.output_tokens)
            Lease(self.pool, grant).complete(used, None, reply.observation)
            self.ended.append(self.clock.now())
            self.delays.append(self.clock.now() - job.at - reply.response.latency_s)

        def failed(refusal: CannotServe) -> None:
            self.lost.append(refusal)
            self._go()

        flight = Flight(
            self.simulation,
            self.pool,
            self.pool.call_flow(order),
            done=done,
            failed=failed,
        )
        flight.way = self._way
        flight.work = self._work
        flight.arrive = lambda grant: self._arrive(self.pool.leased(grant), job)
        flight.resume()

    def _arrive(self, lease: Lease, job: Job) -> tuple[float, AttemptResult[object]]:
        call = MockCall(
            secret=lease.secret.reveal(),
            model=MODEL,
            ask=RequestSize(text_bytes=job.size, messages=1, max_tokens=job.max_tokens),
        )
        exchange = self.provider.admit(call)
        back = self.random.expovariate(1 / SCATTER)
        if exchange.drop is not None:
            exchange.abort(0)
            kind = Kind.TIMEOUT if exchange.drop == "timeout" else Kind.NETWORK
            wait = self.scenario.timeout if exchange.drop == "timeout" else back
            return wait, AttemptResult(outcome=Outcome(kind=kind, charged=True), response=exchange)
        rules = self.pool.provider(lease._grant.key)
        headers = {name.lower(): value for name, value in exchange.headers()}
        observation = rules.observe(exchange.status, headers)
        outcome = OK
        if exchange.status != 200:
            outcome = rules.read(exchange.status, headers, exchange.body().data)
            if outcome.kind is Kind.RATE_LIMITED:
                self.refusals.append((self.clock.now(), lease.owner, outcome.code))
        exchange.finish()
        return exchange.latency_s + back, AttemptResult(
            outcome=outcome, response=exchange, observation=observation
        )

    def _foreign(self, now: float) -> None:
        other = self.scenario.foreign
        assert other is not None
        if now >= other.until or len(self.ended) + len(self.lost) == len(self.scenario.jobs):
            return
        secret = f"sk-mock-{other.owner}-2"
        ask = RequestSize(text_bytes=other.size, messages=1)
        exchange = self.provider.admit(MockCall(secret=secret, model=MODEL, ask=ask)).finish()
        self.foreign_admitted += exchange.ok
        at = now + 1 / other.per_second
        self.simulation.at(at, lambda: self._foreign(at))


def main() -> None:
    """Print every scenario's result, or those named after the seconds on the command line."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 45.0
    for name in sys.argv[2:] or SCENARIOS:
        result = Race(SCENARIOS[name](seconds)).run()
        print(
            f"{name:10} {result.seconds:6.2f} s over {result.bound:6.2f} s: {result.over:.3f}; "
            f"refused {result.refused} ({result.refused / result.calls:.2%}), lost {result.lost}; "
            f"delays p50 {result.delay(0.5) * 1e3:.0f} ms, p99 {result.delay(0.99) * 1e3:.0f} ms"
        )


if __name__ == "__main__":
    main()
