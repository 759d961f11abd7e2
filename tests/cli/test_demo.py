"""The demo shows what it claims: the fleet answers all, near the fluid limit, one key does not."""

import io

import pytest
from rich.console import Console

from quotafleet.cli import _demo as demo
from quotafleet.cli.demo import REQUESTS


@pytest.mark.realtime
def test_the_fleet_answers_all_and_more_than_one_key_does() -> None:
    console = Console(file=io.StringIO(), width=80)
    fleet, one = demo.show(console, 430)
    assert (fleet.answered, fleet.failed, fleet.lost) == (430, 0, 0)
    assert fleet.refused + one.refused < 0.05 * 430  # how near 0 is for an idle machine to show
    assert fleet.ideal <= fleet.seconds < 30
    assert 0.6 < fleet.share(fleet.per_minute) <= 1
    assert sum(fleet.by_owner.values()) == 430
    assert one.lost == 0
    assert 0 < one.answered <= 240 + 4 * fleet.seconds + 5  # how many is a matter of the machine
    assert one.answered < fleet.answered
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for shown in ("refused (429)", "lost", "fluid limit", "430 of 430", "cedar"):
        assert shown in text
    assert max(map(len, text.splitlines())) <= 80 or "http" in text
    assert "sk-mock" not in text


def test_the_demo_fits_into_a_minute() -> None:
    """Twice the fluid limit and two processes to start, with room for a slow machine."""
    per_minute = sum(owner.per_minute for owner in demo.OWNERS)
    assert 2 * 60 * (REQUESTS / per_minute - 1) < 45


def test_all_requests_cost_the_same_as_the_limits_of_tokens_assume() -> None:
    from quotafleet.providers import provider

    lines = {
        provider("openai").plan("POST", "chat/completions", "application/json", body).demand.tokens
        for body in map(demo.body, (0, 7, 559))
    }
    assert lines == {demo.TOKENS}
