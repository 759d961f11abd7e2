"""Run the suites of others over the drop-ins and over stock's classes, and compare the outcomes.

    python tests/upstream/run.py [unit] [standard] [--beside PYTHON] [-- pytest arguments]

It is what `make test-upstream` calls. ``unit``: langchain-openai's own unit tests, from the source
of the version installed, which is downloaded beside the environment and not kept in this project.
``standard``: langchain-tests' suites, which LangChain holds every integration to, against the mock
provider. Each runs with the environment of this interpreter and, at the same time, with that of
``--beside``, which has the other line of the OpenAI SDK.

A drop-in must pass, skip and expect to fail what stock does, test by test. Stock gets one event
loop for all tests, since its clients on openai 3.x can't be used in a second one; the drop-ins get
one loop for each test as well.

tiktoken's two vocabularies come from LiteLLM's package, where this interpreter has it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
SUITES: Final = ("unit", "standard")
#: Seconds after which a run has hung; it takes 10 to 30 on two cores that nobody else uses.
HUNG_AFTER: Final = 600
# Neither the project's own settings nor the suites': those ask for coverage.
PYTEST: Final = (
    *("-m", "pytest", "-q", "-W", "ignore", "-o", "addopts=", "-o", "filterwarnings="),
    *("-p", "no:cacheprovider", "-p", "outcomes_plugin", "--benchmark-disable"),
)
#: The answers a test may have that say something is wrong.
BAD: Final = frozenset({"failed", "error"})

Outcomes = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the OpenAI SDK: an environment with it and all that the suites need."""

    python: str
    openai: str
    langchain_openai: str

    @classmethod
    def of(cls, python: str) -> Line:
        """Return the line of an interpreter."""
        ask = "from importlib.metadata import version as of"
        ask += "; print(of('openai'), of('langchain-openai'))"
        told = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
        openai, langchain_openai = told.stdout.split()
        return cls(python=python, openai=openai, langchain_openai=langchain_openai)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One suite over the classes of one side."""

    line: Line
    suite: str
    classes: str
    loops: str = "session"

    def __str__(self) -> str:
        loops = f", a loop for each {self.loops}" if self.suite == "standard" else ""
        return f"openai {self.line.openai}, {self.suite}, {self.classes}{loops}"


def runs_of(line: Line, suite: str) -> Iterator[Run]:
    """Yield the runs of a suite on a line, stock's first."""
    yield Run(line=line, suite=suite, classes="stock")
    yield Run(line=line, suite=suite, classes="drop-ins")
    if suite == "standard":
        yield Run(line=line, suite=suite, classes="drop-ins", loops="function")


def source(package: str, version: str) -> Path:
    """Return where the source of a version of a package is; download it if it is not there."""
    folder = Path(sys.prefix) / "sources"
    name = f"{package.replace('-', '_')}-{version}"
    if not (folder / name).is_dir():
        wanted = [f"{package}=={version}", "--dest", str(folder)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--no-binary", ":all:", *wanted], check=True)
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            with tarfile.open(folder / f"{name}.tar.gz") as packed:
                packed.extractall(unpacked, filter="data")
            (Path(unpacked) / name).rename(folder / name)  # there is all of it, or none
    return folder / name


def environment(run: Run, outcomes: Path) -> dict[str, str]:
    """Return the environment of a run: the working tree's packages, and no key."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "QUOTAFLEET_"))}
    paths = [str(ROOT / "src"), str(ROOT / "integrations"), str(HERE), keep.get("PYTHONPATH", "")]
    keep["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    keep["QUOTAFLEET_STANDARD"] = run.classes
    keep["QUOTAFLEET_OUTCOMES"] = str(outcomes)
    litellm = find_spec("litellm")
    if litellm is not None and litellm.origin is not None:
        tokenizers = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
        keep.setdefault("TIKTOKEN_CACHE_DIR", str(tokenizers))
    return keep


def command(run: Run) -> tuple[list[str], Path]:
    """Return what makes a run, and in which folder."""
    plugin = ("-p", "dropin_plugin") if run.classes == "drop-ins" else ()
    if run.suite == "unit":
        offline = ("--disable-socket", "--allow-unix-socket", "tests/unit_tests")
        where = source("langchain-openai", run.line.langchain_openai)
        return [run.line.python, *PYTEST, *plugin, *offline], where
    modes = (
        *("-o", f"asyncio_default_test_loop_scope={run.loops}"),
        *("-o", f"asyncio_default_fixture_loop_scope={run.loops}"),
        *("-o", "asyncio_mode=auto", "--import-mode=importlib", str(HERE / "standard.py")),
    )
    return [run.line.python, *PYTEST, *modes], ROOT


def outcomes_of(run: Run, arguments: list[str]) -> tuple[Outcomes, str]:
    """Make a run; return what came of its tests, and what it printed.

    Raises:
        SystemExit: it did not come to its end.
    """
    made, where = command(run)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "outcomes.json"
        done = subprocess.run(
            [*made, *arguments],
            cwd=where,
            env=environment(run, written),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HUNG_AFTER,
        )
        if not written.exists():
            raise SystemExit(f"{run}: ended with {done.returncode}\n{done.stdout}")
        return json.loads(written.read_text(encoding="utf-8")), done.stdout


def differences(stock: Outcomes, ours: Outcomes) -> list[str]:
    """Return in what a drop-in's outcomes are not stock's.

    What fails is named whatever stock does; what stock fails, a drop-in may pass.
    """
    told = [f"{test}: {kind}" for test, kind in ours.items() if kind in BAD]
    for test, kind in stock.items():
        here = ours.get(test, "not run")
        if here != kind and here not in BAD and kind not in BAD:
            told.append(f"{test}: {here}, with stock {kind}")
    told += [f"{test}: not run with stock" for test in ours if test not in stock]
    if "passed" not in ours.values():
        told.append("nothing passed")
    return told


def summary(outcomes: Outcomes) -> str:
    """Return how many tests had which outcome."""
    counts = Counter(outcomes.values())
    return ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))


def compared(line: Line, suites: list[str], arguments: list[str]) -> tuple[int, int]:
    """Make all runs on a line; return how many of the drop-ins' tests passed, and differ."""
    passed = wrong = 0
    for suite in suites:
        stock: Outcomes = {}
        for run in runs_of(line, suite):
            outcomes, printed = outcomes_of(run, arguments)
            print(f"{run}: {summary(outcomes)}", flush=True)
            if run.classes == "stock":
                stock = outcomes
                continue
            found = differences(stock, outcomes)
            passed += sum(kind == "passed" for kind in outcomes.values())
            wrong += len(found)
            if found:
                print("\n".join([printed, f"{run}: not as stock", *found]), flush=True)
    return passed, wrong


def main() -> int:
    """Run what was asked for; return 0 if the drop-ins do what stock does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="*", choices=(*SUITES, []), help="both by default")
    parser.add_argument("--beside", metavar="PYTHON", help="an interpreter with the other line")
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    known, arguments = parser.parse_args(given[:cut]), given[cut + 1 :]
    pythons = [sys.executable, *([os.path.abspath(known.beside)] if known.beside else [])]
    lines = [Line.of(python) for python in pythons]
    for line in lines:
        source("langchain-openai", line.langchain_openai)
    suites = known.suites or list(SUITES)
    with ThreadPoolExecutor(len(lines)) as pool:
        results = list(pool.map(lambda line: compared(line, suites, arguments), lines))
    passed, wrong = (sum(column) for column in zip(*results, strict=True))
    print(f"{passed} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
