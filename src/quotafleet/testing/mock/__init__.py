"""A mock of an LLM provider: its quotas, headers, errors and answers, without its bill.

`MockProvider` is pure and runs on any clock; `serve` puts it behind HTTP.
"""

from __future__ import annotations

from .call import Call, MockRequest
from .catalog import STANDARD_MODELS, default_fleet
from .cost import PROFILES, Ask
from .exchange import Exchange
from .faults import Fault, Match
from .fleet import Fleet, Key, LongContext, ModelLimits, ModelSpec, Org, Project
from .provider import MockProvider
from .scripts import Script, ToolCall
from .server import Server, ServerProcess, serve, serve_process
from .settings import MockSettings

__all__ = [
    "PROFILES",
    "STANDARD_MODELS",
    "Ask",
    "Call",
    "Exchange",
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
    "ToolCall",
    "default_fleet",
    "serve",
    "serve_process",
]
