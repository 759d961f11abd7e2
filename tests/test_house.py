"""The rules of the house, kept by reading its source: face, floors, sizes, clock, secrets, words.

A rule that is broken for a reason has its exception in a table here, with the reason beside it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_origin

import pytest

import quotafleet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "quotafleet"
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(text, name) for name, text in SOURCES.items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: Lines of a file: one subject fits in so many. Most have under 250.
CEILING = 500
#: Files that may have more, and how many: one subject each, which a cut would only spread.
LONG = {
    "pool.py": 600,  # leases, calls, settling: one state behind one lock
    "testing/mock/provider.py": 600,  # the eleven steps of one request
}

#: Modules that tell time or draw by chance.
CLOCKS_AND_DICE = {"time", "random", "secrets", "uuid"}
#: Names of them that are harmless: a generator that is given its seed, or is passed on.
HARMLESS = {("random", "Random")}
#: Who may import which of them all the same.
MAY_IMPORT = {
    ("_clock.py", "time"): "the one place that reads time",
}
#: Calls that read time by whatever name: datetime.now(), loop.time(), perf_counter().
READS_TIME = {"now", "utcnow", "today", "time", "monotonic", "perf_counter", "time_ns", "mktime"}

EXTRAS = {
    *("httpx", "httpx2", "openai", "redis", "langchain", "langchain_core", "litellm"),
    *("typer", "rich", "starlette", "uvicorn", "tiktoken", "keyring", "hypothesis", "pydantic"),
}


def where(name: str, node: ast.AST) -> str:
    return f"{name}:{getattr(node, 'lineno', 0)}"


def broken(found: Iterator[str]) -> str:
    """Return what breaks a rule, one a line; "" = nothing does."""
    return "\n".join(found)


# The face


def test_face_is_sorted_and_there() -> None:
    assert quotafleet.__all__ == sorted(set(quotafleet.__all__))
    assert not [name for name in quotafleet.__all__ if not hasattr(quotafleet, name)]


def test_face_is_nothing_but_names_of_other_modules() -> None:
    docstring, *rest = TREES["__init__.py"].body
    assert isinstance(docstring, ast.Expr)
    # __version__, which nobody pays for unread
    (lazy,) = [n for n in rest if isinstance(n, ast.If)]
    assert "".join(map(ast.unparse, lazy.orelse)) == "from ._version import __getattr__"
    rest.remove(lazy)
    assert not [
        where("__init__.py", n) for n in rest if not isinstance(n, ast.ImportFrom | ast.Assign)
    ]


@pytest.mark.parametrize("name", quotafleet.__all__)
def test_face_is_documented(name: str) -> None:
    value = getattr(quotafleet, name)
    assert value.__doc__ or get_origin(value) is Literal  # an alias has a comment where it is made
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in pages), (
        f"neither README.md nor docs/ mentions {name}"
    )


def test_plain_import_pulls_no_extra() -> None:
    code = "import sys, quotafleet; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert not EXTRAS & {name.partition(".")[0] for name in done.stdout.split()}


def test_version_is_that_of_the_changelog() -> None:
    released = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released is not None
    assert released[1] == PROJECT["project"]["version"]


def test_version_is_that_of_the_installed_package() -> None:
    assert quotafleet.__version__ == PROJECT["project"]["version"]
    assert "__version__" not in vars(quotafleet), "it is read when asked for, not on import"
    assert not hasattr(quotafleet, "no_such_name")


def test_workflow_runs_the_pythons_that_are_classified() -> None:
    prefix = "Programming Language :: Python :: "
    classified = [c[len(prefix) :] for c in PROJECT["project"]["classifiers"] if prefix in c]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    matrix = re.search(r"python: \[(.*)\]", workflow)
    assert matrix is not None
    assert re.findall(r"[\d.]+", matrix[1]) == classified
    assert not re.findall(r"uses: [^@\s]+@(?![0-9a-f]{40}\b)", workflow), "pin actions by commit"


def test_makefile_declares_every_target_phony() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = set(re.sub(r"\\\n", " ", text).split(".PHONY:", 1)[1].split("\n", 1)[0].split())
    targets = {
        name
        for line in re.findall(r"^([a-z0-9 -]+):(?!=)[^=\n]*## ", text, re.M)
        for name in line.split()
    }
    assert targets == declared


def test_extra_all_holds_every_extra() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.removeprefix("quotafleet[").removesuffix("]").split(","))
    assert named == set(extras) - {"all"}


def test_no_file_has_the_former_name() -> None:
    former = "key" + "fleet"
    found = subprocess.run(
        ["git", "grep", "--untracked", "-il", former],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    paths = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not found.stdout.splitlines()
    assert not [path for path in paths.stdout.splitlines() if former in path.lower()]


# Floors and sizes


def test_imports_run_downhill() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :]


@pytest.mark.parametrize("name", SOURCES)
def test_file_has_one_subject(name: str) -> None:
    assert len(SOURCES[name].splitlines()) <= LONG.get(name, CEILING)


def test_long_files_are_still_long() -> None:
    def shrunk() -> Iterator[str]:
        for name in LONG:
            lines = len(SOURCES[name].splitlines()) if name in SOURCES else 0
            if lines <= CEILING:
                yield f"{name} has {lines} lines: take it off the list"

    assert not broken(shrunk())


# Time and chance


def imported(tree: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """Yield each import: the node, the module, the name taken from it or ""."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, ""
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield node, node.module or "", alias.name


def test_only_the_clock_imports_time_and_chance() -> None:
    def breaches() -> Iterator[str]:
        for name, tree in TREES.items():
            for node, module, taken in imported(tree):
                allowed = (module, taken) in HARMLESS or (name, module) in MAY_IMPORT
                if module in CLOCKS_AND_DICE and not allowed:
                    yield f"{where(name, node)} imports {module}: take a Clock, now= or a Random"

    assert not broken(breaches())


def test_only_the_clock_reads_time() -> None:
    def breaches() -> Iterator[str]:
        for name, tree in TREES.items():
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                called, of = node.func.attr, ast.unparse(node.func.value)
                if called in READS_TIME and not is_our_clock(called, of):
                    yield f"{where(name, node)} calls {of}.{called}()"

    assert not broken(breaches())


def is_our_clock(called: str, of: str) -> bool:
    """Whether ``of.called()`` asks a `Clock`, or a simulation, which has one."""
    return called == "now" and re.search(r"(clock|simulation|self)(\(\))?$", of, re.I) is not None


# Secrets


def test_secrets_are_revealed_at_the_rim_only() -> None:
    """A provider's `credentials` turns a secret into a header; nothing else reads one."""

    def breaches() -> Iterator[str]:
        for name, tree in TREES.items():
            rim = set(at_the_rim(tree)) if name.startswith("providers/") else set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and node.attr == "reveal" and node not in rim:
                    yield f"{where(name, node)} reveals a secret"

    assert not broken(breaches())


def at_the_rim(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "credentials":
            yield from ast.walk(node)


# Words


def test_nothing_is_left_to_be_done_later() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")

    def breaches() -> Iterator[str]:
        for name, text in SOURCES.items():
            for number, line in enumerate(text.splitlines(), start=1):
                if mark.search(line):
                    yield f"{name}:{number} {line.strip()}"

    assert not broken(breaches())


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.AST]:
    """Yield classes, functions and methods that are called from elsewhere; ruff skips `_x.py`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_") or is_said_elsewhere(node):
                continue
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def is_said_elsewhere(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    return any(d == "overload" or d == "override" or d.endswith(".setter") for d in decorators)


@pytest.mark.parametrize("name", SOURCES)
def test_public_names_say_what_they_do(name: str) -> None:
    tree = TREES[name]
    silent = [where(name, node) for node in public(tree) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert not silent
    assert ast.get_docstring(tree) or not tree.body


def test_broad_except_says_why() -> None:
    def breaches() -> Iterator[str]:
        for name, tree in TREES.items():
            lines = SOURCES[name].splitlines()
            for node in ast.walk(tree):
                if isinstance(node, ast.ExceptHandler) and is_broad(node):
                    comment = lines[node.lineno - 1].partition("#")[2]
                    if not re.sub(r"noqa(: \w+)?|BLE001|pragma: no cover", "", comment).strip(
                        " -#"
                    ):
                        yield f"{where(name, node)} catches everything and doesn't say why"

    assert not broken(breaches())


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything; one that ends by raising it again lets everything through."""
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(k is None or ast.unparse(k) in ("Exception", "BaseException") for k in kinds)


def test_public_names_avoid_empty_words() -> None:
    empty = re.compile(r"(Manager|Handler|Helper|Utils?)$")

    def breaches() -> Iterator[str]:
        for name, tree in TREES.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and empty.search(node.name):
                    yield f"{where(name, node)} {node.name}"

    assert not broken(breaches())


#: Words for data flow that belong to people, for each 1,000 words of docstrings. To come: 0.3.
SPOKEN_CEILING = 8.1


def test_docstrings_use_few_words_of_speech() -> None:
    spoken = re.compile(r"\b(tell|tells|told|telling|say|says|said|hear|heard)\b", re.I)
    holders = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [
        ast.get_docstring(node) or ""
        for folder in ("src", "integrations")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, holders)
    ]
    words = sum(len(text.split()) for text in docstrings)
    rate = 1000 * sum(len(spoken.findall(text)) for text in docstrings) / words
    print(f"{rate:.2f} words of speech per 1,000 words of docstrings")
    assert rate <= SPOKEN_CEILING
