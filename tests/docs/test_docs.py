"""What README and docs say: their code runs, their configurations load, their links lead on."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quotafleet import KeyPool
from quotafleet.testing import default_fleet, serve
from quotafleet.testing.contracts import StoreContract, StrategyContract

#: Pages leave their clients to the interpreter's end, and it comes early here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Variables that the pages' configurations name.
KEYS = ("ACME_KEY", *(f"OPENAI_API_KEY_{name}" for name in ("ACME_1", "ACME_2", "RESEARCH")))


@dataclass(frozen=True, slots=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the fenced blocks of all pages in these languages."""
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with serve(default_fleet()) as server:
        yield server.base_url


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, without any configuration, and keys in the environment."""
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "QUOTAFLEET_"))]:
        monkeypatch.delenv(name)
    for name in KEYS:
        monkeypatch.setenv(name, f"sk-{name.lower().replace('_', '-')}-0123456789")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quotafleet._default._pool", None)
    return tmp_path


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs_on_its_own(
    block: Block, desk: Path, base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-mock-acme-1, sk-mock-birch-1")
    if "quotafleet.toml" in block.text and block.page.name != "README.md":
        Path("quotafleet.toml").write_text(
            f'[[organizations]]\nname = "acme"\nkeys = ["env:ACME_KEY"]\nbase_url = "{base_url}"\n'
        )
    code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
    names: dict[str, object] = {"__name__": "page"}
    exec(code, names)
    for made in list(names.values()):
        if isinstance(made, type) and issubclass(made, StrategyContract | StoreContract):
            keeps_its_contract(made)


def keeps_its_contract(contract: type) -> None:
    if contract.__name__.startswith("Test"):
        for name in dir(contract):
            if name.startswith("test_"):
                getattr(contract(), name)()


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_configuration_loads(block: Block, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = desk / "birch"
    secret.write_text("sk-birch-0123456789abcdef")
    text = block.text.replace("/run/secrets/birch", str(secret))
    Path("quotafleet.toml").write_text(text)
    stated = [org["name"] for org in tomllib.loads(text)["organizations"]]
    with KeyPool.from_config("quotafleet.toml") as pool:
        assert sorted({key.organization for key in pool.keys}) == sorted(stated)


def test_readme_names_the_two_commands() -> None:
    shell = "".join(block.text for block in blocks_of(ROOT / "README.md") if block.language == "sh")
    assert re.search(r"^make demo\b", shell, re.M)
    assert re.search(r"^make test\b", shell, re.M)


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    commands = {path.stem for path in (ROOT / "src/quotafleet/cli").glob("[a-z]*.py")}
    for line in block.text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if word.isidentifier()} <= targets, line
        if words[:1] == ["quotafleet"]:
            assert words[1] in commands, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            found = page.parent / path
            assert found.exists(), target
            if anchor:
                assert anchor in headers_at_admission(found), target


def headers_at_admission(page: Path) -> set[str]:
    """Return the names under which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_configuration_page_has_every_field() -> None:
    from quotafleet.config import json_schema

    page = (ROOT / "docs" / "configuration.md").read_text()
    schema = json_schema()
    tables = [schema, *schema["$defs"].values()]  # type: ignore[misc]
    fields = {name for table in tables for name in table.get("properties", {})}
    assert fields
    assert not sorted(
        name for name in fields if f"`{name}`" not in page and f".{name}`" not in page
    )


def test_every_error_and_event_is_explained() -> None:
    from quotafleet import errors
    from quotafleet import events as kinds_of_events
    from quotafleet.outcomes import Kind

    page = "".join((ROOT / "docs" / name).read_text() for name in ("events.md", "health.md"))
    events = [kind.__name__ for kind in kinds_of_events.Event.__args__]
    refusals = errors.CannotServe.__subclasses__()
    codes = [name for refusal in refusals for name in (refusal.__name__, refusal.code)]
    kinds = [kind.value for kind in Kind if kind is not Kind.OK]
    assert not [name for name in [*events, *codes, *kinds] if f"`{name}`" not in page]
