"""`litellm.anthropic` over a pool: Anthropic's ``/v1/messages``, whoever the provider is."""

from . import messages

__all__ = ["messages"]
