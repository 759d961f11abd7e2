"""quotafleet under an existing `litellm.Router`: it chooses, waits and reserves in its place.

    QuotafleetRouting.install(router)

A deployment is chosen and a lease held for it where the Router asks its routing strategy for one;
the lease ends by whichever of LiteLLM's hooks tells first (`_listener`). LiteLLM's own cooldowns,
per-deployment limits and hidden retries are off meanwhile: two opinions contradict each other. Its
`num_retries`, which tries another deployment after a failure, and its fallbacks stay as they are.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from quotafleet.errors import CannotServe, ConfigError, PoolClosed
from quotafleet.pool import KeyPool
from quotafleet.protocols import Store, Strategy

from . import _callbacks
from ._attempt_end import slots
from ._errors import refusal
from ._litellm_filters import LiteLLMFilters, picks
from ._maker import PoolMaker
from ._model_list import Deployment, ModelListFleet, fleet_in
from ._router_leases import asks, bound, foreign, timeout_of, unleased
from ._send_pacing import gate

log: Final = logging.getLogger("quotafleet.litellm")


class Router(Protocol):
    """What is used of a `litellm.Router`."""

    model_list: list[Deployment]
    timeout: float | None
    disable_cooldowns: bool | None
    retry_after: float

    def set_custom_routing_strategy(self, CustomRoutingStrategy: Any) -> None:  # noqa: N803
        """Let an object choose deployments."""
        ...


class QuotafleetRouting:
    """What chooses a Router's deployments. Make it by `install`.

    Args:
        router: whose deployments are chosen.
        make: makes the fleet of a ``model_list``.
        wait_timeout: seconds that a call may wait for headroom; ``None`` = its `timeout`.
    """

    def __init__(
        self,
        router: Router,
        make: Callable[[Sequence[Deployment]], ModelListFleet],
        wait_timeout: float | None = None,
    ) -> None:
        self._router: Callable[[], Router | None] = weakref.ref(router)
        self._make = make
        self._wait_timeout = wait_timeout
        self._fleet = make(router.model_list)
        self._saved: dict[str, Any] = {}
        self._said_lost = False
        self._rules = LiteLLMFilters()

    @classmethod
    def install(
        cls,
        router: Any,
        *,
        pool: KeyPool | None = None,
        strategy: Strategy | str = "headroom-weighted",
        store: Store | str = "memory",
        wait_timeout: float | None = None,
    ) -> QuotafleetRouting:
        """Let quotafleet choose the deployments of an existing Router, and return what does.

        Args:
            router: a `litellm.Router`.
            pool: a pool of your own, whose keys are the deployments' ``api_key``. ``None`` = one
                is made of the Router's ``model_list``, and follows its changes.
            strategy: for a pool made here: a strategy or its name; see `quotafleet.strategies`.
            store: for a pool made here: where its buckets live, or the URL of a store that
                processes share, such as ``"redis://..."``.
            wait_timeout: seconds that each attempt may wait for headroom, apart from the `timeout`
                of its request. ``None`` = as long as that.

        Raises:
            ConfigError: no deployment, deployments that don't fit the pool, an unknown strategy,
                a store that can't be opened, a `wait_timeout` that is not positive.
        """
        if wait_timeout is not None and not wait_timeout > 0:
            raise ConfigError(
                f"wait_timeout is {wait_timeout!r}, and a call may not wait at all",
                cure="Give seconds above 0, or leave it out: a call waits at most its timeout",
            )
        installed = router.__dict__.get("async_get_available_deployment")
        if isinstance(getattr(installed, "__self__", None), QuotafleetRouting):
            installed.__self__.uninstall()
        if pool is None:
            make = PoolMaker(strategy, store)
            routing = cls(router, make, wait_timeout)
        else:
            given = pool
            routing = cls(router, lambda models: fleet_in(models, given), wait_timeout)
        routing._take_over(router)
        return routing

    # Facts

    @property
    def pool(self) -> KeyPool:
        """The pool that schedules; a new one after the ``model_list`` changed."""
        return self._fleet.pool

    @property
    def is_installed(self) -> bool:
        """Whether the Router still asks this object."""
        router = self._router()
        if router is None:
            return False
        chosen = router.__dict__.get("async_get_available_deployment")
        return getattr(chosen, "__self__", None) is self

    # Installing

    def _take_over(self, router: Any) -> None:
        router.set_custom_routing_strategy(self)
        self._save(router, "disable_cooldowns", True)
        self._save(router, "retry_after", 0)
        _callbacks.begin(self, router)
        slots(router)
        settings = getattr(router, "update_settings", None)
        if callable(settings):
            router.update_settings = _Following(self, settings)

    def _save(self, router: Any, name: str, value: object) -> None:
        if hasattr(router, name):
            self._saved[name] = getattr(router, name)
            setattr(router, name, value)

    def uninstall(self) -> None:
        """Give the Router back its own strategy and settings.

        The pool stays open for leases that are out; `KeyPool.close` lets go of a shared store.
        """
        router: Any = self._router()
        if router is None:
            return
        for name in ("get_available_deployment", "async_get_available_deployment"):
            if getattr(router.__dict__.get(name), "__self__", None) is self:
                delattr(router, name)
        for name in ("_get_client", "update_settings"):
            router.__dict__.pop(name, None)
        for name, value in self._saved.items():
            setattr(router, name, value)
        self._saved.clear()
        _callbacks.end(self)

    def noticed(self) -> None:
        """Say once that the Router doesn't ask this object any more."""
        if not self._said_lost and self._router() is not None and not self.is_installed:
            self._said_lost = True
            log.warning(
                "quotafleet no longer chooses this Router's deployments: its routing_strategy was "
                "changed. Call QuotafleetRouting.install(router) again, or take quotafleet out by "
                "uninstall()"
            )

    def reassert(self, router: Any) -> None:
        """Take note of changed settings: LiteLLM's own cooldowns stay off."""
        self.noticed()
        if self.is_installed:
            router.disable_cooldowns = True
            router.retry_after = 0

    # Choosing

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Deployment:
        """Return a deployment with a lease on it; waits for headroom, up to the time-out."""
        router: Any = self._asked()
        kwargs = {} if request_kwargs is None else request_kwargs
        fleet = self._current(router)
        offer = None
        if not self._rules.apply(router, specific_deployment, kwargs):
            offer = fleet.whole(model)
        if offer is None:
            found = await router.async_get_healthy_deployments(
                model=model,
                request_kwargs=kwargs,
                messages=messages,
                input=input,
                specific_deployment=specific_deployment,
            )
            offer = fleet.part(model, [found] if isinstance(found, dict) else found)
            if offer is None:
                return foreign(found)
        plan, demand = asks(offer, model, messages, input, kwargs)
        way = gate()
        await way.turn()
        try:
            lease = await fleet.pool.alease(demand, timeout=self._may_wait(router, kwargs))
        except (CannotServe, PoolClosed, ConfigError) as error:
            raise refusal(error, model) from error
        if request_kwargs is None or lease.key_id not in offer.deployments:
            await lease.arelease()
            return unleased(lease, offer, model)
        return bound(lease, plan, offer, kwargs, way.enter())

    def get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Deployment:
        """Do as `async_get_available_deployment`, in this thread.

        Where LiteLLM has rules of its own about who may serve, it is asked again and again for
        another deployment (see `_rules`): it has no synchronous function that only filters.
        """
        router: Any = self._asked()
        kwargs = {} if request_kwargs is None else request_kwargs
        fleet = self._current(router)
        offer = None
        if not self._rules.apply(router, specific_deployment, kwargs, filters=False):
            offer = fleet.whole(model)
        if offer is None:
            found = picks(router, model, messages, input, specific_deployment, kwargs)
            offer = fleet.part(model, found)
            if offer is None:
                return foreign(found)
        plan, demand = asks(offer, model, messages, input, kwargs)
        try:
            lease = fleet.pool.lease(demand, timeout=self._may_wait(router, kwargs))
        except (CannotServe, PoolClosed, ConfigError) as error:
            raise refusal(error, model) from error
        if request_kwargs is None or lease.key_id not in offer.deployments:
            lease.release()
            return unleased(lease, offer, model)
        return bound(lease, plan, offer, kwargs)

    def _may_wait(self, router: Any, kwargs: Mapping[str, Any]) -> float | None:
        return timeout_of(router, kwargs) if self._wait_timeout is None else self._wait_timeout

    def _asked(self) -> Router:
        router = self._router()
        if router is None:
            raise ConfigError("the Router of this routing is gone", cure="Install on a new one")
        _callbacks.listen()  # whoever replaced `litellm.callbacks` since has left it out
        return router

    def _current(self, router: Router) -> ModelListFleet:
        """Return the fleet as the Router's ``model_list`` describes it now."""
        fleet, models = self._fleet, router.model_list
        if len(models) == len(fleet.seen) and all(map(_is, models, fleet.seen)):
            return fleet
        self._fleet = self._make(models)
        return self._fleet


class _Following:
    """`Router.update_settings`, followed by a look at what it did to the install."""

    def __init__(self, routing: QuotafleetRouting, original: Callable[..., Any]) -> None:
        self._routing = routing
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._original(*args, **kwargs)
        router = getattr(self._original, "__self__", None)
        if router is not None:
            self._routing.reassert(router)
        return result


def _is(one: object, other: object) -> bool:
    return one is other
