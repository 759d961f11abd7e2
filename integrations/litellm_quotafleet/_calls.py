"""One call of a LiteLLM function over a pool: a key for each attempt, and its lease's end.

LiteLLM has no hook that could choose a key for a synchronous call, so what is here stands in front
of its functions: it waits for a lease, calls with its key, and tries another owner where that
helps. `functions` has the functions themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tenacity import stop_after_attempt

from quotafleet import default_pool
from quotafleet._core.call.flow import AttemptResult, CallOptions
from quotafleet._core.call.retry import RetryPolicy
from quotafleet._lease import Lease
from quotafleet.errors import CannotServe, ConfigError, PoolClosed
from quotafleet.outcomes import NOTHING, OK, Kind, Outcome
from quotafleet.pool import KeyPool
from quotafleet.protocols import Plan, Provider
from quotafleet.providers import provider as provider_named
from quotafleet.usage import Demand

from ._callbacks import hidden_retries_off, listen
from ._errors import refusal
from ._model_list import bare
from ._open_attempts import Held, sending
from ._requests import plan_of
from ._responses import failure_headers, from_cache, headers_of, outcome_of, usage_of
from ._send_pacing import InFlightPermit, gate
from ._streams import AsyncStream, Stream
from ._timeouts import seconds


class FunctionCall:
    """One call of a LiteLLM function: what it will cost, and how an attempt is made.

    Args:
        function: LiteLLM's.
        mode: what it is for, as LiteLLM names the mode of a model.
        payload: the arguments that it names, the model among them.
        pool: whose keys are used; ``None`` = the process's own.
        kwargs: its other arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        mode: str,
        payload: Mapping[str, Any],
        pool: KeyPool | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        self.pool = pool or default_pool()
        self._function = function
        self._arguments = {**kwargs, **payload, "num_retries": 0, "max_retries": 0}
        self._providers: dict[str, Provider] = {
            key.provider: self.pool.provider(key) for key in self.pool.keys
        }
        several = len(self._providers) > 1
        planner = provider_named("generic") if several else next(iter(self._providers.values()))
        self.model: str = payload["model"]
        self.plan: Plan = plan_of(
            planner, mode, payload.get("messages"), payload.get("input"), self._arguments
        )
        self.retry = _policy(self.pool.retry, kwargs.get("num_retries"))

    @property
    def order(self) -> CallOptions:
        """What is asked of the pool."""
        asked = self.plan.demand
        demand = Demand(
            model=bare(self.model),
            input_tokens=asked.input_tokens,
            output_tokens=asked.output_tokens,
            images=asked.images,
        )
        return self.pool.order(demand, timeout=seconds(self._arguments.get("timeout")))

    def begin(self, lease: Lease) -> Any:
        """Call LiteLLM with a lease's key. The key goes to its own origin, and nowhere else."""
        headers = lease.headers
        arguments = {**self._arguments, "api_key": lease.secret.reveal()}
        if lease.base_url:
            arguments["api_base"] = lease.base_url
        if headers.get("openai-organization"):
            arguments["organization"] = headers["openai-organization"]
        if headers.get("openai-project"):
            extra = dict(arguments.get("extra_headers") or {})
            extra["OpenAI-Project"] = headers["openai-project"]
            arguments["extra_headers"] = extra
        return self._function(**arguments)

    def answered(self, lease: Lease, response: object) -> AttemptResult[Any]:
        """Take in an answer that is there, or a stream that began."""
        headers = headers_of(response)
        provider = self._providers[lease.provider]
        seen = provider.observe(200, headers) if headers else NOTHING
        return AttemptResult(outcome=OK, response=response, observation=seen)

    def failed(self, lease: Lease, error: Exception) -> AttemptResult[Any]:
        """Take in that an attempt failed."""
        provider = self._providers[lease.provider]
        headers = failure_headers(error)
        outcome = outcome_of(provider, error)
        if outcome is None:  # never sent, and would not be another time
            outcome = Outcome(kind=Kind.BAD_REQUEST, code=type(error).__name__)
        seen = provider.observe(0, headers) if headers else NOTHING
        return AttemptResult(outcome=outcome, response=error, observation=seen)

    def held(self, lease: Lease, passage: InFlightPermit | None = None) -> Held:
        """Return the lease with what is needed to end it."""
        return Held(lease, self._providers[lease.provider], self.plan, passage)


def run(call: FunctionCall) -> Any:
    """Make a call in this thread, and return LiteLLM's answer."""
    hidden_retries_off()
    listen()

    def send(lease: Lease) -> AttemptResult[Any]:
        before = sending.set(call.held(lease))
        try:
            return call.answered(lease, call.begin(lease))
        except Exception as error:  # whatever LiteLLM raises is for its provider to read
            return call.failed(lease, error)
        finally:
            sending.reset(before)

    try:
        lease, reply = call.pool.call(call.order, send, retry=call.retry)
    except (CannotServe, PoolClosed, ConfigError) as error:
        raise refusal(error, call.model) from error
    response, held = reply.response, call.held(lease)
    if isinstance(response, Exception):
        raise response
    if hasattr(response, "__next__"):
        return Stream(response, held)
    if hasattr(response, "__anext__"):  # LiteLLM's `anthropic.messages.create` for some providers
        return AsyncStream(response, held)
    if from_cache(response):
        lease.release()
    else:
        held.done(usage_of(response), {})
    return response


async def arun(call: FunctionCall) -> Any:
    """Do as `run`, without blocking the event loop."""
    hidden_retries_off()
    listen()
    way = gate()

    async def send(lease: Lease) -> AttemptResult[Any]:
        held = call.held(lease, way.enter())
        before = sending.set(held)
        try:
            return call.answered(lease, await call.begin(lease))
        except Exception as error:  # whatever LiteLLM raises is for its provider to read
            return call.failed(lease, error)
        finally:
            sending.reset(before)
            held.let_go()

    await way.turn()
    try:
        lease, reply = await call.pool.acall(call.order, send, retry=call.retry)
    except (CannotServe, PoolClosed, ConfigError) as error:
        raise refusal(error, call.model) from error
    response, held = reply.response, call.held(lease)
    if isinstance(response, Exception):
        raise response
    if hasattr(response, "__anext__"):
        return AsyncStream(response, held)
    if from_cache(response):
        await lease.arelease()
    else:
        await held.adone(usage_of(response), {})
    return response


def _policy(policy: RetryPolicy, retries: object) -> RetryPolicy | None:
    if not isinstance(retries, int):
        return None
    return replace(policy, stop=stop_after_attempt(retries + 1))
