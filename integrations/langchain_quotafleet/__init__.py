"""LangChain over a pool of keys: change the import, keep the chain.

    from langchain_quotafleet import ChatOpenAI      # was: from langchain_openai import ChatOpenAI

`ChatOpenAI`, `OpenAIEmbeddings`, `OpenAI` and their Azure kin are subclasses of the classes whose
names they bear. `ChatPool` takes any other chat model, one per key. `QuotafleetMiddleware` (which
needs the package `langchain`) is for agents.
"""

from typing import TYPE_CHECKING, Any

from ._chat_models import AzureChatOpenAI, ChatOpenAI
from ._completion_models import AzureOpenAI, OpenAI
from ._embeddings import AzureOpenAIEmbeddings, OpenAIEmbeddings
from ._patch import install, uninstall
from .pool_model import ChatPool

if TYPE_CHECKING:
    from .middleware import QuotafleetMiddleware

__all__ = [
    "AzureChatOpenAI",
    "AzureOpenAI",
    "AzureOpenAIEmbeddings",
    "ChatOpenAI",
    "ChatPool",
    "OpenAI",
    "OpenAIEmbeddings",
    "QuotafleetMiddleware",
    "install",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    if name == "QuotafleetMiddleware":  # `langchain` is not needed for the rest
        from .middleware import QuotafleetMiddleware  # noqa: PLC0415

        return QuotafleetMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
