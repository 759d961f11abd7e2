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
from typing import Final

from .bucket import MockBucket, burst_bucket
from .errors import LimitOwner
from .fleet import (
    ANY,
    MockFleet,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    ModelSpec,
)
from .settings import MockSettings


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
    """One bucket on a lane, with the short-window twin that a quantised limit has."""

    __slots__ = ("bucket", "burst", "dimension", "index", "name", "of_project")

    def __init__(
        self,
        dimension: LimitDimension,
        bucket: MockBucket,
        *,
        burst: MockBucket | None,
        name: str,
        of_project: bool,
    ) -> None:
        self.dimension = dimension
        self.index = dimension.index
        self.bucket = bucket
        self.burst = burst
        self.name = name  # owner/family/dimension, in reports
        self.of_project = of_project

    def take(self, units: float) -> None:
        """Remove units from both buckets."""
        self.bucket.take(units)
        if self.burst is not None:
            self.burst.take(units)

    def wait_s(self, need: float) -> float:
        """Seconds until `need` units fit; 0 = now."""
        wait = 0.0 if self.bucket.holds(need) else self.bucket.wait_s(need)
        if self.burst is None:
            return wait
        # A request larger than the short window passes when that window is full.
        least = min(need, self.burst.capacity)
        return wait if self.burst.holds(least) else max(wait, self.burst.wait_s(least))


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
Pulse = dict[int, list[int]]


class LimitChain:
    """The way of one key to one model."""

    __slots__ = ("key", "meters", "model", "pulses", "ramp", "shown", "spec", "where")

    def __init__(
        self, key: KeyState, spec: ModelSpec, model: str, meters: list[MeteredLimit]
    ) -> None:
        self.key = key
        self.spec = spec
        self.model = model
        self.meters = tuple(meters)
        self.shown = tuple(_shown(meters))
        self.pulses: tuple[Pulse, ...] = ()
        self.ramp: RampGuard | None = None
        family = spec.family or spec.name
        self.where = LimitOwner(
            model=model,
            org=key.org.spec.id,
            family=None if family == model else family,
            free=key.org.spec.tier == "free",
        )

    def meter(self, index: int) -> MeteredLimit | None:
        """Return the first meter of that dimension."""
        return next((one for one in self.meters if one.index == index), None)


def _shown(meters: list[MeteredLimit]) -> Iterator[tuple[str, MockBucket]]:
    """Choose the buckets that headers show.

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
            yield name, chosen[name].bucket


class AccountStates:
    """All state, made from a fleet; lanes and buckets come into being when first used."""

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
        self.pulses: dict[str, Pulse] = {}
        self.ramps: dict[str, RampGuard] = {}
        self.files: dict[str, tuple[dict[str, object], bytes]] = {}
        self.files_made = 0
        self._chains: dict[tuple[str, str, bool], LimitChain] = {}

    def _key(self, key: MockKey) -> KeyState:
        project = self.projects[key.project]
        return KeyState(key, project, self.orgs[project.spec.org])

    def named(self, name: str) -> KeyState | None:
        """Find a key by its name or secret."""
        found = self.keys.get(name)
        return found or next((k for k in self.keys.values() if k.spec.name == name), None)

    def chain(self, key: KeyState, model: str, input_tokens: int, now: float) -> LimitChain | None:
        """Return the lane of a key to a model, or None if there is no such model."""
        spec = self.models.get(model)
        if spec is None:
            return None
        long = spec.long_context is not None and input_tokens > spec.long_context.threshold
        path = (key.spec.secret, model, long)
        found = self._chains.get(path)
        if found is None:
            found = self._chains[path] = self._build(key, spec, model, long=long, now=now)
        return found

    def _build(
        self, key: KeyState, spec: ModelSpec, model: str, *, long: bool, now: float
    ) -> LimitChain:
        org, project = key.org.spec, key.project.spec
        family = spec.family or spec.name
        kind = f"{family}-long-context" if long else family
        own = _own_limits(project.overrides, kind, family if not long else None)
        common = _own_limits(org.limits, kind, family if not long else None)
        usual = spec.long_context.limits if long and spec.long_context else spec.limits
        meters = [
            *self._meters(project.id, kind, own, now, of_project=True),
            *self._meters(org.id, kind, common or usual, now, of_project=False),
        ]
        chain = LimitChain(key, spec, model, meters)
        owners = (org.id, project.id) if own else (org.id,)
        chain.pulses = tuple(self.pulses.setdefault(f"{one}/{kind}", {}) for one in owners)
        if self.settings.ramp_base_tokens is not None:
            ramp = RampGuard(self.settings.ramp_base_tokens)
            chain.ramp = self.ramps.setdefault(f"{org.id}/{kind}", ramp)
        return chain

    def _meters(
        self,
        owner: str,
        family: str,
        limits: MockModelLimits | None,
        now: float,
        *,
        of_project: bool,
    ) -> Iterator[MeteredLimit]:
        for dimension in DIMENSIONS:
            limit: int | None = getattr(limits, dimension.name, None)
            if limit is None:
                continue
            name = f"{owner}/{family}/{dimension.name}"
            if name not in self.meters:
                self.meters[name] = MeteredLimit(
                    dimension,
                    MockBucket(limit, dimension.period_s, now=now),
                    burst=self._burst(limit, dimension, now),
                    name=name,
                    of_project=of_project,
                )
            yield self.meters[name]

    def _burst(self, limit: int, dimension: LimitDimension, now: float) -> MockBucket | None:
        quantum_s = self.settings.quantise_s
        if quantum_s is None or dimension.period_s != 60:
            return None
        return burst_bucket(limit, dimension.period_s, quantum_s, now=now)


def _own_limits(
    given: Mapping[str, MockModelLimits], family: str, plain: str | None
) -> MockModelLimits | None:
    """Return what an owner set for a family; `ANY` does not speak for a long context."""
    return given.get(family) or (given.get(ANY) if plain else None)
