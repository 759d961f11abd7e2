"""An existing LiteLLM Router over two owners, scheduled by quotafleet. Needs no account.

python examples/litellm_router.py
"""

from __future__ import annotations

import asyncio
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network at import

import litellm

from litellm_quotafleet import QuotafleetRouting
from quotafleet.testing import MockFleet, MockProvider, SystemClock, serve


async def main(base_url: str, secrets: tuple[str, ...]) -> None:
    """Ask more often than the quota allows at once; nothing is refused."""
    router = litellm.Router(
        model_list=[
            {
                "model_name": "fast",
                "litellm_params": {
                    "model": "openai/gpt-4o-mini",
                    "api_key": secret,
                    "api_base": base_url,
                    "rpm": 60,
                },
                "model_info": {"organization": f"org-{n}", "quotafleet_provider": "openai"},
            }
            for n, secret in enumerate(secrets)
        ]
    )
    routing = QuotafleetRouting.install(router)
    messages = [{"role": "user", "content": "What is a fleet?"}]
    calls = (router.acompletion("fast", messages) for _ in range(122))
    answers = await asyncio.gather(*calls)
    print(f"{len(answers)} answers")
    for key in routing.pool.status().keys:
        print(f"{key.owner}: {key.answered} answered, {key.refused} refused")


if __name__ == "__main__":
    fleet = MockFleet.simple({"acme": {"rpm": 60}, "globex": {"rpm": 60}})
    with serve(MockProvider(fleet, clock=SystemClock())) as server:
        asyncio.run(main(server.base_url, fleet.secrets()))
