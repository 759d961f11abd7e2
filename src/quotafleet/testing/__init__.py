"""What quotafleet is tested with, and programs that use it: a mock provider and a clock to match.

Contracts for strategies and stores are in `quotafleet.testing.contracts`, which needs pytest and
hypothesis; `serve` needs the extra `mock`, and nothing here needs a network.
"""

from __future__ import annotations

from .._clock import SystemClock
from .clock import FakeClock
from .mock import (
    Exchange,
    LongContext,
    MockCall,
    MockFault,
    MockFleet,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    MockProvider,
    MockRequest,
    MockServer,
    MockSettings,
    ModelSpec,
    RequestMatch,
    RequestSize,
    ScriptedAnswer,
    ServerProcess,
    ToolCall,
    default_fleet,
    serve,
    serve_process,
)

__all__ = [
    "Exchange",
    "FakeClock",
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
    "SystemClock",
    "ToolCall",
    "default_fleet",
    "serve",
    "serve_process",
]
