"""What is raced: fleets, batches, and what goes wrong. The same for every contender.

Each scenario lasts about `seconds` by the fluid bound: full buckets are spent at once, and then all
live on what refills.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from benchmarks.race.bound import Supply, fluid_bound

from quotafleet.testing import MockFleet, MockSettings, ModelSpec

MODEL: Final = "gpt-4o-mini"
#: Seconds that a contender's client waits for an answer: long, since the machine may be busy.
TIMEOUT: Final = 15.0
PLENTY: Final = 10_000_000
#: Calls that a contender's client has under way at a time, waiting ones included, as batch runners
#: bound them. All at once would measure how long a client takes to make hundreds of requests.
AT_A_TIME: Final = 300

#: Limit -> what it counts, and the seconds of its period.
PERIODS: Final = {
    "rpm": ("requests", 60.0),
    "tpm": ("tokens", 60.0),
    "rpd": ("requests", 86_400.0),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One call: when it comes (seconds from the start), bytes of its prompt, its `max_tokens`."""

    at: float
    size: int
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Another application that spends an organization's quota.

    Args:
        owner: whose.
        per_second: requests that it sends a second.
        size: bytes of each prompt.
        until: seconds after which it stops.
    """

    owner: str
    per_second: float
    size: int = 4
    until: float = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One race.

    Args:
        name: for ``--scenario``.
        title: for the table.
        owners: the true limits, as `MockFleet.simple` takes them.
        jobs: the batch.
        told: what contenders are told of the limits; ``None`` = nothing.
        settings: of the provider.
        faults: orders for the provider.
        dead: owners that serve nothing.
        foreign: who else spends.
        profile: by what formula the provider charges chat completions; ``None`` = the usual one.
        learned: something that is true was not told, so that it must be learned.
        timeout: seconds that a contender's client waits for an answer.
        delays: what counts are the delays of calls, not the time of the batch.
    """

    name: str
    title: str
    owners: Mapping[str, Mapping[str, int]]
    jobs: tuple[Job, ...]
    told: Mapping[str, Mapping[str, int]] | None
    settings: MockSettings = field(default_factory=lambda: SETTINGS)
    faults: tuple[Mapping[str, object], ...] = ()
    dead: frozenset[str] = frozenset()
    foreign: Foreign | None = None
    profile: str | None = None
    learned: bool = False
    timeout: float = TIMEOUT
    delays: bool = False

    def fleet(self) -> MockFleet:
        """Return the provider's accounts; another application has a key of its own."""
        owners = {name: dict(limits) for name, limits in self.owners.items()}
        if self.foreign is not None:
            owners[self.foreign.owner]["keys"] = 2
        profiles = {} if self.profile is None else {"chat": self.profile}
        return MockFleet.simple(owners, models=[ModelSpec(name=MODEL, profiles=profiles)])

    def secrets(self) -> dict[str, str]:
        """Return the contenders' key of each owner."""
        return {name: f"sk-mock-{name}-1" for name in self.owners}

    def charged(self, job: Job) -> int:
        """Return the tokens that the provider charges for a job."""
        output = 1 if self.profile is None else job.max_tokens or 16
        return -(-job.size // 4) + 1 + output

    def bound(self, foreign: int = 0) -> float:
        """Return the fluid bound in seconds, `foreign` requests of another application apart.

        A batch that comes bit by bit isn't done before its last call has come.
        """
        demand = {
            "requests": float(len(self.jobs)),
            "tokens": float(sum(self.charged(job) for job in self.jobs)),
        }
        alive = [self._supplies(name, foreign) for name in self.owners if name not in self.dead]
        return max(fluid_bound(alive, demand), *(job.at for job in self.jobs))

    def _supplies(self, name: str, foreign: int) -> list[Supply]:
        found = []
        for limit, amount in self.owners[name].items():
            metric, period = PERIODS[limit]
            quantum = self.settings.quantise_s if period == 60.0 else None
            burst = None if quantum is None else max(1.0, amount * quantum / period)
            taken = 0.0
            if self.foreign is not None and self.foreign.owner == name:
                each = self.charged(Job(0.0, self.foreign.size)) if metric == "tokens" else 1
                taken = foreign * float(each)
            found.append(
                Supply(metric=metric, limit=amount, period=period, burst=burst, taken=taken)
            )
        return found


SETTINGS: Final = MockSettings(ttft_s=0.03, jitter=0.3, ramp_base_tokens=None)

_UNEQUAL: Final = {"acme": 150, "birch": 90, "cedar": 60}


def _small(count: int, at: float = 0.0) -> tuple[Job, ...]:
    return tuple(Job(at, 40) for _ in range(count))


def _rates(limits: Mapping[str, int], tpm: int = PLENTY) -> dict[str, dict[str, int]]:
    return {name: {"rpm": rpm, "tpm": tpm} for name, rpm in limits.items()}


def _filling(limits: Mapping[str, int], seconds: float) -> int:
    """Return how many units full buckets of a minute yield in so many seconds."""
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
    """Return jobs of 100 to 4,000 tokens, evenly by their logarithm, that take so many in all."""
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
    """Neither owner may serve its share of both: large calls belong to the one, small to the other.

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
        settings=MockSettings(ttft_s=0.03, jitter=0.3, ramp_base_tokens=None, quantise_s=1.0),
        learned=True,
    )


def foreign(seconds: float) -> Scenario:
    owners = _rates(_UNEQUAL)
    share = Foreign(owner="acme", per_second=1.25)
    return Scenario(
        name="foreign",
        title="another application spends half of acme",
        owners=owners,
        told=owners,
        jobs=_small(_filling(_UNEQUAL, seconds) - round(1.25 * seconds)),
        foreign=share,
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
    """Neither headers nor refusals tell of a limit, and none is configured."""
    owners = _rates(_UNEQUAL)
    return Scenario(
        name="silent",
        title="no header tells a limit, none configured",
        owners=owners,
        told=None,
        jobs=_small(_filling(_UNEQUAL, seconds)),
        settings=replace(SETTINGS, tells_limits=False),
        learned=True,
    )


def daily(seconds: float) -> Scenario:
    """Half of a minute's requests, and acme has nothing left for today."""
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
    """Requests are charged by the older formula, which counts `max_tokens` too."""
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
        profile="chat_2024",
        learned=True,
    )


#: Every scenario, by name, as a function of the seconds that it takes at best.
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
    )
}
