"""The state of the mock provider's accounts: money spent, and the level of every bucket.

A `LimitChain` holds the limits that one key's calls to one model draw on, in the order in which the
provider checks them. Two keys of one organization have two chains with the same buckets. A chain is
built once and kept; admission walks along it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import Final

from .bucket import MockBucket, MockWindow
from .cost import PROFILES, CostProfile, RequestSize
from .errors import LimitOwner
from .fleet import MockFleet
from .settings import MockSettings
from .specs import (
    ANY,
    CoConsumer,
    LimitRules,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    ModelSpec,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitDimension:
    """A kind of limit: its field in `MockModelLimits`, its index in a cost, and its label."""

    name: str
    index: int
    period_s: float
    label: str
    type: str
    header: str | None


# The order is that in which the provider checks. A cost is a tuple in the same order.
DIMENSIONS: Final = (
    LimitDimension(
        name="rpm",
        index=0,
        period_s=60,
        label="requests per min (RPM)",
        type="requests",
        header="requests",
    ),
    LimitDimension(
        name="rpd",
        index=1,
        period_s=86_400,
        label="requests per day (RPD)",
        type="requests",
        header="requests",
    ),
    LimitDimension(
        name="input_images",
        index=2,
        period_s=60,
        label="input-images per min",
        type="input-images",
        header="input-images",
    ),
    LimitDimension(
        name="ipm",
        index=3,
        period_s=60,
        label="input-images per min",
        type="input-images",
        header=None,
    ),
    LimitDimension(
        name="tpm",
        index=4,
        period_s=60,
        label="tokens per min (TPM)",
        type="tokens",
        header="tokens",
    ),
    LimitDimension(
        name="tpd",
        index=5,
        period_s=86_400,
        label="tokens per day (TPD)",
        type="tokens",
        header="tokens",
    ),
)
RPM: Final = 0
TOKEN_DIMENSIONS: Final = (4, 5)


class MeteredLimit:
    """One limit on a chain: the limiter that headers show, and those that decide.

    `shown` has the limit's own period. `enforced` is `shown` alone, `shown` with a bucket of a
    shorter window, or a window in its place.
    """

    __slots__ = ("dimension", "enforced", "index", "name", "of_project", "rules", "shown")

    def __init__(
        self,
        dimension: LimitDimension,
        limit: int,
        rules: LimitRules,
        *,
        name: str,
        of_project: bool,
        now: float,
    ) -> None:
        self.dimension = dimension
        self.index = dimension.index
        self.rules = rules
        self.name = name  # owner/family/dimension, in reports
        self.of_project = of_project
        self.shown: MockBucket | MockWindow = MockBucket(limit, dimension.period_s, now=now)
        self.enforced: tuple[MockBucket | MockWindow, ...] = (self.shown,)
        if dimension.period_s == 60:
            self._enforce(limit, rules, now)

    def _enforce(self, limit: int, rules: LimitRules, now: float) -> None:
        window_s = rules.window_s or 60.0
        units = max(1.0, limit * window_s / 60)
        if rules.enforced in ("sliding", "fixed"):
            sliding = rules.enforced == "sliding"
            window = MockWindow(units, window_s, now=now, sliding=sliding)
            self.enforced = (window,)
            if window_s == 60:
                self.shown = window
            return
        if rules.enforced == "single" and self.dimension.type == "requests":
            units = 1.0
        if units < limit:
            self.enforced = (self.shown, MockBucket(limit, 60, now=now, capacity=units))

    def refill(self, now: float) -> None:
        """Bring every limiter up to `now`."""
        self.shown.refill(now)
        for limiter in self.enforced:
            limiter.refill(now)

    def take(self, units: float) -> None:
        """Remove units from every limiter."""
        for limiter in self.enforced:
            limiter.take(units)
        if self.shown not in self.enforced:
            self.shown.take(units)

    def wait_s(self, need: float) -> float:
        """Return the seconds until `need` units fit; 0: they fit now.

        A request larger than a short window passes when that window is full.
        """
        wait = 0.0
        for limiter in self.enforced:
            least = need if limiter is self.shown else min(need, limiter.capacity)
            if not limiter.holds(least):
                wait = max(wait, limiter.wait_s(least))
        return wait

    def charge_refusal(self) -> float:
        """Remove what a refused request costs, and return it.

        A counted refusal never digs a debt, which would make the stated delay untrue, and leaves
        short windows alone; an owed one takes a unit from every limiter.
        """
        if self.rules.refusals == "owed":
            self.take(1)
            return 1.0
        if self.rules.refusals == "free":
            return 0.0
        limiter = self.shown if self.shown in self.enforced else self.enforced[0]
        units = min(1.0, max(0.0, limiter.level))
        limiter.take(units)
        return units


class RampGuard:
    """The guard against traffic that grows too fast, on input tokens per minute."""

    __slots__ = ("_base", "_current", "_minute", "_past", "allowed")

    def __init__(self, base: int) -> None:
        self._base = base
        self._past: deque[tuple[int, int]] = deque()
        self._minute = 0
        self._current = 0
        self.allowed: float = base

    def admits(self, now: float, tokens: int) -> bool:
        """Count the tokens into this minute, unless they are too many for it."""
        minute = int(now // 60)
        if minute != self._minute:
            self._turn(minute)
        if self._current + tokens > self.allowed:
            return False
        self._current += tokens
        return True

    def _turn(self, minute: int) -> None:
        self._past.append((self._minute, self._current))
        while self._past and self._past[0][0] < minute - 15:
            self._past.popleft()
        best = max((tokens for _, tokens in self._past), default=0)
        self.allowed = max(self._base, 1.5 * best)
        self._minute, self._current = minute, 0


class OrganizationState:
    """What an organisation spent."""

    __slots__ = ("credits_usd", "month_spend_usd", "spec")

    def __init__(self, spec: MockOrganization) -> None:
        self.spec = spec
        self.credits_usd = spec.credits_usd
        self.month_spend_usd = spec.month_spend_usd

    def spend(self, usd: Decimal) -> None:
        """Bill a call."""
        self.month_spend_usd += usd
        if self.credits_usd is not None:
            self.credits_usd -= usd


class ProjectState:
    """What a project spent."""

    __slots__ = ("month_spend_usd", "spec")

    def __init__(self, spec: MockProject) -> None:
        self.spec = spec
        self.month_spend_usd = spec.month_spend_usd


class KeyState:
    """What became of a key's requests."""

    __slots__ = ("admitted", "in_flight", "org", "project", "rejected", "revoked", "spec")

    def __init__(self, spec: MockKey, project: ProjectState, org: OrganizationState) -> None:
        self.spec = spec
        self.project = project
        self.org = org
        self.revoked = spec.revoked
        self.admitted = 0
        self.in_flight = 0
        self.rejected: Counter[str] = Counter()


# Requests and tokens admitted in each second, by second since the provider started.
AdmittedPerSecond = dict[int, list[int]]
Cost = tuple[int, ...]  # units of each dimension, in the order of `DIMENSIONS`


class LimitChain:
    """The limits that one key's calls to one model draw on, in the order of their checks."""

    __slots__ = ("admitted", "key", "meters", "model", "ramp", "rules", "shown", "spec", "where")

    def __init__(
        self,
        key: KeyState,
        spec: ModelSpec,
        model: str,
        meters: list[MeteredLimit],
        rules: LimitRules,
    ) -> None:
        self.key = key
        self.spec = spec
        self.model = model
        self.meters = tuple(meters)
        self.rules = rules
        self.shown = tuple(_shown(meters))
        self.admitted: tuple[AdmittedPerSecond, ...] = ()
        self.ramp: RampGuard | None = None
        family = spec.family or spec.name
        self.where = LimitOwner(
            model=model,
            org=key.org.spec.id,
            family=None if family == model else family,
            free=key.org.spec.tier == "free",
        )

    def meter(self, index: int) -> MeteredLimit | None:
        """Return the first limit of that dimension."""
        return next((one for one in self.meters if one.index == index), None)

    def profile(self, endpoint: str, usual: str) -> CostProfile:
        """Return how an endpoint's tokens are charged: by owner, by model, or as usual."""
        name = self.rules.profiles.get(endpoint) or self.spec.profiles.get(endpoint)
        return PROFILES[name or usual]

    def charge(self, cost: Cost, now: float) -> MeteredLimit | None:
        """Debit every limit, or none and return the first that is short."""
        short: MeteredLimit | None = None
        for meter in self.meters:
            meter.refill(now)
            need = cost[meter.index]
            if need and short is None and meter.wait_s(need) > 0:
                short = meter
        if short is None:
            for meter in self.meters:
                need = cost[meter.index]
                if need:
                    meter.take(need)
        return short

    def charge_refusal(self) -> float:
        """Remove what a refused request costs, and return it in requests."""
        return max((m.charge_refusal() for m in self.meters if m.index == RPM), default=0.0)

    def levels(self) -> tuple[float, ...]:
        """Return the levels that headers show."""
        return tuple([limiter.level for _, limiter in self.shown])


class CoConsumerState:
    """Another application's requests: when the next one comes, and what they took."""

    __slots__ = ("admitted", "chain", "next_at", "refused", "requests", "spec", "tokens")

    def __init__(self, spec: CoConsumer, chain: LimitChain, *, now: float) -> None:
        self.spec = spec
        self.chain = chain
        self.next_at = now + spec.start_s
        self.admitted = 0
        self.refused = 0
        self.requests = 0.0  # units taken of the limits, refused requests included
        self.tokens = 0

    def send(self) -> None:
        """Charge the request that is due."""
        size = RequestSize(text_bytes=self.spec.text_bytes, messages=1)
        profile = self.chain.profile("chat", "chat_2025")
        tokens = profile.estimate(size, self.chain.spec.name)
        if self.chain.charge((1, 1, 0, 0, tokens, tokens), self.next_at) is None:
            self.admitted += 1
            self.requests += 1
            self.tokens += tokens
        else:
            self.refused += 1
            self.requests += self.chain.charge_refusal()
        self.next_at += 1 / self.spec.per_second


def _shown(meters: list[MeteredLimit]) -> Iterator[tuple[str, MockBucket | MockWindow]]:
    """Yield the limiters that headers show, by the headers' suffix.

    Where there is a limit per day, `-requests` shows that one (all 118 recorded answers of such
    models); tokens are shown per minute.
    """
    chosen: dict[str, MeteredLimit] = {}
    for meter in meters:
        header = meter.dimension.header
        if header is None:
            continue
        name = f"project-{header}" if meter.of_project else header
        if name not in chosen or meter.dimension.name == "rpd":
            chosen[name] = meter
    for name in ("requests", "tokens", "input-images", "project-requests", "project-tokens"):
        if name in chosen:
            yield name, chosen[name].shown


class AccountStates:
    """All state, made from a fleet; chains and their limits are created at first use."""

    def __init__(self, fleet: MockFleet, settings: MockSettings, *, now: float) -> None:
        self.settings = settings
        self.started_at = now
        self.orgs = {one.id: OrganizationState(one) for one in fleet.orgs}
        self.projects = {one.id: ProjectState(one) for one in fleet.projects}
        self.keys = {key.secret: self._key(key) for key in fleet.keys}
        self.models: Mapping[str, ModelSpec] = {
            name: model for model in fleet.models for name in (model.name, *model.aliases)
        }
        self.meters: dict[str, MeteredLimit] = {}
        self.admitted: dict[str, AdmittedPerSecond] = {}
        self.ramps: dict[str, RampGuard] = {}
        self.files: dict[str, tuple[dict[str, object], bytes]] = {}
        self.files_made = 0
        self._chains: dict[tuple[str, str, bool], LimitChain] = {}
        self.co_consumers = [
            CoConsumerState(spec, self._shared_chain(org, spec.model), now=now)
            for org in self.orgs.values()
            for spec in org.spec.co_consumers
        ]

    def _shared_chain(self, org: OrganizationState, model: str) -> LimitChain:
        """Return the chain of an application outside the fleet, in a project without limits."""
        project = ProjectState(MockProject(id="proj_other", org=org.spec.id))
        key = MockKey(name="other", secret="", project="proj_other")
        return self._build(KeyState(key, project, org), self.models[model], model)

    def catch_up(self, now: float) -> None:
        """Charge what other applications have sent by `now`, in the order of time."""
        while self.co_consumers:
            first = min(self.co_consumers, key=lambda one: one.next_at)
            if first.next_at > now:
                return
            end_s = first.spec.end_s
            if end_s is not None and first.next_at >= self.started_at + end_s:
                first.next_at = inf
            else:
                first.send()

    def _key(self, key: MockKey) -> KeyState:
        project = self.projects[key.project]
        return KeyState(key, project, self.orgs[project.spec.org])

    def named(self, name: str) -> KeyState | None:
        """Find a key by its name or secret."""
        found = self.keys.get(name)
        return found or next((k for k in self.keys.values() if k.spec.name == name), None)

    def chain(self, key: KeyState, model: str, input_tokens: int) -> LimitChain | None:
        """Return the lane of a key to a model, or None if there is no such model."""
        spec = self.models.get(model)
        if spec is None:
            return None
        long = spec.long_context is not None and input_tokens > spec.long_context.threshold
        path = (key.spec.secret, model, long)
        found = self._chains.get(path)
        if found is None:
            found = self._chains[path] = self._build(key, spec, model, long=long)
        return found

    def _build(
        self, key: KeyState, spec: ModelSpec, model: str, *, long: bool = False
    ) -> LimitChain:
        org, project = key.org.spec, key.project.spec
        family = spec.family or spec.name
        kind = f"{family}-long-context" if long else family
        own = _own_limits(project.overrides, kind, family if not long else None)
        common = _own_limits(org.limits, kind, family if not long else None)
        usual = spec.long_context.limits if long and spec.long_context else spec.limits
        rules = org.rules.get(family) or org.rules.get(ANY) or self.settings.rules
        meters = [
            *self._meters(project.id, kind, own, rules),
            *self._meters(org.id, kind, common or usual, rules),
        ]
        chain = LimitChain(key, spec, model, meters, rules)
        owners = (org.id, project.id) if own else (org.id,)
        chain.admitted = tuple(self.admitted.setdefault(f"{one}/{kind}", {}) for one in owners)
        if self.settings.ramp_base_tokens is not None:
            ramp = RampGuard(self.settings.ramp_base_tokens)
            chain.ramp = self.ramps.setdefault(f"{org.id}/{kind}", ramp)
        return chain

    def _meters(
        self,
        owner: str,
        family: str,
        limits: MockModelLimits | None,
        rules: LimitRules,
    ) -> Iterator[MeteredLimit]:
        for dimension in DIMENSIONS:
            limit: int | None = getattr(limits, dimension.name, None)
            if limit is None:
                continue
            name = f"{owner}/{family}/{dimension.name}"
            if name not in self.meters:
                of_project = owner in self.projects
                self.meters[name] = MeteredLimit(
                    dimension, limit, rules, name=name, of_project=of_project, now=self.started_at
                )
            yield self.meters[name]


def _own_limits(
    given: Mapping[str, MockModelLimits], family: str, plain: str | None
) -> MockModelLimits | None:
    """Return an owner's limits of a family; `ANY` does not include long contexts."""
    return given.get(family) or (given.get(ANY) if plain else None)
