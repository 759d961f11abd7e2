"""The race's scenarios: fleets, batches and faults. They are the same for every contender.

Each scenario lasts about `seconds` by the physical bound: full buckets are spent at once, and
afterwards all calls depend on the refill. Those enforced by the second last twice as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from typing import Final

from benchmarks.race.bound import Supply, fluid_bound

from quotafleet.testing import (
    CoConsumer,
    LimitRules,
    MockFleet,
    MockSettings,
    ModelSpec,
    RequestSize,
)
from quotafleet.testing.mock.cost import PROFILES
from quotafleet.testing.mock.settings import OPENAI_RULES

MODEL: Final = "gpt-4o-mini"
#: Seconds that a contender's client waits for an answer; long, since the machine may be busy.
TIMEOUT: Final = 15.0
PLENTY: Final = 10_000_000
#: Most calls of a contender's client in progress at a time, waiting ones included, as batch runners
#: bound them. All at once would measure how long a client takes to make hundreds of requests.
AT_A_TIME: Final = 300

#: The metric and the period in seconds of each limit.
PERIODS: Final = {
    "rpm": ("requests", 60.0),
    "tpm": ("tokens", 60.0),
    "rpd": ("requests", 86_400.0),
}


NOTHING: Final[Mapping[str, float]] = {}


@dataclass(frozen=True, slots=True)
class Job:
    """One call: its arrival (seconds from the start), bytes of its prompt, its `max_tokens`."""

    at: float
    size: int
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One race.

    Args:
        name: for ``--scenario``.
        title: for the table.
        owners: the true limits, as `MockFleet.simple` takes them.
        jobs: the batch.
        told: the limits that contenders are configured with; ``None``: none.
        rules: how the provider enforces, charges and states the limits.
        faults: scripted faults of the provider.
        dead: owners that serve nothing.
        others: another application on an owner's quota, by owner.
        learned: contenders must learn something that is not configured.
        timeout: seconds that a contender's client waits for an answer.
        delays: the measure is the delays of calls, not the time of the batch.
    """

    name: str
    title: str
    owners: Mapping[str, Mapping[str, int]]
    jobs: tuple[Job, ...]
    told: Mapping[str, Mapping[str, int]] | None
    rules: LimitRules = OPENAI_RULES
    faults: tuple[Mapping[str, object], ...] = ()
    dead: frozenset[str] = frozenset()
    others: Mapping[str, CoConsumer] = field(default_factory=dict)
    learned: bool = False
    timeout: float = TIMEOUT
    delays: bool = False

    @property
    def settings(self) -> MockSettings:
        """The provider's settings."""
        return replace(SETTINGS, rules=self.rules)

    def fleet(self) -> MockFleet:
        """Return the provider's accounts."""
        fleet = MockFleet.simple(self.owners, models=[ModelSpec(name=MODEL)])
        orgs = [
            replace(org, co_consumers=(self.others[name],) if name in self.others else ())
            for name, org in zip(self.owners, fleet.orgs, strict=True)
        ]
        return replace(fleet, orgs=tuple(orgs))

    def secrets(self) -> dict[str, str]:
        """Return the contenders' key of each owner."""
        return {name: f"sk-mock-{name}-1" for name in self.owners}

    def charged(self, size: int, max_tokens: int | None = None) -> int:
        """Return the tokens that the provider charges for a prompt of `size` bytes."""
        profile = PROFILES[self.rules.profiles.get("chat", "chat_2025")]
        request = RequestSize(text_bytes=size, messages=1, max_tokens=max_tokens)
        return profile.estimate(request, MODEL)

    def bound(self, taken: Mapping[str, float] = NOTHING) -> float:
        """Return the physical bound in seconds.

        A batch that arrives bit by bit isn't done before its last call has arrived.

        Args:
            taken: requests that other applications took of each owner, where it depends on the
                race: a refused request that is not owed leaves its unit to the contender.
        """
        demand = {
            "requests": float(len(self.jobs)),
            "tokens": float(sum(self.charged(job.size, job.max_tokens) for job in self.jobs)),
        }
        alive = [self._supplies(n, taken.get(n, 0.0)) for n in self.owners if n not in self.dead]
        return max(fluid_bound(alive, demand), *(job.at for job in self.jobs))

    def _supplies(self, name: str, taken: float) -> list[Supply]:
        other = self.others.get(name)
        found = []
        for limit, amount in self.owners[name].items():
            metric, period = PERIODS[limit]
            each = 0.0
            if other is not None:
                each = self.charged(other.text_bytes) if metric == "tokens" else 1.0
            owed = other is not None and self.rules.refusals == "owed"
            burst, window = self._burst(metric, amount, period)
            found.append(
                Supply(
                    metric=metric,
                    limit=amount,
                    period=period,
                    burst=burst,
                    window=window,
                    taken=0.0 if owed else taken * each,
                    taken_per_second=each * other.per_second if owed and other else 0.0,
                    until=inf if other is None or other.end_s is None else other.end_s,
                )
            )
        return found

    def _burst(self, metric: str, amount: int, period: float) -> tuple[float | None, float | None]:
        """Return the units that are admitted at once, and the window's seconds if it is one."""
        rules = self.rules
        if period != 60.0:
            return None, None
        if rules.enforced == "single" and metric == "requests":
            return 1.0, None
        seconds = rules.window_s or period
        burst = max(1.0, amount * seconds / period)
        return burst, seconds if rules.enforced in ("sliding", "fixed") else None


SETTINGS: Final = MockSettings(ttft_s=0.03, jitter=0.3, ramp_base_tokens=None)

_UNEQUAL: Final = {"acme": 150, "birch": 90, "cedar": 60}
#: Another application that sends half of what acme's limit of requests admits.
HALF_OF_ACME: Final = CoConsumer(model=MODEL, per_second=1.25)


def _small(count: int, at: float = 0.0) -> tuple[Job, ...]:
    return tuple(Job(at, 40) for _ in range(count))


def _rates(limits: Mapping[str, int], tpm: int = PLENTY) -> dict[str, dict[str, int]]:
    return {name: {"rpm": rpm, "tpm": tpm} for name, rpm in limits.items()}


def _filling(limits: Mapping[str, int], seconds: float) -> int:
    """Return the units that full buckets of a minute yield in `seconds`."""
    return round(sum(limits.values()) * (1 + seconds / 60))


def requests(seconds: float) -> Scenario:
    owners = _rates(_UNEQUAL)
    return Scenario(
        name="requests",
        title="unequal organizations, requests bind",
        owners=owners,
        told=owners,
        jobs=_small(_filling(_UNEQUAL, seconds)),
    )


def _sized(tokens: float) -> tuple[Job, ...]:
    """Return jobs of 100 to 4,000 tokens, uniform in their logarithm, that take `tokens` in all."""
    random, jobs, left = Random(7), [], tokens
    while left > 0:
        size = round(100 * 40 ** random.random())
        jobs.append(Job(0.0, 4 * size))
        left -= size + 2
    return tuple(jobs)


def tokens(seconds: float) -> Scenario:
    tpm = {"acme": 300_000, "birch": 180_000, "cedar": 120_000}
    owners = {name: {"rpm": 5_000, "tpm": limit} for name, limit in tpm.items()}
    return Scenario(
        name="tokens",
        title="tokens bind, sizes vary 40-fold",
        owners=owners,
        told=owners,
        jobs=_sized(_filling(tpm, seconds)),
    )


def packing(seconds: float) -> Scenario:
    """Large calls belong to one owner, small ones to the other.

    Both limits bind at once: of 550 requests and 580,000 tokens a minute birch has 35 % and 60 %.
    """
    owners = {
        "acme": {"rpm": 360, "tpm": 230_000},
        "birch": {"rpm": 190, "tpm": 350_000},
    }
    return Scenario(
        name="packing",
        title="requests bind at one, tokens at the other",
        owners=owners,
        told=owners,
        jobs=_sized(_filling({name: limits["tpm"] for name, limits in owners.items()}, seconds)),
    )


def bursts(seconds: float) -> Scenario:
    owners = _rates(_UNEQUAL)
    each = round(0.09 * _filling(_UNEQUAL, seconds))
    jobs = tuple(job for wave in range(10) for job in _small(each, wave * seconds / 10))
    return Scenario(
        name="bursts",
        title="bursts below capacity",
        owners=owners,
        told=owners,
        jobs=jobs,
        delays=True,
    )


def sick(seconds: float) -> Scenario:
    limits = dict.fromkeys(("good", "fine", "revoked", "broke", "flaky", "hanging"), 100)
    owners, alive = _rates(limits), {name: limits[name] for name in ("good", "fine", "flaky")}
    return Scenario(
        name="sick",
        title="dead, flaky and hanging keys",
        owners=owners,
        told=owners,
        jobs=_small(_filling(alive, seconds)),
        dead=frozenset(limits) - frozenset(alive),
        timeout=3.0,
        faults=(
            {"match": {"key": "revoked-1"}, "action": "revoke_key"},
            {"match": {"key": "broke-1"}, "action": "quota", "times": None},
            {"match": {"key": "flaky-1"}, "action": "500", "times": None, "probability": 0.3},
            {
                "match": {"key": "hanging-1"},
                "action": "timeout",
                "times": None,
                "seconds": 6.0,
            },
        ),
    )


def quantised(seconds: float) -> Scenario:
    limits = {"acme": 600, "birch": 360, "cedar": 240}
    owners = _rates(limits)
    return Scenario(
        name="quantised",
        title="stated per minute, enforced per second",
        owners=owners,
        told=owners,
        jobs=_small(round(sum(limits.values()) / 60 * (1 + seconds))),
        rules=LimitRules(window_s=1.0),
        learned=True,
    )


def foreign(seconds: float) -> Scenario:
    owners = _rates(_UNEQUAL)
    return Scenario(
        name="foreign",
        title="another application spends half of acme",
        owners=owners,
        told=owners,
        jobs=_small(_filling(_UNEQUAL, seconds) - round(1.25 * seconds)),
        others={"acme": HALF_OF_ACME},
        learned=True,
    )


def unknown(seconds: float) -> Scenario:
    owners = _rates(_UNEQUAL)
    return Scenario(
        name="unknown",
        title="limits not configured",
        owners=owners,
        told=None,
        jobs=_small(_filling(_UNEQUAL, seconds)),
        learned=True,
    )


def silent(seconds: float) -> Scenario:
    """Neither headers nor refusals state a limit, and none is configured."""
    owners = _rates(_UNEQUAL)
    return Scenario(
        name="silent",
        title="no header tells a limit, none configured",
        owners=owners,
        told=None,
        jobs=_small(_filling(_UNEQUAL, seconds)),
        rules=LimitRules(stated=False),
        learned=True,
    )


def daily(seconds: float) -> Scenario:
    """After a third of a minute's requests acme has no quota left for the day."""
    owners = _rates({"acme": 300, "birch": 150, "cedar": 90})
    told = {name: dict(limits) for name, limits in owners.items()}
    owners["acme"]["rpd"] = 100
    return Scenario(
        name="daily",
        title="a daily limit runs out",
        owners=owners,
        told=told,
        jobs=_small(100 + _filling({"birch": 150, "cedar": 90}, seconds)),
        learned=True,
    )


def formula(seconds: float) -> Scenario:
    """Requests are charged by the older formula, which adds `max_tokens`."""
    tpm = {"acme": 300_000, "birch": 180_000, "cedar": 120_000}
    owners = {name: {"rpm": 5_000, "tpm": limit} for name, limit in tpm.items()}
    random, jobs, left = Random(11), [], float(_filling(tpm, seconds))
    while left > 0:
        job = Job(0.0, random.randint(1200, 4800), random.choice((200, 400, 800)))
        jobs.append(job)
        left -= -(-job.size // 4) + 1 + (job.max_tokens or 0)
    return Scenario(
        name="formula",
        title="charged by another formula than assumed",
        owners=owners,
        told=owners,
        jobs=tuple(jobs),
        rules=LimitRules(profiles={"chat": "chat_2024"}),
        learned=True,
    )


def formula_max(seconds: float) -> Scenario:
    """A request is charged the larger of `max_tokens` and the estimate of its prompt."""
    tpm = {"acme": 300_000, "birch": 180_000, "cedar": 120_000}
    owners = {name: {"rpm": 5_000, "tpm": limit} for name, limit in tpm.items()}
    random, jobs, left = Random(13), [], float(_filling(tpm, seconds))
    while left > 0:
        job = Job(0.0, 4 * round(100 * 40 ** random.random()), random.choice((100, 500, 2_000)))
        jobs.append(job)
        left -= max(job.size // 4, job.max_tokens or 0)
    return Scenario(
        name="formula_max",
        title="charged the larger of max_tokens and the estimate",
        owners=owners,
        told=owners,
        jobs=tuple(jobs),
        rules=LimitRules(profiles={"chat": "docs_max"}),
        learned=True,
    )


def shared(seconds: float) -> Scenario:
    """As `foreign`, and each refused request of either application costs one all the same."""
    return replace(
        foreign(seconds),
        name="shared",
        title="another application spends half of acme, refused requests count",
        rules=LimitRules(refusals="owed"),
    )


def shared_alone(seconds: float) -> Scenario:
    """As `shared`, without any other owner to turn to."""
    owners = _rates({"acme": 150})
    return replace(
        shared(seconds),
        name="shared_alone",
        title="the only owner is shared, refused requests count",
        owners=owners,
        told=owners,
        jobs=_small(round(150 + 1.25 * seconds)),
    )


#: How contenders learn of a limit per minute: by configuration alone, by headers that show the
#: minute, or not at all.
_KNOWN: Final = {
    "stated": "configured per minute",
    "shown": "headers show the minute",
    "untold": "never stated",
}


def _by_second(kind: str, known: str, title: str, rules: LimitRules) -> Callable[[float], Scenario]:
    """Return a scenario whose owners admit 3, 2 and 1 requests a second."""

    def make(seconds: float) -> Scenario:
        owners = _rates({"acme": 180, "birch": 120, "cedar": 60})
        return Scenario(
            name=make.__name__,
            title=f"{title}, {_KNOWN[known]}",
            owners=owners,
            told=owners if known == "stated" else None,
            jobs=_small(3 + round(6 * 2 * seconds)),
            rules=replace(rules, stated=known == "shown"),
            learned=True,
        )

    make.__name__ = f"{kind}_{known}"
    return make


SLIDING_SECOND: Final = LimitRules(enforced="sliding", window_s=1.0)
_BY_SECOND: Final = [
    _by_second(kind, known, title, rules)
    for kind, title, rules in (
        ("single", "limits per minute admitted one by one", LimitRules(enforced="single")),
        (
            "sliding",
            "limits per minute admitted by a sliding second",
            LimitRules(enforced="sliding", window_s=1),
        ),
    )
    for known in _KNOWN
]

#: Every scenario by name, as a function of the seconds of its bound.
SCENARIOS: Final[dict[str, Callable[[float], Scenario]]] = {
    make.__name__: make
    for make in (
        requests,
        tokens,
        packing,
        bursts,
        sick,
        quantised,
        foreign,
        unknown,
        silent,
        daily,
        formula,
        formula_max,
        shared,
        shared_alone,
        *_BY_SECOND,
    )
}
