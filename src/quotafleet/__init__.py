"""quotafleet: a fleet of API keys under the LLM framework you already use."""

from ._core.retry import RetryPolicy
from ._keys import ApiKey, Scope, Secret
from ._lease import Lease
from ._limits import Limit, Limits
from ._owners import ModelLimits, Organization, Project
from ._status import Status
from ._usage import Demand, Usage
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
from .pool import KeyPool

__all__ = [
    "ApiKey",
    "CannotServe",
    "ConfigError",
    "Demand",
    "KeyPool",
    "Lease",
    "Limit",
    "Limits",
    "ModelLimits",
    "NoUsableKey",
    "Organization",
    "PoolClosed",
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
]
