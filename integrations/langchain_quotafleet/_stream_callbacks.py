"""Streams tell their run what was heard, though LangChain gives `_stream` no run to tell.

`stream` makes the run and keeps it to itself. A callback handler that comes with the call learns
the run's id and its metadata when it starts; who else listens is known before. A context variable
takes both to `_stream`, for the one step in which the stream begins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

T = TypeVar("T")


class StreamRun(BaseCallbackHandler):
    """The run of a stream: who listens to it, and from its start on its id, tags and metadata.

    Args:
        handlers: the other handlers of the run.
    """

    def __init__(self, handlers: list[BaseCallbackHandler]) -> None:
        self.handlers = list(handlers)
        self.run_id: UUID | None = None
        self.tags: list[str] = []
        self.metadata: dict[str, Any] = {}

    @property
    def ignore_llm(self) -> bool:
        """Whether the start was heard: a stream's pieces are not for this handler."""
        return self.run_id is not None

    def began(
        self,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Learn which run it is. The metadata is the dict that tracers hold."""
        self.run_id = run_id
        self.tags = tags or []
        self.metadata = {} if metadata is None else metadata

    def on_chat_model_start(self, *_: Any, **told: Any) -> None:
        """Learn which run it is."""
        self.began(**told)


class AsyncStreamRun(StreamRun):
    """The same where callbacks are awaited: a handler that isn't would be called in a thread."""

    async def on_chat_model_start(self, *_: Any, **told: Any) -> None:  # type: ignore[override] # as `AsyncCallbackHandler`
        """Learn which run it is."""
        self.began(**told)


#: A run that can be told of what was heard.
Run = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | StreamRun

_begun: Final[ContextVar[Run | None]] = ContextVar("langchain_quotafleet_run", default=None)


def run_of(given: T | None) -> T | Any:
    """Return the run that a stream belongs to: the one given, or that of the call around it."""
    return _begun.get() if given is None else given


@contextmanager
def _around(run: Run | None) -> Generator[None]:
    """Let streams that begin in one step know their run; not to be held across a ``yield``."""
    token = _begun.set(run)
    try:
        yield
    finally:
        _begun.reset(token)


class AnnotatedStreams:
    """What chat models add to stock's: streams that know their run.

    Completion models need it not: LangChain gives their `_stream` the run.
    """

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream as stock does."""
        llm: Any = self
        config = ensure_config(config)
        manager = CallbackManager.configure(config.get("callbacks"), llm.callbacks, llm.verbose)
        if not manager.handlers:  # nobody listens
            return super().stream(input, config, **kwargs)  # type: ignore[misc] # of stock's
        run = StreamRun(manager.handlers)
        manager.add_handler(run, inherit=False)
        config["callbacks"] = manager
        return _told(run, super().stream(input, config, **kwargs))  # type: ignore[misc] # of stock's

    def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream as stock does."""
        llm: Any = self
        config = ensure_config(config)
        callbacks = config.get("callbacks")
        manager = AsyncCallbackManager.configure(callbacks, llm.callbacks, llm.verbose)
        if not manager.handlers:  # nobody listens
            return super().astream(input, config, **kwargs)  # type: ignore[misc] # of stock's
        run = AsyncStreamRun(manager.handlers)
        manager.add_handler(run, inherit=False)
        config["callbacks"] = manager
        return _atold(run, super().astream(input, config, **kwargs))  # type: ignore[misc] # of stock's

    # Where a handler asks for pieces, `invoke` streams too.

    def _generate_with_cache(
        self,
        messages: Any,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Any:
        if _nobody_listens(run_manager):
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
        with _around(run_manager):
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's

    def _agenerate_with_cache(
        self,
        messages: Any,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Any:
        work = super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
        return work if _nobody_listens(run_manager) else _awaited(work, run_manager)


def _nobody_listens(run: Run | None) -> bool:
    """Whether there is no handler to be told, of this run or of one around it."""
    return (run is None or not run.handlers) and _begun.get() is None


async def _awaited(work: Awaitable[T], run: Run | None) -> T:
    with _around(run):
        return await work


def _told(run: StreamRun, pieces: Any) -> Iterator[Any]:
    try:
        with _around(run):
            first = next(pieces, None)
        if first is not None:
            yield first
            yield from pieces
    finally:
        pieces.close()


async def _atold(run: StreamRun, pieces: Any) -> AsyncIterator[Any]:
    try:
        with _around(run):
            first = await anext(pieces, None)
        if first is not None:
            yield first
            async for piece in pieces:
                yield piece
    finally:
        await pieces.aclose()
