"""A mock of an LLM provider: its quotas, headers, errors and answers, without its bill.

`MockProvider` is pure and runs on any clock; `serve` puts it behind HTTP.
"""

from __future__ import annotations

from .call import MockCall, MockRequest
from .catalog import STANDARD_MODELS, default_fleet
from .cost import PROFILES, RequestSize
from .exchange import Exchange
from .faults import MockFault, RequestMatch
from .fleet import (
    LongContext,
    MockFleet,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    ModelSpec,
)
from .provider import MockProvider
from .scripts import ScriptedAnswer, ToolCall
from .server import MockServer, ServerProcess, serve, serve_process
from .settings import MockSettings

__all__ = [
    "PROFILES",
    "STANDARD_MODELS",
    "Exchange",
    "LongContext",
    "MockCall",
    "MockFault",
    "MockFleet",
    "MockKey",
    "MockModelLimits",
    "MockOrganization",
    "MockProject",
    "MockProvider",
    "MockRequest",
    "MockServer",
    "MockSettings",
    "ModelSpec",
    "RequestMatch",
    "RequestSize",
    "ScriptedAnswer",
    "ServerProcess",
    "ToolCall",
    "default_fleet",
    "serve",
    "serve_process",
]
