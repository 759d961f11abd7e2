"""The tools that quotafleet is tested with, for programs that use it: a mock provider and a clock.

`quotafleet.testing.contracts` has contracts for strategies and stores and needs pytest and
hypothesis; `serve` needs the extra `mock`. Nothing here needs a network.
"""

from __future__ import annotations

from .._clock import SystemClock
from .clock import FakeClock
from .mock.call import MockCall, MockRequest
from .mock.cost import RequestSize
from .mock.exchange import Exchange
from .mock.faults import MockFault, RequestMatch
from .mock.fleet import MockFleet, default_fleet
from .mock.provider import MockProvider
from .mock.scripts import ScriptedAnswer, ToolCall
from .mock.server import MockServer, ServerProcess, serve, serve_process
from .mock.settings import MockSettings
from .mock.specs import (
    CoConsumer,
    LimitRules,
    LongContext,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    ModelSpec,
)

__all__ = [
    "CoConsumer",
    "Exchange",
    "FakeClock",
    "LimitRules",
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
