"""What must hold for an installed wheel: `installed.py plain | openai MAJOR | cli | extra NAME`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

EXTRAS = (
    *("httpx", "httpx2", "openai", "redis", "langchain", "langchain_core", "litellm", "typer"),
    *("rich", "starlette", "uvicorn", "tiktoken", "keyring", "hypothesis", "pytest"),
)

CONFIG = """
[[organizations]]
name = "acme"
base_url = "http://127.0.0.1:9/v1"
keys = ["env:ACME_KEY"]
limits = { rpm = 500, tpm = 200_000 }
"""
KEY = "sk-installed-0123456789abcdef"


def plain() -> None:
    import quotafleet
    from quotafleet import Demand, KeyPool, Limits, Organization, Usage

    leaked = sorted(name for name in EXTRAS if name in sys.modules)
    assert not leaked, f"import quotafleet pulls {', '.join(leaked)}"
    for name in quotafleet.__all__:
        assert getattr(quotafleet, name) is not None
    acme = Organization(name="acme", keys=(KEY,), limits=Limits(rpm=1, tpm=1000))
    pool = KeyPool([acme])
    with pool.lease(Demand(model="m", input_tokens=3, output_tokens=4), timeout=1) as lease:
        assert lease.key_id == "acme#1"
        lease.settle(Usage(input_tokens=3, output_tokens=2))
    assert pool.eta(Demand(model="m")) > 0, "the second call of a minute must wait"
    assert pool.status().in_flight == 0
    package = files("quotafleet")
    for name in ("py.typed", "quotafleet.schema.json"):
        assert package.joinpath(name).is_file(), f"{name} is not in the wheel"
    dicts = KeyPool.from_config({"organizations": [{"name": "acme", "keys": [KEY]}]})
    assert len(dicts.keys) == 1


def openai(major: str) -> None:
    assert version("openai").split(".")[0] == major, version("openai")
    from quotafleet import KeyPool, Organization
    from quotafleet.openai import AsyncOpenAI, OpenAI

    pool = KeyPool([Organization(name="acme", keys=(KEY,), base_url="http://127.0.0.1:9/v1")])
    for client in (OpenAI(pool=pool), AsyncOpenAI(pool=pool)):
        assert client.max_retries == 0, "the SDK's own retries must be off"
    engines = {"2": "httpx", "3": "httpx2"}
    assert engines[major] in sys.modules
    other = engines["3" if major == "2" else "2"]
    print(f"openai {version('openai')} on {engines[major]}; {other} loaded: {other in sys.modules}")


def cli() -> None:
    Path("quotafleet.toml").write_text(CONFIG)
    command = Path(sys.executable).with_name("quotafleet")
    done = subprocess.run(
        [command, "check"],
        env={"ACME_KEY": KEY, "PATH": "", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"quotafleet check: exit code {done.returncode}"
    assert "acme" in done.stdout
    assert KEY not in done.stdout + done.stderr, "quotafleet check shows a secret"
    for name in ("batch", "check", "mock", "demo"):
        subprocess.run([command, name, "--help"], check=True, stdout=subprocess.DEVNULL)


#: What each extra is for: the module that must import where nothing but that extra is installed.
MODULES = {
    "openai": "quotafleet.openai",
    "langchain": "langchain_quotafleet",
    "litellm": "litellm_quotafleet",
    "redis": "quotafleet.stores.redis",
    "cli": "quotafleet.cli",
    "tokens": "tiktoken",
    "keyring": "keyring",
    "mock": "quotafleet.testing",
    "all": "litellm_quotafleet",
}


def extra(name: str) -> None:
    import quotafleet

    assert quotafleet.__version__ == version("quotafleet")
    import_module(MODULES[name])
    if name == "mock":
        from quotafleet.testing import default_fleet, serve

        with serve(default_fleet()) as server:
            assert server.base_url.startswith("http://127.0.0.1:")


CHECKS: dict[str, Callable[..., None]] = {
    "plain": plain,
    "openai": openai,
    "cli": cli,
    "extra": extra,
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](*sys.argv[2:])
    print(f"{' '.join(sys.argv[1:])}: as it should be, quotafleet {version('quotafleet')}")
