"""LiteLLM's own rules about who may serve a request: tags, teams, order, checks, other callbacks.

Where there are some, LiteLLM is asked first, and the pool chooses among what it leaves.
"""

from __future__ import annotations

from typing import Any, Final

import litellm

from . import _callbacks
from ._model_list import Deployment, id_of

#: Arguments by which LiteLLM's own selection is steered from attempt to attempt; it takes them
#: out of the request, or they would be sent to the provider.
STEERING: Final = ("_target_order", "_excluded_deployment_ids", "_retry_skipped_deployment_ids")
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


class LiteLLMFilters:
    """What rules a Router has; it remembers what it found out about callbacks."""

    def __init__(self) -> None:
        self._callbacks: tuple[tuple[int, ...], bool] = ((), False)

    def apply(
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
        if self._callbacks[0] != callbacks:
            self._callbacks = callbacks, any(map(_callbacks.filters, litellm.callbacks))
        return self._callbacks[1]


def picks(
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
    steering: dict[str, Any] = {name: kwargs[name] for name in STEERING if name in kwargs}
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
