"""quotafleet: a fleet of API keys under the LLM framework you already use."""

from typing import TYPE_CHECKING

from ._core.admission.wait_queue import Priority
from ._core.call.retry import RetryPolicy
from ._default import default_pool
from ._lease import Lease
from ._status import Status
from .errors import (
    CannotServe,
    ConfigError,
    NoUsableKey,
    PoolClosed,
    QueueFull,
    QuotafleetError,
    StoreError,
    TooLarge,
    WaitTimeout,
)
from .explain import Explanation, explain
from .keys import ApiKey, Scope, Secret
from .limits import Limit, Limits
from .owners import ModelLimits, Organization, Project
from .pool import KeyPool
from .usage import Demand, Usage

if TYPE_CHECKING:
    __version__: str
else:
    from ._version import __getattr__  # noqa: F401 - the module's own, for __version__

__all__ = [
    "ApiKey",
    "CannotServe",
    "ConfigError",
    "Demand",
    "Explanation",
    "KeyPool",
    "Lease",
    "Limit",
    "Limits",
    "ModelLimits",
    "NoUsableKey",
    "Organization",
    "PoolClosed",
    "Priority",
    "Project",
    "QueueFull",
    "QuotafleetError",
    "RetryPolicy",
    "Scope",
    "Secret",
    "Status",
    "StoreError",
    "TooLarge",
    "Usage",
    "WaitTimeout",
    "default_pool",
    "explain",
]
