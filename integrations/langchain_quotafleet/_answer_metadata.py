"""Which key answered, and after what: from an answer into what LangChain shows of it.

Between the httpx client, which sees the answer, and the model lie the SDK's methods. A hook of
the client leaves the facts of each answer in the list that the model put into a context variable
around the one step that makes the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final, NoReturn

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.tracers.base import BaseTracer

from quotafleet import CannotServe, PoolClosed
from quotafleet.httpx import CallInfo

from ._stream_callbacks import Run, run_of

#: Name of the callback event (`on_custom_event`), and key of `response_metadata`.
NAME: Final = "quotafleet"

Facts = dict[str, Any]

#: Header -> name of the fact, and what makes it of the text.
_READ: Final = {
    b"x-quotafleet-key-id": ("key_id", str),
    b"x-quotafleet-owner": ("owner", str),
    b"x-quotafleet-waited-for": ("waited_for", float),
    b"x-quotafleet-attempts": ("attempts", int),
}


class AnswerLog:
    """The facts of the answers to one call's requests, the latest last.

    In a ``with`` block it hears of the requests that one step makes; not to be held across a
    ``yield``.

    Raises:
        PoolClosed: at the block's end, in place of the connection error that the SDK makes of it.
        Exception: in the same way, what a function raised that was asked for the key.
    """

    __slots__ = ("_token", "facts", "raised", "refusal")

    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self.refusal: BaseException | None = None
        self.raised: Exception | None = None

    def __enter__(self) -> None:
        self._token = _listening.set(self)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _listening.reset(self._token)
        if isinstance(error, openai.OpenAIError):
            if self.raised is not None and any(one is self.raised for one in _causes(error)):
                _raise(self.raised)
            root = _root(error)
            if isinstance(root, PoolClosed):
                raise root from None
            if isinstance(self.refusal, CannotServe):
                root.__cause__ = self.refusal


_listening: Final[ContextVar[AnswerLog | None]] = ContextVar(
    "langchain_quotafleet_heard", default=None
)


def failed(error: Exception) -> None:
    """Note what a function raised that was asked for the key of a request under way."""
    heard = _listening.get()
    if heard is not None:
        heard.raised = error


def hear(response: Any) -> None:
    """Take in an answer; a response hook of `httpx.Client`."""
    heard = _listening.get()
    if heard is None:
        return
    told = response.extensions.get(NAME)
    if isinstance(told, BaseException):
        heard.refusal = told
    facts = told._asdict() if isinstance(told, CallInfo) else _facts_in(response)
    if facts:
        heard.facts.append(facts)


def _facts_in(response: Any) -> Facts:
    """Return what the headers tell: a transport of the user's may leave no extensions."""
    facts: Facts = {}
    for name, value in response.headers.raw:
        read = _READ.get(name)
        if read is not None:
            facts[read[0]] = read[1](value.decode())
    return facts


async def ahear(response: Any) -> None:
    """Do as `hear`."""
    hear(response)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, the nearest first."""
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def _root(error: BaseException) -> BaseException:
    return [error, *_causes(error)][-1]


def _raise(error: Exception) -> NoReturn:
    """Raise an error again as it was: with its own cause and context, not that of the SDK's."""
    context, is_hidden = error.__context__, error.__suppress_context__
    try:
        raise error
    finally:
        error.__context__, error.__suppress_context__ = context, is_hidden


def tell(given: CallbackManagerForLLMRun | None, heard: AnswerLog) -> None:
    """Tell tracers and callbacks what was heard: metadata of the run, and one event for each."""
    run = run_of(given)
    if run is not None and heard.facts and run.handlers:
        _note(run, heard)
        for facts in heard.facts:
            handle_event(
                run.handlers, "on_custom_event", "ignore_custom_event", NAME, facts, **_of(run)
            )


async def atell(given: AsyncCallbackManagerForLLMRun | None, heard: AnswerLog) -> None:
    """Do as `tell`."""
    run = run_of(given)
    if run is not None and heard.facts and run.handlers:
        _note(run, heard)
        for facts in heard.facts:
            await ahandle_event(
                run.handlers, "on_custom_event", "ignore_custom_event", NAME, facts, **_of(run)
            )


def _note(run: Run, heard: AnswerLog) -> None:
    facts = {f"quotafleet_{name}": value for name, value in heard.facts[-1].items()}
    run.metadata.update(facts)
    # Most tracers hold this very dict, and send it when the run ends; LangSmith's has a copy.
    for handler in run.handlers:
        if isinstance(handler, BaseTracer):
            traced = handler.run_map.get(str(run.run_id))
            if traced is not None:
                traced.extra.setdefault("metadata", {}).update(facts)


def _of(run: Run) -> dict[str, Any]:
    return {"run_id": run.run_id, "tags": run.tags, "metadata": run.metadata}
