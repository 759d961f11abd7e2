"""LangChain over a pool of keys: change the import, keep the chain.

    from langchain_keyfleet import ChatOpenAI      # was: from langchain_openai import ChatOpenAI

`ChatOpenAI`, `OpenAIEmbeddings`, `OpenAI` and their Azure kin are subclasses of the classes whose
names they bear. `ChatPool` takes any other chat model, one per key. `KeyfleetMiddleware` (which
needs the package `langchain`) is for agents.
"""

from typing import TYPE_CHECKING, Any

from ._chat import AzureChatOpenAI, ChatOpenAI
from ._embeddings import AzureOpenAIEmbeddings, OpenAIEmbeddings
from ._llms import AzureOpenAI, OpenAI
from ._replace import install, uninstall
from .pool_model import ChatPool

if TYPE_CHECKING:
    from .middleware import KeyfleetMiddleware

__all__ = [
    "AzureChatOpenAI",
    "AzureOpenAI",
    "AzureOpenAIEmbeddings",
    "ChatOpenAI",
    "ChatPool",
    "KeyfleetMiddleware",
    "OpenAI",
    "OpenAIEmbeddings",
    "install",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    if name == "KeyfleetMiddleware":  # `langchain` is not needed for the rest
        from .middleware import KeyfleetMiddleware  # noqa: PLC0415

        return KeyfleetMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
