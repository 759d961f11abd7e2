"""`ChatPool`: any chat model per key, under one scheduler.

    from langchain_quotafleet import ChatPool

    pool = KeyPool([Organization(name="acme", keys=("sk-ant-...",), provider="generic"), ...])
    llm = ChatPool(models={"acme": ChatAnthropic(...), "birch": ChatAnthropic(...)}, pool=pool)

The pool says whose turn it is; the model that bears the name of the key or of its owner makes the
call. Set ``max_retries=0`` on the models: the pool retries, and goes elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, Field, SkipValidation, model_validator

from quotafleet import ConfigError, Demand, KeyPool, Lease, Organization, Priority
from quotafleet._core.call.flow import ABANDONED, AttemptResult, CallOptions
from quotafleet.outcomes import OK

from ._answer_metadata import NAME, AnswerLog, atell, tell
from ._any_chat_model import (
    achunks_of,
    aclose,
    bound_to,
    chunks_of,
    close,
    input_tokens,
    leaf_of,
    messages_of,
    observation_of,
    outcome_of,
    rebound,
    told_apart,
    usage_of,
    with_leaf,
)
from ._batch import PacedBatch
from ._stream_callbacks import AnnotatedStreams
from ._validation import check_priority, check_seconds

Model = tuple[BaseChatModel, dict[str, Any]]


class ChatPool(PacedBatch, AnnotatedStreams, BaseChatModel):
    """A chat model that sends each call through one of several, as a pool decides.

    Args:
        models: name of a key (``"acme#1"``) or of its owner (``"acme"``) -> the model that has
            that key. Models of one owner share its quota.
        pool: limits and health of the owners; ``None`` = each name is an owner of its own whose
            limits are not known.
        priority: ``"interactive"``, ``"normal"`` or ``"batch"``.
        wait_timeout: seconds that an attempt may wait for headroom; ``None`` = as the pool says.
        deadline_after: seconds after which a call as a whole is of no use.
        tenant: on whose behalf calls are made; tenants that wait get equal shares.
        estimate: says what a prompt will need; by default a token for 4 bytes of text.

    A call is settled by `usage_metadata`; where a model gives none, the estimate stands. Errors
    are read as the key's provider means them, headers where the model keeps them in
    `response_metadata`. What the pool refuses is a `quotafleet.CannotServe`.

    A model's `rate_limiter` is waited for before each attempt, when it is known whose turn it is:
    the call holds what it reserved meanwhile. `disable_streaming` is heeded, and tokens are counted
    by the first model.

    Raises:
        ConfigError: (in a `ValidationError`) a key without a model, a model without a key, what is
            no chat model or no pool, an unknown priority, or senseless seconds.
    """

    #: A validation error must not show the arguments, since a key may be among them.
    model_config = ConfigDict(hide_input_in_errors=True)

    models: dict[str, Any] = Field(exclude=True, repr=False)
    pool: Any = Field(default=None, exclude=True, repr=False)
    # `check_priority` checks it, and its error names those that there are.
    priority: SkipValidation[Priority | None] = Field(default=None, exclude=True)
    wait_timeout: float | None = Field(default=None, exclude=True)
    deadline_after: float | None = Field(default=None, exclude=True)
    tenant: str | None = Field(default=None, exclude=True)
    estimate: Callable[[list[BaseMessage]], Demand] | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _match_models_quotafleet(self) -> Self:
        """Find the model of each key."""
        self._check()
        if self.pool is None:
            self.pool = _pool_of(self.models)
        names = {name for key in self.pool.keys for name in (key.key_id, _owner(key))}
        unknown = next((name for name in self.models if name not in names), None)
        if unknown is not None:
            raise ConfigError(
                f"the pool has no key or owner {unknown!r}",
                cure=f"Name the models like them: {', '.join(sorted(names))}",
            )
        for key in self.pool.keys:
            if key.key_id not in self.models and _owner(key) not in self.models:
                raise ConfigError(
                    f"the key {key.key_id!r} has no model", cure=f"Give models[{_owner(key)!r}]"
                )
        if self.profile is None:
            self.profile = self._first[0].profile
        return self

    def _check(self) -> None:
        """Check the arguments one by one.

        Raises:
            ConfigError: it names the argument and the cure.
        """
        if not self.models:
            raise ConfigError("models is empty", cure="Give at least one chat model")
        for name, model in self.models.items():
            if not isinstance(bound_to(model)[0], BaseChatModel):
                raise ConfigError(
                    f"models[{name!r}] is {_kind(model)}, not a chat model",
                    cure="Give a chat model that is made already, such as ChatAnthropic(...)",
                )
        if self.pool is not None and not isinstance(self.pool, KeyPool):
            raise ConfigError(
                f"pool is {_kind(self.pool)}, not a KeyPool", cure="Give a KeyPool, or None"
            )
        check_priority(self.priority)
        check_seconds("wait_timeout", self.wait_timeout)
        check_seconds("deadline_after", self.deadline_after)

    # What it is

    @property
    def _first(self) -> Model:
        return bound_to(next(iter(self.models.values())))

    @property
    def _llm_type(self) -> str:
        return "quotafleet-chat-pool"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        model, bound = self._first
        return {"of": model._llm_type, **model._identifying_params, **bound}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._first[0]._get_ls_params(stop, **kwargs)

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind the tools to each model in its own manner; the result is a `ChatPool` too."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        told = told_apart(kwargs)  # for tracers, not for the models
        made = {n: bound_to(m)[0].bind_tools(tools, **kwargs) for n, m in self.models.items()}
        return self._rebound(made, told)

    def with_structured_output(
        self, schema: Any = None, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Have each model answer by a schema in its own manner; `method` and such are the models'.

        Models whose manners differ are all made to call a tool, since one parser reads them all.
        """
        made = {
            name: bound_to(model)[0].with_structured_output(
                schema, include_raw=include_raw, **kwargs
            )
            for name, model in self.models.items()
        }
        leaves = {name: leaf_of(chain) for name, chain in made.items()}
        manners = {_manner(chain, leaves[name]) for name, chain in made.items()}
        if None in manners or len(manners) > 1:
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        first = next(iter(made))
        told = told_apart(dict(bound_to(leaves[first])[1]))
        chain: Runnable[LanguageModelInput, Any] = with_leaf(
            made[first], self._rebound(leaves, told)
        )
        return chain

    def _rebound(
        self, made: Mapping[str, Any], told: dict[str, Any]
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a pool of what was made of the models, with what tracers are told."""
        models = {name: rebound(self.models[name], one) for name, one in made.items()}
        pooled = self.model_copy(update={"models": models})
        return pooled.bind(**told) if told else pooled

    # What the first model knows

    def get_token_ids(self, text: str) -> list[int]:
        """Return a text's tokens as the first model has them."""
        if self.custom_get_token_ids is not None:
            return super().get_token_ids(text)
        ids: list[int] = self._first[0].get_token_ids(text)
        return ids

    def get_num_tokens(self, text: str) -> int:
        """Count a text's tokens as the first model does."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens(text)
        return int(self._first[0].get_num_tokens(text))

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None, **kwargs: Any
    ) -> int:
        """Count a prompt's tokens as the first model does."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        if tools is not None:
            kwargs["tools"] = tools  # not every model takes them
        return int(self._first[0].get_num_tokens_from_messages(messages, **kwargs))

    # Calls

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = _Call(self, messages)

        def send(lease: Lease) -> AttemptResult[Any]:
            model, bound = call.begin(lease)
            try:
                result = model._generate(messages, stop, run_manager, **{**bound, **kwargs})
            except Exception as error:  # whatever a model raises is for its provider to read
                return call.failed(lease, error)
            return call.succeeded(lease, result, result.generations[0])

        lease, reply = self.pool.call(call.order, send)
        result = call.result(lease, reply)
        lease.settle(usage_of(messages_of(result)))
        tell(run_manager, call.heard)
        return _marked(result, call)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = _Call(self, messages)

        async def send(lease: Lease) -> AttemptResult[Any]:
            model, bound = await call.abegin(lease)
            try:
                result = await model._agenerate(messages, stop, run_manager, **{**bound, **kwargs})
            except Exception as error:  # whatever a model raises is for its provider to read
                return call.failed(lease, error)
            return call.succeeded(lease, result, result.generations[0])

        lease, reply = await self.pool.acall(call.order, send)
        result = call.result(lease, reply)
        await lease.asettle(usage_of(messages_of(result)))
        await atell(run_manager, call.heard)
        return _marked(result, call)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = _Call(self, messages)

        def send(lease: Lease) -> AttemptResult[Any]:
            model, bound = call.begin(lease)
            try:
                chunks = chunks_of(model, messages, stop, **{**bound, **kwargs})
                first = next(chunks, None)
            except Exception as error:  # whatever a model raises is for its provider to read
                return call.failed(lease, error)
            return call.succeeded(lease, (first, chunks), first)

        lease, reply = self.pool.call(call.order, send)
        first, chunks = call.result(lease, reply)
        seen: list[BaseMessage] = []
        try:
            tell(run_manager, call.heard)
            if first is not None:  # of an empty stream stock says what is to be said
                seen.append(first.message)
                yield _marked_chunk(first, call)
            for chunk in chunks:
                seen.append(chunk.message)
                yield chunk
            lease.settle(usage_of(seen))
        except Exception as error:  # raised again; the lease ends by what it means
            lease.fail(*call.broken(lease, error))
            raise
        finally:
            if not lease.settled:
                lease.abandon()
            close(chunks)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = _Call(self, messages)

        async def send(lease: Lease) -> AttemptResult[Any]:
            model, bound = await call.abegin(lease)
            try:
                chunks = achunks_of(model, messages, stop, **{**bound, **kwargs})
                first = await anext(chunks, None)
            except Exception as error:  # whatever a model raises is for its provider to read
                return call.failed(lease, error)
            return call.succeeded(lease, (first, chunks), first)

        lease, reply = await self.pool.acall(call.order, send)
        first, chunks = call.result(lease, reply)
        seen: list[BaseMessage] = []
        try:
            await atell(run_manager, call.heard)
            if first is not None:
                seen.append(first.message)
                yield _marked_chunk(first, call)
            async for chunk in chunks:
                seen.append(chunk.message)
                yield chunk
            await lease.asettle(usage_of(seen))
        except Exception as error:  # as in `_stream`
            await lease.afail(*call.broken(lease, error))
            raise
        finally:
            if not lease.settled:
                await lease.aabandon()
            await aclose(chunks)

    # For the calls

    def _order(self, messages: list[BaseMessage]) -> CallOptions:
        if self.estimate is not None:
            demand = self.estimate(messages)
        else:
            name = self._first[0]._get_ls_params().get("ls_model_name", "")
            demand = Demand(model=name or "", input_tokens=input_tokens(messages))
        after = self.deadline_after
        order: CallOptions = self.pool.order(
            demand,
            timeout=self.wait_timeout,
            deadline=None if after is None else self.pool.clock.now() + after,
            priority=self.priority or "normal",
            tenant=self.tenant,
        )
        return order

    def _model(self, lease: Lease) -> Model:
        model = self.models.get(lease.key_id)
        return bound_to(self.models[lease.owner] if model is None else model)


class _Call:
    """One call on its way through one or more attempts."""

    def __init__(self, llm: ChatPool, messages: list[BaseMessage]) -> None:
        self._llm = llm
        self._keys = {key.key_id: key for key in llm.pool.keys}
        self._waited_for = 0.0
        self._attempts = 0
        self.order = llm._order(messages)
        self.heard = AnswerLog()

    def begin(self, lease: Lease) -> Model:
        """Return the model whose turn it is, when its rate limiter lets the attempt through."""
        model, bound = self._counted(lease)
        if model.rate_limiter is not None:
            try:
                model.rate_limiter.acquire(blocking=True)
            except BaseException:  # also an interrupt: nothing was sent
                lease.release()
                raise
            lease.sent()
        return model, bound

    async def abegin(self, lease: Lease) -> Model:
        """Do as `begin`."""
        model, bound = self._counted(lease)
        if model.rate_limiter is not None:
            try:
                await model.rate_limiter.aacquire(blocking=True)
            except BaseException:  # also cancellation: nothing was sent
                await lease.arelease()
                raise
            lease.sent()
        return model, bound

    def _counted(self, lease: Lease) -> Model:
        self._attempts += 1
        self._waited_for += lease.waited_for
        return self._llm._model(lease)

    def succeeded(
        self, lease: Lease, response: Any, answer: ChatGeneration | None
    ) -> AttemptResult[Any]:
        observation = observation_of(answer, self._provider(lease))
        return AttemptResult(outcome=OK, response=response, observation=observation)

    def failed(self, lease: Lease, error: Exception) -> AttemptResult[Any]:
        read = outcome_of(error, self._provider(lease))
        if read is None:
            raise error
        return AttemptResult(outcome=read[0], response=error, observation=read[1])

    def broken(self, lease: Lease, error: Exception) -> tuple[Any, ...]:
        """Return what it means that a stream ended in an error, as `Lease.fail` takes it."""
        return outcome_of(error, self._provider(lease)) or (ABANDONED,)

    def result(self, lease: Lease, reply: AttemptResult[Any]) -> Any:
        """Return what the last attempt brought.

        Raises:
            Exception: the model's own error.
        """
        if isinstance(reply.response, Exception):
            raise reply.response
        self.heard.facts.append(
            {
                "key_id": lease.key_id,
                "owner": lease.owner,
                "waited_for": round(self._waited_for, 3),
                "attempts": self._attempts,
            }
        )
        return reply.response

    def _provider(self, lease: Lease) -> Any:
        return self._llm.pool.provider(self._keys[lease.key_id])


def _owner(key: Any) -> str:
    return key.organization if key.project is None else f"{key.organization}/{key.project}"


def _pool_of(models: Mapping[str, Any]) -> KeyPool:
    """Return a pool in which each model is an owner; the secrets stay in the models."""
    return KeyPool(
        Organization(name=name, keys=(f"held-by-the-model-{number}",), provider="generic")
        for number, name in enumerate(models)
    )


def _kind(value: object) -> str:
    """Return what a wrong argument is; not its text, which may be a key."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"of type {type(value).__name__}"


def _manner(chain: Any, leaf: Any) -> tuple[object, ...] | None:
    """Return what is the same of models that give structured output in the same way.

    ``None`` = the chain does not begin with a model that another could stand for.
    """
    model, bound = bound_to(leaf)
    if not isinstance(model, BaseChatModel):
        return None
    steps = tuple(type(step) for step in getattr(chain, "steps", ()))
    return (frozenset(bound), steps[1:])


def _marked(result: ChatResult, call: _Call) -> ChatResult:
    for message in messages_of(result):
        message.response_metadata[NAME] = call.heard.facts[-1]
    return result


def _marked_chunk(chunk: ChatGenerationChunk, call: _Call) -> ChatGenerationChunk:
    chunk.message.response_metadata[NAME] = call.heard.facts[-1]
    return chunk
