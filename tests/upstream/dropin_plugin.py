"""A pytest plugin that puts quotafleet's drop-ins where a suite of langchain-openai finds stock's.

Loaded with ``-p`` before collection, so that every ``from langchain_openai import ChatOpenAI`` in
the suite yields ours.
"""

from __future__ import annotations

import importlib

import langchain_quotafleet

_PLACES = {
    "ChatOpenAI": ("", ".chat_models", ".chat_models.base"),
    "AzureChatOpenAI": ("", ".chat_models", ".chat_models.azure"),
    "AzureOpenAI": ("", ".llms", ".llms.azure"),
    "AzureOpenAIEmbeddings": ("", ".embeddings", ".embeddings.azure"),
    "OpenAIEmbeddings": ("", ".embeddings", ".embeddings.base"),
    "OpenAI": ("", ".llms", ".llms.base"),
}

for _name, _modules in _PLACES.items():
    for _module in _modules:
        _there = importlib.import_module("langchain_openai" + _module)
        setattr(_there, _name, getattr(langchain_quotafleet, _name))
