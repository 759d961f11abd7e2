"""LiteLLM's Proxy with several workers, started by its own command: one quota in one Redis."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("orjson", reason="needs litellm[proxy]")

from tests.stores.redis_kit import TestServer, free_port, serving

from quotafleet.stores.redis._report import FleetReport, read_fleet

from .conftest import MESSAGES, World, world_of

MASTER_KEY = f"sk-{secrets.token_hex(24)}"
RPM = 60
OWNERS = 2
#: Two full buckets, and what refills in five seconds.
REQUESTS = OWNERS * (RPM + 5)
#: At its first answers a worker imports for seconds.
WARMING = 10


@contextmanager
def proxy(folder: Path, world: World, workers: int, **environment: str) -> Iterator[str]:
    """Run ``litellm --config ... --num_workers ...`` until it is healthy; yield its address."""
    config = {
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {
            "callbacks": ["litellm_quotafleet.proxy_handler"],
            "telemetry": False,
        },
        "router_settings": {"num_retries": 2},
        "model_list": world.model_list("fast", rpm=RPM),
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [Path(sys.executable).with_name("litellm"), "--config", path, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--num_workers", str(workers), "--telemetry", "False"]
    # A worker imports for seconds, during which it answers no one: it is killed for that after 5 s.
    command += ["--timeout_worker_healthcheck", "60"]
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "QUOTAFLEET_"))
    }
    inherited |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", **environment}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=inherited,
            stdout=log,
            stderr=log,
            start_new_session=True,  # its workers end with it
        )
    url = f"http://127.0.0.1:{port}"
    try:
        ends_at = time.monotonic() + 90
        while not answers(url):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < ends_at, (folder / "log").read_text()[-3000:]
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness", timeout=1).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def redis() -> Iterator[TestServer]:
    with serving() as running:
        yield running


async def ask(url: str, *, stream: bool = False) -> None:
    # A connection of its own: the workers share a port, and the system deals connections out.
    async with openai.AsyncOpenAI(
        base_url=url, api_key=MASTER_KEY, max_retries=0, timeout=60
    ) as client:
        if stream:
            chunks = await client.chat.completions.create(
                model="fast",
                messages=MESSAGES,  # type: ignore[arg-type]
                stream=True,
            )
            assert [chunk async for chunk in chunks]
        else:
            await client.chat.completions.create(model="fast", messages=MESSAGES)  # type: ignore[arg-type]


async def settled(redis: TestServer) -> FleetReport:
    """Return the fleet once nothing is under way in it."""
    ends_at = time.monotonic() + 20
    while True:
        fleet = await asyncio.to_thread(read_fleet, redis.url, "default")
        if not any(owner.in_flight or owner.waiting_processes for owner in fleet.owners):
            return fleet
        assert time.monotonic() < ends_at, fleet.owners
        await asyncio.sleep(0.1)


@pytest.mark.realtime
@pytest.mark.timeout(240)
async def test_workers_share_one_quota(redis: TestServer, tmp_path: Path) -> None:
    with (
        world_of({"a": {"rpm": RPM}, "b": {"rpm": RPM}}) as world,
        proxy(tmp_path, world, workers=2, QUOTAFLEET_STORE=redis.url) as url,
    ):
        for _ in range(WARMING):
            await ask(url)
        calls = (ask(url, stream=number % 4 == 0) for number in range(REQUESTS - WARMING))
        await asyncio.gather(*calls)  # raises what any of them does: none is lost
        fleet = await settled(redis)
        state = world.provider.state()
        assert sum(key["admitted"] for key in state["keys"].values()) == REQUESTS
        # Alone, each of the workers would have sent what both have: 60 refusals and more.
        assert state["rejected"].get("rpm", 0) <= 0.1 * REQUESTS
        assert set(state["rejected"]) <= {"rpm"}
        assert len(fleet.processes) == 2, "one worker had it all"
        print(state["rejected"])
    log = (tmp_path / "log").read_text()
    assert "as if they were alone" not in log
    assert redis.url not in log
