"""keyfleet under an existing `litellm.Router`: it chooses, waits and reserves in its place.

    KeyfleetRouting.install(router)

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

import litellm

from keyfleet._lease import Lease
from keyfleet._owners import Organization, Owners
from keyfleet._protocols import Plan, Strategy
from keyfleet._usage import Demand
from keyfleet.errors import CannotServe, ConfigError, PoolClosed
from keyfleet.pool import KeyPool
from keyfleet.providers import provider as provider_named
from keyfleet.stores.memory import MemoryStore

from . import _leases, _listener
from ._errors import refusal
from ._gate import Passage, gate
from ._leases import Held
from ._models import Deployment, Fleet, Offer, fleet_in, fleet_of, id_of
from ._requests import plan_of
from ._slots import slots
from ._timeouts import seconds

log: Final = logging.getLogger("keyfleet.litellm")

#: Arguments by which LiteLLM's own selection is steered from attempt to attempt; it takes them
#: out of the request, or they would be sent to the provider.
_STEERING: Final = ("_target_order", "_excluded_deployment_ids", "_retry_skipped_deployment_ids")
#: Arguments that make LiteLLM choose by rules of its own.
_RULED: Final = ("_target_order", "_excluded_deployment_ids", "proxy_server_request")
#: Deployments that LiteLLM is asked for one by one, each at the price of a selection.
_PICKS: Final = 16
#: Options of a Router under which LiteLLM chooses by rules of its own.
_OPTIONS: Final = (
    "enable_pre_call_checks",
    "enable_tag_filtering",
    "enable_health_check_routing",
    "routing_plugins",
    "_routing_groups_input",
    "optional_callbacks",
)


class Router(Protocol):
    """What is used of a `litellm.Router`."""

    model_list: list[Deployment]
    timeout: float | None
    disable_cooldowns: bool | None
    retry_after: float

    def set_custom_routing_strategy(self, CustomRoutingStrategy: Any) -> None:  # noqa: N803
        """Let an object choose deployments."""
        ...


class KeyfleetRouting:
    """What chooses a Router's deployments. Make it by `install`.

    Args:
        router: whose deployments are chosen.
        make: makes the fleet of a ``model_list``.
    """

    def __init__(self, router: Router, make: Callable[[Sequence[Deployment]], Fleet]) -> None:
        self._router: Callable[[], Router | None] = weakref.ref(router)
        self._make = make
        self._fleet = make(router.model_list)
        self._saved: dict[str, Any] = {}
        self._said_lost = False
        self._odd_callbacks: tuple[tuple[int, ...], bool] = ((), False)

    @classmethod
    def install(
        cls,
        router: Any,
        *,
        pool: KeyPool | None = None,
        strategy: Strategy | str = "headroom-weighted",
    ) -> KeyfleetRouting:
        """Let keyfleet choose the deployments of an existing Router, and return what does.

        Args:
            router: a `litellm.Router`.
            pool: a pool of your own, whose keys are the deployments' ``api_key``. ``None`` = one
                is made of the Router's ``model_list``, and follows its changes.
            strategy: for a pool made here: a strategy or its name; see `keyfleet.strategies`.

        Raises:
            ConfigError: no deployment, deployments that don't fit the pool, an unknown strategy.
        """
        installed = router.__dict__.get("async_get_available_deployment")
        if isinstance(getattr(installed, "__self__", None), KeyfleetRouting):
            installed.__self__.uninstall()
        if pool is None:
            make = _Maker(strategy)
            routing = cls(router, make)
        else:
            given = pool
            routing = cls(router, lambda models: fleet_in(models, given))
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
        _listener.begin(self, router)
        slots(router)
        settings = getattr(router, "update_settings", None)
        if callable(settings):
            router.update_settings = _Following(self, settings)

    def _save(self, router: Any, name: str, value: object) -> None:
        if hasattr(router, name):
            self._saved[name] = getattr(router, name)
            setattr(router, name, value)

    def uninstall(self) -> None:
        """Give the Router back its own strategy and settings."""
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
        _listener.end(self)

    def noticed(self) -> None:
        """Say once that the Router doesn't ask this object any more."""
        if not self._said_lost and self._router() is not None and not self.is_installed:
            self._said_lost = True
            log.warning(
                "keyfleet does not choose this Router's deployments any more: its routing_strategy "
                "was changed. Call KeyfleetRouting.install(router) again, or take keyfleet out by "
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
        """Return a deployment with a lease on it; waits for headroom, up to the timeout."""
        router: Any = self._asked()
        kwargs = {} if request_kwargs is None else request_kwargs
        fleet = self._current(router)
        offer = None if self._ruled(router, specific_deployment, kwargs) else fleet.whole(model)
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
                return _foreign(found)
        plan, demand = _asks(offer, model, messages, input, kwargs)
        way = gate()
        await way.turn()
        try:
            lease = await fleet.pool.alease(demand, timeout=_timeout(router, kwargs))
        except (CannotServe, PoolClosed, ConfigError) as error:
            raise refusal(error, model) from error
        if request_kwargs is None or lease.key_id not in offer.deployments:
            await lease.arelease()
            return _unleased(lease, offer, model)
        return _bound(lease, plan, offer, kwargs, way.enter())

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
        another deployment (`_PICKS` times): it has no synchronous function that only filters.
        """
        router: Any = self._asked()
        kwargs = {} if request_kwargs is None else request_kwargs
        fleet = self._current(router)
        offer = None
        if not self._ruled(router, specific_deployment, kwargs, filters=False):
            offer = fleet.whole(model)
        if offer is None:
            found = _picks(router, model, messages, input, specific_deployment, kwargs)
            offer = fleet.part(model, found)
            if offer is None:
                return _foreign(found)
        plan, demand = _asks(offer, model, messages, input, kwargs)
        try:
            lease = fleet.pool.lease(demand, timeout=_timeout(router, kwargs))
        except (CannotServe, PoolClosed, ConfigError) as error:
            raise refusal(error, model) from error
        if request_kwargs is None or lease.key_id not in offer.deployments:
            lease.release()
            return _unleased(lease, offer, model)
        return _bound(lease, plan, offer, kwargs)

    def _asked(self) -> Router:
        router = self._router()
        if router is None:
            raise ConfigError("the Router of this routing is gone", cure="Install on a new one")
        return router

    def _current(self, router: Router) -> Fleet:
        """Return the fleet as the Router's ``model_list`` describes it now."""
        fleet, models = self._fleet, router.model_list
        if len(models) == len(fleet.seen) and all(map(_is, models, fleet.seen)):
            return fleet
        self._fleet = self._make(models)
        return self._fleet

    def _ruled(
        self, router: Any, specific: bool | None, kwargs: dict[str, Any], *, filters: bool = True
    ) -> bool:
        """Whether LiteLLM has rules of its own about who may serve this request.

        `filters`: whether callbacks that filter count; LiteLLM asks them asynchronously only.
        """
        ruled = bool(specific) or any(kwargs.get(name) for name in _RULED)
        if not ruled:
            kwargs.pop("_retry_skipped_deployment_ids", None)  # the pool knows who failed, and why
        if ruled or any(getattr(router, name, None) for name in _OPTIONS):
            return True
        return filters and self._filtered()

    def _filtered(self) -> bool:
        """Whether some other callback filters deployments."""
        callbacks = tuple(map(id, litellm.callbacks))
        if self._odd_callbacks[0] != callbacks:
            self._odd_callbacks = callbacks, any(map(_listener.filters, litellm.callbacks))
        return self._odd_callbacks[1]


class _Maker:
    """Makes fleets of a ``model_list``; what owners have left survives its changes.

    The pools share a store, so that a deployment that stays keeps its buckets.
    """

    def __init__(self, strategy: Strategy | str) -> None:
        self._strategy = strategy
        self._owners: Owners | None = None
        self._store = MemoryStore(self._limits_for)

    def _limits_for(self, organization: str, project: str | None, family: str) -> Any:
        assert self._owners is not None  # noqa: S101 - the pool asks only once it is made
        return self._owners.limits_for(organization, project, family)

    def __call__(self, model_list: Sequence[Deployment]) -> Fleet:
        return fleet_of(model_list, self._pool)

    def _pool(self, organizations: Sequence[Organization]) -> KeyPool:
        self._owners = Owners(organizations)
        return KeyPool(organizations, strategy=self._strategy, store=self._store)


class _Following:
    """`Router.update_settings`, followed by a look at what it did to the install."""

    def __init__(self, routing: KeyfleetRouting, original: Callable[..., Any]) -> None:
        self._routing = routing
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._original(*args, **kwargs)
        router = getattr(self._original, "__self__", None)
        if router is not None:
            self._routing.reassert(router)
        return result


def _picks(
    router: Any,
    model: str,
    messages: object,
    given: object,
    specific: bool | None,
    kwargs: dict[str, Any],
) -> list[Deployment]:
    """Return the deployments that LiteLLM lets serve, as far as it tells; at least one.

    Raises:
        Exception: LiteLLM's own, where it lets none.
    """
    steering: dict[str, Any] = {name: kwargs[name] for name in _STEERING if name in kwargs}
    barred = list(steering.get("_excluded_deployment_ids") or ())
    found: dict[str, Deployment] = {}
    for _ in range(_PICKS):
        kwargs.update(steering, _excluded_deployment_ids=[*barred, *found])
        try:
            one = type(router).get_available_deployment(
                router,
                model=model,
                messages=messages,
                input=given,
                specific_deployment=specific,
                request_kwargs=kwargs,
            )
        except Exception:  # no more: RouterRateLimitError, in some versions others
            if not found:
                raise
            break
        if id_of(one) in found:  # asked for by its id, or a version that doesn't exclude
            break
        found[id_of(one)] = one
    return list(found.values())


def _asks(
    offer: Offer,
    model: str,
    messages: object,
    given: object,
    kwargs: Mapping[str, Any],
) -> tuple[Plan, Demand]:
    plan = plan_of(offer.provider, offer.mode, messages, given, kwargs)
    asked = plan.demand
    demand = Demand(
        model=offer.lane,
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
        images=asked.images,
        requests=asked.requests,
        spend=asked.spend,
    )
    return plan, demand


def _bound(
    lease: Lease,
    plan: Plan,
    offer: Offer,
    kwargs: dict[str, Any],
    passage: Passage | None = None,
) -> Deployment:
    """Return the deployment of a lease, with the lease's name where the attempt's hooks see it."""
    deployment = offer.deployments[lease.key_id]
    token = _leases.bind(Held(lease, provider_named(lease.provider), plan, passage))
    place = "litellm_metadata" if "litellm_metadata" in kwargs else "metadata"
    metadata = kwargs.get(place)
    if isinstance(metadata, dict):
        metadata[_leases.KEY] = token
    else:
        kwargs[place] = {_leases.KEY: token}
    chat = plan.endpoint == "chat" and place == "metadata"
    if chat and kwargs.get("stream") and lease.provider != "openai":
        # Real usage replaces the estimate at the end; OpenAI's own limits don't look at it.
        kwargs.setdefault("stream_options", {"include_usage": True})
    for name in _STEERING:
        kwargs.pop(name, None)
    kwargs["max_retries"] = 0  # the SDK's own retries would stay with a key that refuses
    return {**deployment, "model_info": {**deployment["model_info"], _leases.KEY: token}}


def _unleased(lease: Lease, offer: Offer, model: str) -> Deployment:
    """Return the deployment to somebody who only asks, without sending a request."""
    found = offer.deployments.get(lease.key_id)
    if found is None:
        error = ConfigError(
            f"the pool chose {lease.key_id}, which LiteLLM's own rules bar from this request",
            cure="Tags, teams and order need a pool that keyfleet makes of the model_list",
        )
        raise refusal(error, model) from error
    return found


def _foreign(found: Any) -> Deployment:
    """Return a deployment that isn't in the ``model_list``: it is used without a lease."""
    deployment: Deployment = found[0] if isinstance(found, list) else found
    return deployment


def _timeout(router: Any, kwargs: Mapping[str, Any]) -> float | None:
    """Return the seconds a request may wait: as long as it may take."""
    value = kwargs.get("timeout")
    if value is None and kwargs.get("stream"):
        value = kwargs.get("stream_timeout") or getattr(router, "stream_timeout", None)
    return seconds(router.timeout if value is None else value)


def _is(one: object, other: object) -> bool:
    return one is other
