"""`install`: programs that name their model in a string get the drop-in.

``init_chat_model("openai:gpt-4o-mini")`` and ``init_embeddings("openai:...")`` look the class up
in `langchain_openai` when they are first called, and remember it.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import langchain_openai

from ._chat_models import AzureChatOpenAI, ChatOpenAI
from ._completion_models import AzureOpenAI, OpenAI
from ._embeddings import AzureOpenAIEmbeddings, OpenAIEmbeddings

_OURS: Final[dict[str, type]] = {
    "AzureChatOpenAI": AzureChatOpenAI,
    "AzureOpenAI": AzureOpenAI,
    "AzureOpenAIEmbeddings": AzureOpenAIEmbeddings,
    "ChatOpenAI": ChatOpenAI,
    "OpenAI": OpenAI,
    "OpenAIEmbeddings": OpenAIEmbeddings,
}
_stock: Final[dict[str, type]] = {name: getattr(langchain_openai, name) for name in _OURS}


def install() -> None:
    """Let `langchain_openai`'s names mean the drop-ins, for whoever looks them up from now on.

    What was imported before keeps the stock class. Doing it twice is the same as once.
    """
    _put(_OURS)


def uninstall() -> None:
    """Undo `install`."""
    _put(_stock)


def _put(classes: dict[str, type]) -> None:
    for name, found in classes.items():
        setattr(langchain_openai, name, found)
    for module, name in (
        ("langchain.chat_models.base", "_get_chat_model_creator"),
        ("langchain.embeddings.base", "_get_embeddings_class_creator"),
    ):
        remembered: Any = getattr(sys.modules.get(module), name, None)
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()
