"""keyfleet under LiteLLM: a Router, plain calls and the Proxy over a fleet of keys."""

from ._calls import acompletion, aembedding, completion, embedding
from .proxy import proxy_handler
from .routing import KeyfleetRouting

__all__ = [
    "KeyfleetRouting",
    "acompletion",
    "aembedding",
    "completion",
    "embedding",
    "proxy_handler",
]
