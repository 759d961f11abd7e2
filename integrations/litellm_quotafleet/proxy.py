"""quotafleet under LiteLLM's Proxy, by one line of its configuration.

    litellm_settings:
      callbacks: ["litellm_quotafleet.proxy_handler"]

The Proxy has no setting for a routing strategy of one's own (open: BerriAI/litellm#25297), so the
handler installs quotafleet on the Proxy's Router when the first request comes, and again whenever
the Proxy made a new one or changed its strategy.

``QUOTAFLEET_CONFIG`` names a configuration file whose keys are the deployments' credentials.
Without it, the pool is built from the Proxy's ``model_list``, with the strategy in
``QUOTAFLEET_STRATEGY`` and the store in ``QUOTAFLEET_STORE``. Several workers need a shared store.
``QUOTAFLEET_WAIT_TIMEOUT`` bounds in seconds how long a call may wait for headroom; without it, the
call's own timeout bounds both the wait and the request.
"""

from __future__ import annotations

import logging
import os
import sys
from threading import Lock
from typing import Any, Final

from litellm.integrations.custom_logger import CustomLogger

from quotafleet.errors import ConfigError
from quotafleet.pool import KeyPool

from . import _open_attempts
from .routing import QuotafleetRouting

log: Final = logging.getLogger("quotafleet.litellm")

_PROXY: Final = "litellm.proxy.proxy_server"


class ProxyHandler(CustomLogger):
    """What the Proxy's configuration names; it keeps quotafleet installed on the Proxy's Router."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()  # guards the installing
        self._routing: QuotafleetRouting | None = None
        self._pool: KeyPool | None = None
        self._failed: object = None
        self._warned = False
        self._warned_of_workers = False

    @property
    def routing(self) -> QuotafleetRouting | None:
        """What chooses the Proxy's deployments; ``None`` before the first request."""
        return self._routing

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: Any
    ) -> None:
        """Install where that is still to be done, before the Router is asked."""
        _open_attempts.forget(data)
        router = getattr(sys.modules.get(_PROXY), "llm_router", None)
        if router is None:
            if not self._warned:
                self._warned = True
                log.warning(
                    "quotafleet finds no Router in this LiteLLM Proxy: requests go as LiteLLM "
                    "chooses. Give the Proxy a model_list"
                )
            return
        installed = router.__dict__.get("async_get_available_deployment")
        if not isinstance(getattr(installed, "__self__", None), QuotafleetRouting):
            self._install(router)

    def _install(self, router: Any) -> None:
        with self._lock:
            if self._failed is router:
                return
            if self._routing is not None:
                log.warning(
                    "the Proxy changed its Router or its strategy: quotafleet installs again"
                )
            try:
                self._routing = QuotafleetRouting.install(
                    router,
                    pool=self._configured(),
                    strategy=os.environ.get("QUOTAFLEET_STRATEGY", "headroom-weighted"),
                    store=os.environ.get("QUOTAFLEET_STORE", "memory"),
                    wait_timeout=_wait_timeout(),
                )
            except ConfigError as error:
                self._failed = router
                log.error("quotafleet can't schedule for this Proxy, LiteLLM does: %s", error)
                return
            if not self._warned_of_workers:
                self._warned_of_workers = True
                _warn_of_workers(self._routing.pool)

    def _configured(self) -> KeyPool | None:
        path = os.environ.get("QUOTAFLEET_CONFIG")
        if path and self._pool is None:
            self._pool = KeyPool.from_config(path)
        return self._pool


def _wait_timeout() -> float | None:
    told = os.environ.get("QUOTAFLEET_WAIT_TIMEOUT")
    if not told:
        return None
    try:
        return float(told)
    except ValueError:
        raise ConfigError(
            f"QUOTAFLEET_WAIT_TIMEOUT is {told!r}, not a number", cure="Give seconds, such as 600"
        ) from None


def _warn_of_workers(pool: KeyPool) -> None:
    workers = os.environ.get("NUM_WORKERS", "1")  # LiteLLM sets it to its ``--num_workers``
    if workers.isdigit() and int(workers) > 1 and pool._store.is_local:
        log.warning(
            "%s workers each schedule as if they were alone: together they may send %s times what "
            "the owners' limits allow, until the answers' headers say so. Give them a store that "
            "they share, QUOTAFLEET_STORE=redis://..., or use one worker",
            workers,
            workers,
        )


#: What ``litellm_settings.callbacks`` names.
proxy_handler: Final = ProxyHandler()
