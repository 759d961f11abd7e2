"""The page's code runs, one block after another, as a reader would add them to a program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from litellm_quotafleet import QuotafleetRouting, proxy_handler, uninstall

from .conftest import MESSAGES, World, idle, idle_now
from .test_calls import pool_of

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "litellm.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


async def test_the_pages_code_runs(world: World) -> None:
    with pool_of(world) as pool:
        names: dict[str, Any] = {
            "model_list": world.model_list(rpm=600),
            "messages": MESSAGES,
            "pool": pool,
        }
        *routers, plain, dspy = blocks("py")
        assert len(routers) == 2
        for block in routers:
            exec(compile(block, str(PAGE), "exec"), names)
            routing = names["router"].__dict__["async_get_available_deployment"].__self__
            assert isinstance(routing, QuotafleetRouting)
            world.installed.append(routing)
            await names["router"].acompletion("fast", MESSAGES)
            await idle(routing)
        assert routing.pool is pool
        before = world.received
        exec(compile(plain, str(PAGE), "exec"), names)
        assert names["answer"].choices[0].message.content
        idle_now(routing)
        assert world.received == before + 1
        world.provider.script("[[ ## answer ## ]]\nMany.\n\n[[ ## completed ## ]]")
        try:
            exec(compile(dspy, str(PAGE), "exec"), names)
            names["dspy"].configure_cache(enable_disk_cache=False, enable_memory_cache=False)
            answer = names["dspy"].Predict("question -> answer")
            assert answer(question="What is a fleet?").answer == "Many."
        finally:
            uninstall()
        assert world.received == before + 2
        assert sum(key.answered for key in pool.status().keys) == 3


def test_the_proxys_configuration_names_the_handler() -> None:
    (page,) = (yaml.safe_load(block) for block in blocks("yaml"))
    example = yaml.safe_load((ROOT / "examples" / "litellm_proxy.yaml").read_text())
    for found in (page, example):
        module, _, name = found["litellm_settings"]["callbacks"][0].partition(".")
        assert getattr(__import__(module), name) is proxy_handler
