"""What it costs to choose one of many deployments, by quotafleet and by LiteLLM's simple-shuffle.

    python benchmarks/litellm_selection.py [--deployments 100]

quotafleet's figure has everything in it: estimate, reservation, and the lease's end. Rounds of both
take turns in one process, and the median ratio counts, so that other load falls out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

from litellm_quotafleet import QuotafleetRouting, _open_attempts

MESSAGES = [{"role": "user", "content": "What is a fleet?"}]
ROUND = 100


def router_of(count: int) -> Any:
    return litellm.Router(
        model_list=[
            {
                "model_name": "fast",
                "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": f"sk-{n:020}"},
                "model_info": {"id": f"d{n}"},
            }
            for n in range(count)
        ]
    )


async def time_of(router: Any) -> float:
    """Return seconds of CPU for each selection, and the end of its lease if there is one."""
    began = time.process_time()
    for _ in range(ROUND):
        kwargs: dict[str, Any] = {"metadata": {"model_group": "fast"}}
        await router.async_get_available_deployment(
            model="fast", messages=MESSAGES, request_kwargs=kwargs
        )
        held = _open_attempts.take(kwargs)
        if held is not None:
            await held.adone(None, {})
    return (time.process_time() - began) / ROUND


async def compare(count: int, rounds: int) -> tuple[float, float, float]:
    plain, ours = router_of(count), router_of(count)
    QuotafleetRouting.install(ours)
    await time_of(plain), await time_of(ours)
    pairs = [(await time_of(plain), await time_of(ours)) for _ in range(rounds)]
    return (
        statistics.median(plain for plain, _ in pairs),
        statistics.median(ours for _, ours in pairs),
        statistics.median(ours / plain for plain, ours in pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deployments", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    print(f"{'deployments':>12}{'simple-shuffle':>18}{'quotafleet':>14}{'ratio':>9}")
    for count in given.deployments:
        plain, ours, ratio = asyncio.run(compare(count, given.rounds))
        print(f"{count:>12}{plain * 1e6:>15.0f} us{ours * 1e6:>11.0f} us{ratio:>9.2f}")


if __name__ == "__main__":
    main()
