"""`QuotafleetMiddleware`: what an agent's model calls are to a pool.

agent = create_agent(llm, tools, middleware=[QuotafleetMiddleware(priority="interactive")])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr

from quotafleet import Priority
from quotafleet._clock import Clock, SystemClock

from ._drop_in import PooledModel
from ._validation import check_priority, check_seconds, check_tenant
from .pool_model import ChatPool


class QuotafleetState(AgentState[Any]):
    """When the agent began, in seconds of the middleware's clock."""

    quotafleet_began_at: NotRequired[Annotated[float, PrivateStateAttr]]


class QuotafleetMiddleware(AgentMiddleware[QuotafleetState, Any, Any]):
    """Gives an agent's model calls a priority and a tenant, and all together a deadline.

    It concerns models of this package and leaves others as they are, so that a fallback to a
    model without a pool stays possible.

    Args:
        priority: ``"interactive"``, ``"normal"`` or ``"batch"``; ``None`` = as the model says.
        wait_timeout: seconds that an attempt may wait for headroom.
        deadline_after: seconds from the agent's start after which no further model call is of
            use; a call that can't be granted by then is refused at once.
        tenant: on whose behalf the agent works, or a function that says so of a model call's
            request (``lambda request: request.runtime.context.customer``). Tenants that wait get
            equal shares of a model; ``None`` = as the model says.
        clock: tells the time; for tests.

    Raises:
        ConfigError: an unknown priority, no finite number of seconds, or an empty tenant.
    """

    state_schema = QuotafleetState

    def __init__(
        self,
        *,
        priority: Priority | None = None,
        wait_timeout: float | None = None,
        deadline_after: float | None = None,
        tenant: str | Callable[[ModelRequest[Any]], str | None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self._said = {
            "priority": check_priority(priority),
            "wait_timeout": check_seconds("wait_timeout", wait_timeout),
        }
        self._tenant = tenant if callable(tenant) else check_tenant(tenant)
        self._deadline_after = check_seconds("deadline_after", deadline_after)
        self._clock = clock or SystemClock()

    def before_agent(self, state: QuotafleetState, runtime: Any) -> dict[str, Any] | None:
        """Note when the agent begins."""
        return {"quotafleet_began_at": self._clock.now()}

    async def abefore_agent(self, state: QuotafleetState, runtime: Any) -> dict[str, Any] | None:
        """Note when the agent begins."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model with what the agent's calls are."""
        return handler(self._told(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Call the model with what the agent's calls are."""
        return await handler(self._told(request))

    def _told(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model = request.model
        if not isinstance(model, (PooledModel, ChatPool)):
            return request
        said: dict[str, Any] = {n: value for n, value in self._said.items() if value is not None}
        tenant = self._tenant
        name = check_tenant(tenant(request)) if callable(tenant) else tenant
        if name is not None:
            said["tenant"] = name
        if self._deadline_after is not None:
            now = self._clock.now()
            began_at = request.state.get("quotafleet_began_at", now)
            said["deadline_after"] = max(0.0, began_at + self._deadline_after - now)  # type: ignore[operator] # a float, by the schema
        return request.override(model=model.model_copy(update=said)) if said else request
