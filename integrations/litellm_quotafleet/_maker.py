"""The pools that quotafleet makes of a Router's ``model_list``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quotafleet.owners import Organization, Owners
from quotafleet.pool import KeyPool
from quotafleet.protocols import Store, Strategy
from quotafleet.stores import open_store
from quotafleet.stores.memory import MemoryStore

from ._model_list import Deployment, ModelListFleet, fleet_of


class PoolMaker:
    """Makes fleets of a ``model_list``; what owners have left survives its changes.

    The pools share a store, so that a deployment that stays keeps its buckets.

    Args:
        strategy: a strategy or its name.
        store: a store, or the URL of one that processes share.
    """

    def __init__(self, strategy: Strategy | str, store: Store | str) -> None:
        self._strategy = strategy
        self._owners: Owners | None = None
        opened = open_store(store) if isinstance(store, str) else store
        self._store: Store = opened or MemoryStore(self._limits_for)

    def _limits_for(self, organization: str, project: str | None, family: str) -> Any:
        assert self._owners is not None  # noqa: S101 - the pool asks only once it is made
        return self._owners.limits_for(organization, project, family)

    def __call__(self, model_list: Sequence[Deployment]) -> ModelListFleet:
        return fleet_of(model_list, self._pool)

    def _pool(self, organizations: Sequence[Organization]) -> KeyPool:
        self._owners = Owners(organizations)
        return KeyPool(organizations, strategy=self._strategy, store=self._store)
