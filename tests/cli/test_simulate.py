"""`quotafleet simulate` tells what a fleet would do, needs no key, and names what is wrong."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from quotafleet.cli._forecast import Forecast, forecast
from quotafleet.cli._traffic import Arrival, drawn
from quotafleet.cli._world import configured
from quotafleet.errors import ConfigError
from quotafleet.testing import MockSettings

MODEL = "gpt-4o-mini"
SECRET = "sk-proj-abcdefghijklmnop0123456789"
FLEET = f"""
[[organizations]]
name = "acme"
keys = ["env:NOT_SET_ANYWHERE", "{SECRET}"]
limits = {{ rpm = 60, tpm = 1_000_000 }}
[[organizations]]
name = "birch wood"
keys = ["file:not.there"]
limits = {{ rpm = 30 }}
"""
INSTANT = MockSettings(ramp_base_tokens=None)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return write(tmp_path, FLEET)


def write(folder: Path, text: str) -> Path:
    file = folder / "fleet.toml"
    file.write_text(text)
    return file


def simulate(*arguments: object) -> Result:
    from quotafleet.cli._app import app

    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, ["simulate", *map(str, arguments)]
    )


def run(file: Path, arrivals: list[Arrival], settings: MockSettings = INSTANT) -> Forecast:
    found = configured(file)
    return forecast(found, found["organizations"], arrivals, [MODEL], settings)


def at_once(calls: int, **more: Any) -> list[Arrival]:
    return [Arrival(0.0, MODEL, **more) for _ in range(calls)]


def test_all_that_is_told(fleet: Path) -> None:
    result = simulate(fleet, "--rate", 200, "--calls", 600)
    assert result.exit_code == 0, result.output
    assert "600 calls" in result.output
    assert "600 answered, 0 refused by the pool, 0 failed" in result.output
    assert "the limit that binds: rpm" in result.output
    assert "turned away by the provider (429): 0" in result.output
    assert "one more organization like acme" in result.output
    assert "acme in a tier of twice its limits" in result.output
    assert "birch wood" in result.output
    assert "cost: $0." in result.output
    assert SECRET not in result.output


def test_the_same_seed_tells_the_same(fleet: Path) -> None:
    first, again, other = (
        simulate(fleet, "--rate", 200, "--calls", 300, "--seed", seed).output for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_saturated_fleet_ends_at_the_fluid_bound(fleet: Path) -> None:
    told = run(fleet, at_once(600))
    assert told.answered == told.calls == 600
    # 90 calls are there at once, the others come at 90 a minute.
    assert told.seconds == pytest.approx((600 - 90) / 1.5, rel=0.02)
    assert told.turned_away == 0
    assert told.used["acme"].calls == pytest.approx(400, abs=8)
    assert told.limits["acme"]["rpm"] == pytest.approx(1.0, abs=0.03)
    assert told.wait(0.0) == 0.0
    assert told.wait(1.0) == pytest.approx(told.seconds)
    assert told.wait(0.5) == pytest.approx((300 - 90) / 1.5, rel=0.05)
    assert max(told.steps) == pytest.approx(510, abs=5)
    binding = told.binding()
    assert binding is not None
    assert binding[0] == "rpm"


def test_tokens_and_money_are_those_of_the_calls(fleet: Path) -> None:
    told = run(fleet, at_once(10, input_tokens=1000, output_tokens=100))
    assert sum(used.tokens for used in told.used.values()) == 10 * 1002
    assert float(told.usd) == pytest.approx(10 * (1000 * 0.15 + 100 * 0.60) / 1e6)


def test_a_projects_own_limits_hold(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
[[organizations]]
name = "acme"
limits = { rpm = 600 }
[[organizations.projects]]
name = "small"
keys = ["env:A"]
limits = { rpm = 60 }
""",
    )
    told = run(file, at_once(120))
    assert told.seconds == pytest.approx(60, rel=0.05)
    assert list(told.used) == ["acme/small"]
    assert told.turned_away == 0


def test_a_model_has_the_limits_of_its_pattern(tmp_path: Path) -> None:
    text = FLEET + '[organizations.models."gpt-4o*"]\nlimits = { rpm = 600 }\n'
    assert run(write(tmp_path, text), at_once(600)).seconds == pytest.approx(0, abs=1)


def test_limits_that_nobody_stated_are_assumed(tmp_path: Path) -> None:
    told = run(
        write(tmp_path, '[[organizations]]\nname = "a"\nkeys = ["env:A"]\n'),
        at_once(550, input_tokens=9),
    )
    assert told.seconds == pytest.approx(6.0, rel=0.1)  # 500 a minute


def test_nothing_is_bought_where_nobody_waits(fleet: Path) -> None:
    result = simulate(fleet, "--rate", 10, "--calls", 20)
    assert "more quota would buy nothing" in result.output
    assert "one more" not in result.output
    assert "one more" not in simulate(fleet, "--rate", 900, "--calls", 200, "--no-more").output


def test_calls_that_find_no_place_are_told_and_fail_the_command(tmp_path: Path) -> None:
    file = write(tmp_path, "[wait]\nmax_waiting = 10\n" + FLEET)
    result = simulate(file, "--rate", 100_000, "--calls", 200, "--no-more")
    assert result.exit_code == 1
    assert "refused as QueueFull: " in result.output


def test_limits_that_the_mock_does_not_know_are_warned_of(tmp_path: Path) -> None:
    file = write(tmp_path, FLEET.replace("rpm = 30", "rpm = 30, concurrent = 5"))
    result = simulate(file, "--rate", 10, "--calls", 5)
    assert "does not enforce concurrent" in result.output


def test_a_trace_says_when_what_and_for_whom(fleet: Path, tmp_path: Path) -> None:
    trace = tmp_path / "calls.jsonl"
    calls: list[dict[str, object]] = [{"at": 0.0, "tenant": "flood"}] * 300
    calls.append({"at": 10.0, "tenant": "calm", "priority": "interactive", "model": "gpt-4.1"})
    lines = [json.dumps(call) for call in reversed(calls)]
    trace.write_text("\n".join([*lines, ""]))
    result = simulate(fleet, "--trace", trace, "--no-more")
    assert result.exit_code == 0, result.output
    assert "301 calls" in result.output
    assert "200 calls" in simulate(fleet, "--trace", trace, "--no-more", "--calls", 200).output


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ("{}", "at is not a number"),
        ('{"at": true}', "at is not a number"),
        ('{"at": -1}', "at is not a number"),
        ('{"at": 1, "tokens": 3}', "no field 'tokens'"),
        ('{"at": 1, "input_tokens": 1.5}', "input_tokens is not a number of tokens"),
        ('{"at": 1, "output_tokens": -1}', "output_tokens is not a number of tokens"),
        ('{"at": 1, "priority": "urgent"}', "priority is none of interactive"),
        ('{"at": 1, "model": 3}', "a name is not a text"),
    ],
)
def test_a_line_that_is_wrong_is_named(fleet: Path, tmp_path: Path, line: str, says: str) -> None:
    trace = tmp_path / "calls.jsonl"
    trace.write_text('{"at": 0}\n' + line + "\n")
    result = simulate(fleet, "--trace", trace)
    assert result.exit_code == 2
    assert "line 2" in result.output
    assert says in result.output


def test_what_is_wrong_is_told(fleet: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[[organizations]]\nkeys = 3\n")
    no_toml = tmp_path / "no.toml"
    no_toml.write_text("organizations = [")
    for arguments, says in (
        ((fleet,), "either --trace or --rate"),
        ((fleet, "--rate", 1, "--trace", empty), "either --trace or --rate"),
        ((fleet, "--trace", empty), "holds no call"),
        ((fleet, "--trace", tmp_path / "missing"), "No such file"),
        ((tmp_path / "missing.toml", "--rate", 1), "No such file"),
        ((wrong, "--rate", 1), "organizations[0]"),
        ((no_toml, "--rate", 1), "is not TOML"),
    ):
        result = simulate(*arguments)
        assert (result.exit_code, says in result.output) == (2, True), (arguments, result.output)


def test_drawn_calls_come_at_the_rate_and_of_the_size_asked() -> None:
    calls = list(
        drawn(
            4000,
            per_minute=600,
            model=MODEL,
            input_tokens=500,
            output_tokens=200,
            random=Random(1),
        )
    )
    assert calls[-1].at == pytest.approx(400, rel=0.1)
    assert sorted(call.input_tokens for call in calls)[2000] == pytest.approx(500, rel=0.1)
    assert sorted(call.output_tokens for call in calls)[2000] == pytest.approx(200, rel=0.1)
    assert all(one.at <= other.at for one, other in pairwise(calls))


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="it is installed")
def test_a_picture_needs_matplotlib(fleet: Path, tmp_path: Path) -> None:
    picture = tmp_path / "use.png"
    result = simulate(fleet, "--rate", 10, "--calls", 5, "--plot", picture)
    assert result.exit_code == 2
    assert "pip install matplotlib" in result.output


def test_a_picture_is_drawn(fleet: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from quotafleet.cli._plot import draw

    told = run(fleet, at_once(300))
    draw(told, tmp_path / "use.png")
    assert (tmp_path / "use.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"use\.png"):
        draw(told, tmp_path / "use.nonsense")
