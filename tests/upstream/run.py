"""Run the suites of others over the drop-ins; what `make test-upstream` calls.

    python tests/upstream/run.py [unit] [standard] [--stock] [-- pytest arguments]

``unit``: langchain-openai's own unit tests, from the source of the version installed, which is
downloaded and not kept in this project. ``standard``: langchain-tests' suites, which LangChain
holds every integration to, against the mock provider. With ``--stock`` the same tests run over
stock's classes, for the numbers to compare with.

tiktoken's two vocabularies are taken from LiteLLM's package where it is installed; else tiktoken
fetches them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
# Neither the project's own settings nor the suite's: it asks for coverage.
PYTEST: Final = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-W", "ignore")


def source(package: str, folder: Path) -> Path:
    """Download the source of the installed version of a package, and return where it is."""
    wanted = f"{package}=={version(package)}"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:"]
    subprocess.run([*download, "--no-deps", "--dest", str(folder), wanted], check=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def environment(*, stock: bool) -> dict[str, str]:
    """Return the environment of a suite: the working tree's packages, and no key."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "KEYFLEET_"))}
    paths = [str(ROOT / "src"), str(ROOT / "integrations"), str(HERE), keep.get("PYTHONPATH", "")]
    keep["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    keep["KEYFLEET_STANDARD"] = "stock" if stock else "dropin"
    litellm = find_spec("litellm")
    if litellm is not None and litellm.origin is not None:
        tokenizers = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
        keep.setdefault("TIKTOKEN_CACHE_DIR", str(tokenizers))
    return keep


def unit(arguments: list[str], *, stock: bool) -> int:
    """Run langchain-openai's unit tests."""
    with tempfile.TemporaryDirectory() as folder:
        where = source("langchain-openai", Path(folder))
        plugin = () if stock else ("-p", "dropin_plugin")
        offline = ("--disable-socket", "--allow-unix-socket")
        command = [sys.executable, *PYTEST, *plugin, *offline, "tests/unit_tests", *arguments]
        env = environment(stock=stock)
        return subprocess.run(command, cwd=where, env=env, check=False).returncode


def standard(arguments: list[str], *, stock: bool) -> int:
    """Run langchain-tests' suites, each test in an event loop of its own."""
    # Stock on openai 3.x can't use a client in a second loop: it gets one for all tests.
    scope = "session" if stock else "function"
    loops = (
        *("-o", f"asyncio_default_test_loop_scope={scope}"),
        *("-o", f"asyncio_default_fixture_loop_scope={scope}"),
    )
    modes = ("-o", "asyncio_mode=auto", "--import-mode=importlib", "-o", "filterwarnings=")
    command = [sys.executable, *PYTEST, *loops, *modes, str(HERE / "standard.py"), *arguments]
    env = environment(stock=stock)
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def main() -> int:
    """Run what was asked for; return 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("suites", nargs="*", help="unit, standard; both by default")
    parser.add_argument("--stock", action="store_true", help="over stock's classes")
    known, rest = parser.parse_known_args()
    suites = {"unit": unit, "standard": standard}
    chosen = [name for name in known.suites if name in suites] or list(suites)
    codes = [
        suites[name]([one for one in rest if one != "--"], stock=known.stock) for name in chosen
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
