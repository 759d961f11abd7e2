"""A request's lease: what is asked of the pool, and how the attempt names what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quotafleet._lease import Lease
from quotafleet.errors import ConfigError
from quotafleet.protocols import Plan
from quotafleet.providers import provider as provider_named
from quotafleet.usage import Demand

from . import _open_attempts
from ._errors import refusal
from ._litellm_filters import STEERING
from ._model_list import Deployment, Selection
from ._open_attempts import Held
from ._requests import plan_of
from ._send_pacing import InFlightPermit
from ._timeouts import seconds


def asks(
    offer: Selection,
    model: str,
    messages: object,
    given: object,
    kwargs: Mapping[str, Any],
) -> tuple[Plan, Demand]:
    """Return what a request will cost, and what that asks of the pool."""
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


def bound(
    lease: Lease,
    plan: Plan,
    offer: Selection,
    kwargs: dict[str, Any],
    passage: InFlightPermit | None = None,
) -> Deployment:
    """Return the deployment of a lease, with the lease's name where the attempt's hooks see it."""
    deployment = offer.deployments[lease.key_id]
    token = _open_attempts.bind(Held(lease, provider_named(lease.provider), plan, passage))
    place = "litellm_metadata" if "litellm_metadata" in kwargs else "metadata"
    metadata = kwargs.get(place)
    if isinstance(metadata, dict):
        metadata[_open_attempts.KEY] = token
    else:
        kwargs[place] = {_open_attempts.KEY: token}
    chat = plan.endpoint == "chat" and place == "metadata"
    if chat and kwargs.get("stream") and lease.provider != "openai":
        # Real usage replaces the estimate at the end; OpenAI's own limits don't look at it.
        kwargs.setdefault("stream_options", {"include_usage": True})
    for name in STEERING:
        kwargs.pop(name, None)
    kwargs["max_retries"] = 0  # the SDK's own retries would stay with a key that refuses
    return {**deployment, "model_info": {**deployment["model_info"], _open_attempts.KEY: token}}


def unleased(lease: Lease, offer: Selection, model: str) -> Deployment:
    """Return the deployment to somebody who only asks, without sending a request."""
    found = offer.deployments.get(lease.key_id)
    if found is None:
        error = ConfigError(
            f"the pool chose {lease.key_id}, which LiteLLM's own rules bar from this request",
            cure="Tags, teams and order need a pool that quotafleet makes of the model_list",
        )
        raise refusal(error, model) from error
    return found


def foreign(found: Any) -> Deployment:
    """Return a deployment that isn't in the ``model_list``: it is used without a lease."""
    deployment: Deployment = found[0] if isinstance(found, list) else found
    return deployment


def timeout_of(router: Any, kwargs: Mapping[str, Any]) -> float | None:
    """Return the seconds that a request may take."""
    value = kwargs.get("timeout")
    if value is None and kwargs.get("stream"):
        value = kwargs.get("stream_timeout") or getattr(router, "stream_timeout", None)
    return seconds(router.timeout if value is None else value)
