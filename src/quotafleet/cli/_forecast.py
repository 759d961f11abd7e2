"""Runs calls through the production core against the mock provider, on a simulated clock."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, Final

from .._core.admission.effects import Grant
from .._core.call.flow import AttemptResult
from .._lease import Lease
from ..config import PoolArguments
from ..errors import CannotServe
from ..outcomes import OK
from ..owners import Organization, Owners
from ..pool import KeyPool
from ..protocols import Plan
from ..simulate import Process, Simulation
from ..testing import Exchange, MockCall, MockFleet, MockProvider, MockSettings, RequestSize
from ..testing.clock import FakeClock
from ..usage import Demand, Usage
from ._traffic import Arrival
from ._world import ENFORCED, fleet_of, secret_of

#: Seconds of one step of what is told over time.
STEP: Final = 10.0
#: What a limit counts, and the seconds in which it comes back.
COUNTED: Final = {
    "rpm": ("calls", 60.0),
    "rpd": ("calls", 86_400.0),
    "tpm": ("tokens", 60.0),
    "tpd": ("tokens", 86_400.0),
}
_MILLION: Final = 1_000_000


@dataclass(slots=True)
class Used:
    """What one owner served: calls, tokens as its limits count them, and the money it took."""

    calls: int = 0
    tokens: int = 0
    usd: Decimal = Decimal(0)


@dataclass(slots=True)
class Forecast:
    """What came of the calls.

    Attributes:
        seconds: from the first arrival to the last answer, simulated.
        calls: that came.
        answered: of them.
        refused: by the pool, by the error's name.
        failed: that ended in the provider's own error.
        turned_away: requests that the provider answered with 429.
        waits: seconds that each answered call came later than without limits, sorted.
        used: by owner.
        limits: share that was used of what a limit allowed in the time, by owner and limit.
        steps: calls that waited at most, in each `STEP` seconds.
    """

    seconds: float = 0.0
    calls: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    turned_away: int = 0
    waits: array[float] = field(default_factory=lambda: array("d"))
    used: dict[str, Used] = field(default_factory=dict)
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)

    def wait(self, share: float) -> float:
        """Return the wait that a share of the answered calls stayed below, in seconds."""
        if not self.waits:
            return 0.0
        return self.waits[min(len(self.waits) - 1, int(share * len(self.waits)))]

    @property
    def usd(self) -> Decimal:
        """What all cost, by the mock's catalogue of prices."""
        return sum((one.usd for one in self.used.values()), Decimal(0))

    def binding(self) -> tuple[str, float] | None:
        """Return the limit that owners used up most on the whole, and how much; ``None`` = none."""
        shares: dict[str, list[float]] = {}
        for found in self.limits.values():
            for name, share in found.items():
                shares.setdefault(name, []).append(share)
        means = ((name, sum(some) / len(some)) for name, some in shares.items())
        return max(means, key=lambda one: one[1], default=None)


def forecast(
    arguments: PoolArguments,
    organizations: list[Organization],
    arrivals: Iterable[Arrival],
    models: Iterable[str],
    settings: MockSettings,
) -> Forecast:
    """Run the calls to their end.

    Args:
        arguments: of the pool; its organizations are those given besides.
        organizations: with the keys of `_world.secrets`.
        arrivals: in order.
        models: that they ask.
        settings: of the provider.

    Raises:
        ConfigError: no key may be used for a model.
    """
    clock = FakeClock()
    asked = arguments.copy()
    asked["organizations"] = organizations
    pool = KeyPool(**asked, clock=clock)
    fleet = fleet_of(organizations, models)
    return _Run(pool, clock, fleet, MockProvider(fleet, clock=clock, settings=settings)).run(
        iter(arrivals), organizations
    )


class _Run:
    """One simulation."""

    def __init__(
        self, pool: KeyPool, clock: FakeClock, fleet: MockFleet, provider: MockProvider
    ) -> None:
        self.pool = pool
        self.provider = provider
        self.simulation = Simulation(pool, clock)
        self.rules = {key.key_id: pool.provider(key) for key in pool.keys}
        self.prices = {spec.name: (spec.input_usd, spec.output_usd) for spec in fleet.models}
        self.told = Forecast()
        self.began_at = clock.now()
        self.waiting = 0

    def run(self, arrivals: Iterator[Arrival], organizations: list[Organization]) -> Forecast:
        self._next(arrivals)
        self.simulation.run()
        told = self.told
        told.turned_away = self.provider.refused
        told.waits = array("d", sorted(told.waits))
        told.limits = dict(self._limits(Owners(organizations)))
        return told

    def _next(self, arrivals: Iterator[Arrival]) -> None:
        arrival = next(arrivals, None)
        if arrival is not None:
            # One at a time: a million calls that are still to come would fill the memory.
            at = self.began_at + arrival.at
            self.simulation.at(at, partial(self._arrive, arrival, arrivals))

    def _arrive(self, arrival: Arrival, arrivals: Iterator[Arrival]) -> None:
        self._next(arrivals)
        self.told.calls += 1
        self._count(1)
        plan = _plan(arrival.model, arrival.input_tokens, arrival.output_tokens)
        order = self.pool.order(plan.demand, priority=arrival.priority, tenant=arrival.tenant)
        one = _Passing(self, arrival, plan)
        Process(
            self.simulation,
            self.pool,
            self.pool.call_flow(order),
            send=one.send,
            done=one.done,
            failed=one.refused,
        ).resume()

    def _count(self, more: int) -> None:
        """Take in that calls began or ceased to wait."""
        self.waiting += more
        step, steps = int((self.simulation.now() - self.began_at) / STEP), self.told.steps
        while len(steps) <= step:
            steps.append(self.waiting)
        steps[step] = max(steps[step], self.waiting)

    def _limits(self, owners: Owners) -> Iterator[tuple[str, dict[str, float]]]:
        seconds = self.told.seconds
        for owner, used in self.told.used.items():
            organization, _, project = owner.partition("/")
            shares: dict[str, float] = {}
            for model in self.prices:
                for limit in owners.limits_for(organization, project or None, model):
                    if limit.name in COUNTED and limit.name in ENFORCED:
                        what, period = COUNTED[limit.name]
                        allowed = limit.amount * (1 + seconds / period) * len(self.prices)
                        share = getattr(used, what) / allowed
                        shares[limit.name] = shares.get(limit.name, 0.0) + share
            yield owner, shares


class _Passing:
    """One call on its way."""

    __slots__ = ("arrival", "plan", "run", "sent_at", "waits")

    def __init__(self, run: _Run, arrival: Arrival, plan: Plan) -> None:
        self.run = run
        self.arrival = arrival
        self.plan = plan
        self.sent_at = 0.0
        self.waits = True

    def send(self, grant: Grant) -> tuple[float, AttemptResult[object]]:
        run, arrival = self.run, self.arrival
        lease = run.pool.leased(grant)
        self.sent_at = run.simulation.now()
        self._waits_no_more()
        rules = run.rules[lease.key_id]
        exchange = run.provider.admit(_call(lease.key_id, arrival))
        headers = dict(exchange.headers())
        observation = rules.observe(exchange.status, headers)
        if exchange.ok:
            reply: AttemptResult[object] = AttemptResult(
                outcome=OK, response=exchange, observation=observation
            )
            return exchange.latency_s, reply
        outcome = rules.read(exchange.status, headers, exchange.body().data)
        return 0.0, AttemptResult(outcome=outcome, response=exchange, observation=observation)

    def done(self, result: tuple[Grant, AttemptResult[Any]]) -> None:
        run, told, (grant, reply) = self.run, self.run.told, result
        told.seconds = run.simulation.now() - run.began_at
        if not reply.outcome.ok:
            told.failed += 1
            return
        exchange: Exchange = reply.response
        exchange.finish()
        lease = Lease(run.pool, grant)
        arrival = self.arrival
        usage = Usage(input_tokens=arrival.input_tokens, output_tokens=exchange.output_tokens)
        lease.complete(run.rules[lease.key_id].charge(self.plan, usage), usage)
        told.answered += 1
        told.waits.append(self.sent_at - run.began_at - arrival.at)
        used = told.used.setdefault(lease.owner, Used())
        used.calls += 1
        used.tokens += exchange.cost
        given, made = run.prices[arrival.model]
        used.usd += (given * arrival.input_tokens + made * exchange.output_tokens) / _MILLION

    def refused(self, error: CannotServe) -> None:
        self._waits_no_more()
        told = self.run.told
        told.seconds = self.run.simulation.now() - self.run.began_at
        told.refused[type(error).__name__] += 1

    def _waits_no_more(self) -> None:
        if self.waits:
            self.waits = False
            self.run._count(-1)


@lru_cache(65_536)
def _plan(model: str, input_tokens: int, output_tokens: int) -> Plan:
    """Return what the pool reads from a chat request of one message (`chat_2025`: +1 +1)."""
    demand = Demand(model=model, input_tokens=input_tokens + 2)
    return Plan(endpoint="chat", demand=demand)


def _call(key_id: str, arrival: Arrival) -> MockCall:
    return MockCall(
        secret=secret_of(key_id),
        model=arrival.model,
        ask=RequestSize(text_bytes=4 * arrival.input_tokens, messages=1),
        output_tokens=arrival.output_tokens,
    )
