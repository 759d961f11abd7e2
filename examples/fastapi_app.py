"""A FastAPI app whose workers share one quota over Redis.

It brings a mock provider, so it needs no key, only a Redis server:

    REDIS_URL=redis://localhost:6379/0 python examples/fastapi_app.py
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from quotafleet import KeyPool, Organization
from quotafleet.openai import AsyncOpenAI
from quotafleet.testing import default_fleet, serve

CALLS = 20


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one pool in each worker; the store makes them one quota."""
    acme = Organization(name="acme", keys=("sk-mock-acme-1",), base_url=os.environ["PROVIDER_URL"])
    pool = KeyPool([acme], store=os.environ["REDIS_URL"])
    async with AsyncOpenAI(pool=pool) as client:
        app.state.client = client
        yield
    await pool.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/hello")
async def hello() -> dict[str, object]:
    """Answer with the model's words and the worker's process id."""
    answer = await app.state.client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=20,
    )
    return {"worker": os.getpid(), "text": answer.choices[0].message.content}


def get(url: str) -> dict[str, object]:
    """Return the JSON at a URL, once its server is up."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)  # type: ignore[no-any-return]
        except ConnectionError:
            time.sleep(0.1)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
            time.sleep(0.1)
    raise TimeoutError(url)


def main() -> None:
    """Run two workers, send calls to them, and print how many each answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--workers", "2"]
    command += ["--app-dir", str(Path(__file__).parent), "--port", port, "--log-level", "warning"]
    with serve(default_fleet()) as provider:
        environment = {**os.environ, "PROVIDER_URL": provider.base_url}
        with subprocess.Popen(command, env=environment) as server:
            try:
                url = f"http://127.0.0.1:{port}/hello"
                get(url)
                with ThreadPoolExecutor(8) as threads:
                    answers = list(threads.map(get, [url] * CALLS))
            finally:
                server.terminate()
    workers = {answer["worker"] for answer in answers}
    print(f"{len(answers)} calls answered by {len(workers)} of 2 workers")


if __name__ == "__main__":
    main()
