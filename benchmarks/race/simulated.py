"""The production core in the race on a simulated clock: exact, and a thousand times faster.

    python -m benchmarks.race.simulated [--seconds S] [--seeds N] [SCENARIO ...]

Between a grant and the request's arrival at the provider lie the client's own work and the
network's latency. The client is a single thread, which works on requests and answers one after the
other; a batch that begins with hundreds of calls keeps it busy before the first request leaves.
The latency is drawn from a seed, so that a run repeats exactly.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from benchmarks.race.result import Result, taken
from benchmarks.race.scenarios import AT_A_TIME, MODEL, SCENARIOS, Job, Scenario

from quotafleet import KeyPool, Limits, Organization, RetryPolicy
from quotafleet._core.admission.effects import Send
from quotafleet._core.call.flow import AttemptResult
from quotafleet._lease import Lease
from quotafleet.errors import CannotServe
from quotafleet.outcomes import OK, Kind, Outcome
from quotafleet.protocols import Plan
from quotafleet.providers.openai import OpenAI
from quotafleet.simulate import Process, Simulation
from quotafleet.strategies import strategy
from quotafleet.testing import FakeClock, MockCall, MockProvider, RequestSize
from quotafleet.testing.mock.faults import read_faults

JSON: Final = "application/json"
#: Seconds of the client's own work on each call: what the OpenAI SDK takes on an average processor.
WORK: Final = 0.003
#: The shares of it for making the request, sending it, and reading the answer.
MAKING, SENDING, READING = 0.3, 0.4, 0.3
#: Mean seconds of the network's latency, one way; the distribution is exponential.
LATENCY: Final = 0.004


class Flight(Process[Any]):
    """A call whose request takes time to arrive."""

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
        scenario: the fleet and the batch.
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
        self.taken: dict[str, float] = {}

    def run(self) -> Result:
        """Run to the end."""
        for job in self.scenario.jobs:
            self.simulation.at(job.at, lambda job=job: self._come(job))
        self.simulation.run(self.horizon)
        return Result(
            seconds=max(self.ended, default=0.0),
            bound=self.scenario.bound(self.taken),
            answered=len(self.ended),
            lost=len(self.scenario.jobs) - len(self.ended),
            refused=len(self.refusals),
            delays=tuple(sorted(self.delays)),
        )

    def _work(self, share: float) -> float:
        """Return the instant at which the client has done that share of its work on a call."""
        self.busy_until = max(self.busy_until, self.clock.now()) + share * self.work
        return self.busy_until

    def _way(self) -> float:
        """Return the seconds from a grant to the arrival."""
        return self.random.expovariate(1 / LATENCY)

    def _come(self, job: Job) -> None:
        """Make the request in the client, and then begin the call."""
        if self.under_way == AT_A_TIME:
            self.queued.append(job)
            return
        self.under_way += 1
        self.simulation.at(self._work(MAKING), lambda: self._begin(job))

    def _go(self) -> None:
        """Begin the next call, or note at the end what other applications took."""
        self.under_way -= 1
        if len(self.ended) + len(self.lost) == len(self.scenario.jobs):
            self.taken = taken(self.scenario, self.provider.state())
        if self.queued:
            self._come(self.queued.popleft())

    def _begin(self, job: Job) -> None:
        planned = plan(job)
        order = self.pool.order(planned.demand)

        def done(result: Any) -> None:
            grant, reply = result
            if not reply.outcome.ok:
                self.lost.append(reply.outcome)
                self._go()
                return
            used = OpenAI().charge(planned, None)
            Lease(self.pool, grant).complete(used, None, reply.observation)
            self.ended.append(self.clock.now())
            self._go()
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
        back = self.random.expovariate(1 / LATENCY)
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


def plan(job: Job) -> Plan:
    """Return what the pool reads of a job's request."""
    body: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x" * job.size}],
    }
    if job.max_tokens is not None:
        body["max_tokens"] = job.max_tokens
    return OpenAI().plan("POST", "chat/completions", JSON, json.dumps(body).encode())


def main() -> None:
    """Print each scenario's result: of one seed, or the mean and the worst of several."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race.simulated")
    parser.add_argument("scenario", nargs="*", help="only these")
    parser.add_argument("--seconds", type=float, default=45.0, help="a batch's bound")
    parser.add_argument("--seeds", type=int, default=1, help="run with seeds 0 to N - 1")
    given = parser.parse_args()
    for name in given.scenario or SCENARIOS:
        scenario = SCENARIOS[name](given.seconds)
        print(line(name, [Race(scenario, seed=seed).run() for seed in range(given.seeds)]))


def line(name: str, results: list[Result]) -> str:
    """Return a scenario's line: mean and worst time over the bound and refusals, calls lost."""
    overs = [result.over for result in results]
    refused = [result.refused / result.calls for result in results]
    shown = (
        f"{name:14} {results[0].calls:5} calls over {results[0].bound:6.2f} s: "
        f"{sum(overs) / len(overs):.3f} (worst {max(overs):.3f}); "
        f"refused {sum(refused) / len(refused):.2%} (worst {max(refused):.2%}), "
        f"lost {sum(result.lost for result in results)}"
    )
    if len(results) > 1:
        return shown
    p50, p99 = (results[0].delay(share) * 1e3 for share in (0.5, 0.99))
    return f"{shown}; delays p50 {p50:.0f} ms, p99 {p99:.0f} ms"


if __name__ == "__main__":
    main()
