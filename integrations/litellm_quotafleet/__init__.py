"""quotafleet under LiteLLM: a Router, plain calls and the Proxy over a fleet of keys."""

from . import anthropic
from ._patch import install, uninstall
from .functions import (
    acompletion,
    aembedding,
    aimage_generation,
    anthropic_messages,
    aresponses,
    atext_completion,
    completion,
    embedding,
    image_generation,
    responses,
    text_completion,
)
from .proxy import proxy_handler
from .routing import QuotafleetRouting

__all__ = [
    "QuotafleetRouting",
    "acompletion",
    "aembedding",
    "aimage_generation",
    "anthropic",
    "anthropic_messages",
    "aresponses",
    "atext_completion",
    "completion",
    "embedding",
    "image_generation",
    "install",
    "proxy_handler",
    "responses",
    "text_completion",
    "uninstall",
]
