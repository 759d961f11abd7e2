"""What one owner may spend on one model family."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from ...limits import MINUTE, Costs, Metric
from .aimd import AimdLimit
from .token_bucket import TokenBucket


class Account:
    """What one owner (an organization, or a project in it) may spend on one model family.

    It is a `Candidate` for strategies. Projects of one organization have accounts of their own
    that share the organization's buckets: the same objects.
    """

    __slots__ = (
        "assumed",
        "buckets",
        "doubts",
        "family",
        "granted",
        "heard_at",
        "in_flight",
        "not_before",
        "organization",
        "project",
    )

    def __init__(self, organization: str, project: str | None, family: str) -> None:
        self.organization = organization
        self.project = project
        self.family = family
        self.buckets: tuple[TokenBucket, ...] = ()
        #: Of limits that an answer stated far below what was known: which request's, and how much.
        self.doubts: dict[str, tuple[int, float]] = {}
        self.in_flight = 0
        self.granted = 0
        #: Nothing is granted before this instant: a refusal that named no bucket of ours.
        self.not_before = -inf
        #: When the headers of an answer were last taken in.
        self.heard_at = -inf
        #: What is found out of its rate, where nobody tells it.
        self.assumed: AimdLimit | None = None

    def __repr__(self) -> str:
        return f"<Account {self.owner} {self.family or '*'}>"

    @property
    def owner(self) -> str:
        """``"acme"`` or ``"acme/research"``."""
        return self.organization if self.project is None else f"{self.organization}/{self.project}"

    def headroom(self, costs: Costs, now: float) -> float:
        """What the scarcest bucket would hold after such a call, as a share of its capacity."""
        # The hot path of a strategy that compares owners: no call for each bucket.
        least = 1.0
        for bucket in self.buckets:
            cost = costs[bucket.metric]
            if cost:
                capacity = bucket.capacity
                level = bucket.level + (now - bucket.at) * bucket.rate
                share = ((level if level < capacity else capacity) - cost) / capacity
                if share < least:
                    least = share
        return least

    def ready_at(self, costs: Costs, now: float) -> float:
        """Return the instant when the call would fit; infinite = never, or not by waiting."""
        ready = self.not_before if self.not_before > now else now
        for bucket in self.buckets:
            cost = costs[bucket.metric]
            if cost:
                at = bucket.ready_at(cost, now)
                if at > ready:
                    ready = at
        return ready

    def worth(self, costs: Sequence[float]) -> float:
        """Return what a call takes of the scarcest limit per minute, in seconds of its rate.

        Where no limit at all is known, a request counts as a second.
        """
        if not self.buckets:
            return costs[Metric.REQUESTS]
        most = 0.0
        for bucket in self.buckets:
            if bucket.period == MINUTE:
                seconds = costs[bucket.metric] / bucket.rate
                if seconds > most:
                    most = seconds
        return most

    def revive(self, now: float, *, is_named: bool) -> bool:
        """Forget what answers taught of it; return whether that had kept calls away.

        Args:
            now: the instant.
            is_named: forget what is no trouble too. A limit that only answers taught goes, and is
                taught again by the next one.
        """
        misled = self.not_before > now or any(bucket.is_misled for bucket in self.buckets)
        if misled or is_named:
            self.not_before = -inf
            self.doubts.clear()
            for bucket in self.buckets:
                bucket.forget(now)
            if self.assumed is not None:
                self.assumed = AimdLimit()
            self.buckets = tuple(b for b in self.buckets if b.configured is not None)
        return misled

    def too_large(self, costs: Costs) -> TokenBucket | None:
        """Return the bucket that would never admit the call, if one is so small."""
        for bucket in self.buckets:
            if bucket.too_large(costs[bucket.metric]):
                return bucket
        return None

    def binding(self, costs: Costs, now: float) -> TokenBucket | None:
        """Return the bucket that the call waits for the longest."""
        late = [(bucket.ready_at(costs[bucket.metric], now), bucket) for bucket in self.buckets]
        at, bucket = max(late, key=lambda pair: pair[0], default=(now, None))
        return bucket if at > now else None


def scope_of(organization: str, project: str | None) -> str:
    """Return the name under which an owner's buckets stand."""
    return organization if project is None else f"{organization}/{project}"
