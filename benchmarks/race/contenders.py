"""Who races: quotafleet under three frameworks, and what those frameworks' users do without it.

Each is a function that makes `ask`, which sends one job and returns once it is answered, or raises.
All are told the same limits, wait as long for an answer, and may make as many attempts. What is
theirs to choose follows their own documentation.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from benchmarks.race.scenarios import MODEL, Job, Scenario

#: Attempts of a call, for those that count them.
ATTEMPTS: Final = 8

Ask = Callable[[Job], Awaitable[object]]


def prompt(job: Job) -> str:
    """Return a text of the job's size, in bytes."""
    return ("All work and no play makes Jack a dull boy. " * (job.size // 44 + 1))[: job.size]


def _pool(scenario: Scenario, base_url: str) -> Any:
    from quotafleet import KeyPool, Limits, Organization

    told = scenario.told or {}
    return KeyPool(
        Organization(
            name=name, keys=(secret,), base_url=base_url, limits=Limits(**told.get(name, {}))
        )
        for name, secret in scenario.secrets().items()
    )


def _asked(client: Any, job: Job) -> Awaitable[object]:
    more = {} if job.max_tokens is None else {"max_tokens": job.max_tokens}
    done: Awaitable[object] = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt(job)}], **more
    )
    return done


def quotafleet_openai(scenario: Scenario, base_url: str) -> Ask:
    """quotafleet under the OpenAI SDK."""
    from quotafleet.openai import AsyncOpenAI

    client = AsyncOpenAI(pool=_pool(scenario, base_url), timeout=scenario.timeout)
    return lambda job: _asked(client, job)


def _invoked(llm: Any, job: Job) -> Awaitable[object]:
    more = {} if job.max_tokens is None else {"max_tokens": job.max_tokens}
    done: Awaitable[object] = llm.ainvoke(prompt(job), **more)
    return done


def quotafleet_langchain(scenario: Scenario, base_url: str) -> Ask:
    """quotafleet under LangChain."""
    from langchain_quotafleet import ChatOpenAI

    llm = ChatOpenAI(model=MODEL, pool=_pool(scenario, base_url), timeout=scenario.timeout)
    return lambda job: _invoked(llm, job)


def _router(scenario: Scenario, base_url: str, **settings: Any) -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import logging

    import litellm

    logging.disable(logging.CRITICAL)
    litellm.suppress_debug_info = True
    models = []
    for name, secret in scenario.secrets().items():
        told = (scenario.told or {}).get(name, {})
        params = {
            "model": f"openai/{MODEL}",
            "api_key": secret,
            "api_base": base_url,
            **{limit: told[limit] for limit in ("rpm", "tpm") if limit in told},
        }
        facts = {"id": name, "quotafleet_provider": "openai", "organization": name}
        models.append({"model_name": "fast", "litellm_params": params, "model_info": facts})
    return litellm.Router(model_list=models, num_retries=ATTEMPTS - 1, **settings)


def _routed(router: Any, job: Job) -> Awaitable[object]:
    more = {} if job.max_tokens is None else {"max_tokens": job.max_tokens}
    messages = [{"role": "user", "content": prompt(job)}]
    done: Awaitable[object] = router.acompletion("fast", messages, **more)
    return done


def quotafleet_litellm(scenario: Scenario, base_url: str) -> Ask:
    """quotafleet under LiteLLM's Router."""
    from litellm_quotafleet import QuotafleetRouting

    router = _router(scenario, base_url, timeout=scenario.timeout)
    QuotafleetRouting.install(router, wait_timeout=600.0)
    return lambda job: _routed(router, job)


def litellm_shuffle(scenario: Scenario, base_url: str) -> Ask:
    """LiteLLM's Router as it is: simple-shuffle, weighted by the limits."""
    router = _router(scenario, base_url, timeout=scenario.timeout)
    return lambda job: _routed(router, job)


def litellm_usage(scenario: Scenario, base_url: str) -> Ask:
    """LiteLLM's Router with usage-based-routing-v2."""
    router = _router(
        scenario, base_url, timeout=scenario.timeout, routing_strategy="usage-based-routing-v2"
    )
    return lambda job: _routed(router, job)


def litellm_enforced(scenario: Scenario, base_url: str) -> Ask:
    """LiteLLM's Router with `enforce_model_rate_limits`."""
    checks = ["enforce_model_rate_limits"]
    router = _router(scenario, base_url, timeout=scenario.timeout, optional_pre_call_checks=checks)
    return lambda job: _routed(router, job)


def langchain_own(scenario: Scenario, base_url: str) -> Ask:
    """LangChain's rate limiter at the sum of the limits, fallbacks, and retries around them."""
    from langchain_core.rate_limiters import InMemoryRateLimiter
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    limiter = None
    if scenario.told is not None:
        rpm = sum(told["rpm"] for told in scenario.told.values())
        limiter = InMemoryRateLimiter(
            requests_per_second=rpm / 60, check_every_n_seconds=0.05, max_bucket_size=rpm
        )
    first, *others = (
        ChatOpenAI(
            model=MODEL,
            api_key=SecretStr(secret),
            base_url=base_url,
            timeout=scenario.timeout,
            rate_limiter=limiter,
        )
        for secret in scenario.secrets().values()
    )
    llm = first.with_fallbacks(others).with_retry(stop_after_attempt=ATTEMPTS)
    return lambda job: _invoked(llm, job)


def tenacity_cycle(scenario: Scenario, base_url: str) -> Ask:
    """tenacity's random exponential wait (OpenAI's cookbook) over a cycle of keys."""
    import openai
    from tenacity import retry, stop_after_attempt, wait_random_exponential

    clients = itertools.cycle(
        [
            openai.AsyncOpenAI(
                api_key=secret, base_url=base_url, max_retries=0, timeout=scenario.timeout
            )
            for secret in scenario.secrets().values()
        ]
    )

    @retry(
        wait=wait_random_exponential(min=1, max=60),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    async def ask(job: Job) -> object:
        return await _asked(next(clients), job)

    return ask


#: Every contender, by the name for ``--contender``, with its title for the table.
CONTENDERS: Final[dict[str, tuple[str, Callable[[Scenario, str], Ask]]]] = {
    "quotafleet-openai": ("quotafleet, OpenAI SDK", quotafleet_openai),
    "quotafleet-langchain": ("quotafleet, LangChain", quotafleet_langchain),
    "quotafleet-litellm": ("quotafleet, LiteLLM", quotafleet_litellm),
    "litellm-shuffle": ("LiteLLM simple-shuffle", litellm_shuffle),
    "litellm-usage": ("LiteLLM usage-based-v2", litellm_usage),
    "litellm-enforced": ("LiteLLM enforced limits", litellm_enforced),
    "langchain": ("LangChain limiter, fallbacks, retry", langchain_own),
    "tenacity": ("tenacity over a cycle of keys", tenacity_cycle),
}

#: Those that are the production core, which runs on a simulated clock too.
SIMULATED: Final = frozenset(name for name in CONTENDERS if name.startswith("quotafleet"))
