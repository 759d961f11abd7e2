"""The command as such: its help, and what it says where its extra is missing."""

import subprocess
import sys

import pytest

from quotafleet import cli
from quotafleet.cli._console import duration, number, plural


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "quotafleet.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("batch", "check", "status", "revive", "mock", "demo"):
        assert name in done.stdout


@pytest.mark.parametrize("missing", ["typer", "rich", "openai"])
def test_a_missing_extra_is_one_line_that_names_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from quotafleet.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--requests", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"quotafleet: {missing} is missing: in the checkout, pip install '.[cli]'"
    )
    assert "Traceback" not in done.stderr


def test_what_is_missing_and_no_extra_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quotafleet.cli._app", None)
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_numbers_are_written_for_people() -> None:
    assert [number(one) for one in (500, 200_000.0, 99.5)] == ["500", "200,000", "99.5"]
    assert [duration(one) for one in (42.34, 187, 3729)] == ["42.3 s", "3:07", "1:02:09"]
    assert [plural(one, "line") for one in (1, 2000)] == ["1 line", "2,000 lines"]
