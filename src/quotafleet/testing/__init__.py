"""What quotafleet is tested with, and programs that use it: a mock provider and a clock to match.

Contracts for strategies and stores are in `quotafleet.testing.contracts`, which needs pytest and
hypothesis; `serve` needs the extra `mock`, and nothing here needs a network.
"""

from __future__ import annotations

from .._clock import SystemClock
from .clock import FakeClock
from .mock import (
    Ask,
    Call,
    Exchange,
    Fault,
    Fleet,
    Key,
    LongContext,
    Match,
    MockProvider,
    MockRequest,
    MockSettings,
    ModelLimits,
    ModelSpec,
    Org,
    Project,
    Script,
    Server,
    ServerProcess,
    ToolCall,
    default_fleet,
    serve,
    serve_process,
)

__all__ = [
    "Ask",
    "Call",
    "Exchange",
    "FakeClock",
    "Fault",
    "Fleet",
    "Key",
    "LongContext",
    "Match",
    "MockProvider",
    "MockRequest",
    "MockSettings",
    "ModelLimits",
    "ModelSpec",
    "Org",
    "Project",
    "Script",
    "Server",
    "ServerProcess",
    "SystemClock",
    "ToolCall",
    "default_fleet",
    "serve",
    "serve_process",
]
