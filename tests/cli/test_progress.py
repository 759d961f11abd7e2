"""Progress is drawn live in a terminal, and written in plain lines elsewhere."""

import asyncio
import io

import pytest
from rich.console import Console

from quotafleet import Demand, KeyPool
from quotafleet.cli import _progress
from quotafleet.cli._engine import Tally
from quotafleet.cli._progress import ProgressMeter, drawn, plain, watch
from quotafleet.testing.clock import FakeClock


def fleet(owners: int, clock: FakeClock) -> KeyPool:
    from quotafleet import Limits, Organization

    return KeyPool(
        [
            Organization(
                name=f"org{number:02}",
                keys=(f"sk-test-{number:016}",),
                limits=Limits(rpm=10, tpm=1000),
            )
            for number in range(owners)
        ],
        strategy="round-robin",
        clock=clock,
    )


def lease_all(pool: KeyPool, count: int) -> None:
    for _ in range(count):
        with pool.lease(Demand(model="gpt-4o", input_tokens=10)):
            pass


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_view_tells_rate_eta_and_headroom() -> None:
    clock = FakeClock()
    pool, tally = fleet(2, clock), Tally(total=100, before=10)
    meter = ProgressMeter(pool, tally)
    lease_all(pool, 4)
    clock.advance(3)
    tally.answered = 30
    view = meter.view()
    assert (view.done, view.per_minute, view.eta) == (40, 600, 6.0)
    text = plain(view)
    for part in ("40/100 (40 %)", "600/min", "ETA 6.0 s", "refused 0", "waiting 0"):
        assert part in text
    assert "org00 85% of rpm" in text  # 8 of 10 left, and 3 s of 6 a minute since
    drawing = shown(drawn(view))
    assert "40/100" in drawing
    assert "85% of rpm left" in drawing


def test_the_rate_is_that_of_the_last_minute() -> None:
    clock = FakeClock()
    tally = Tally(total=10_000)
    meter = ProgressMeter(fleet(1, clock), tally)
    for second in range(300):
        clock.advance(1)
        tally.answered += 1 if second < 200 else 2
        view = meter.view()
    assert view.per_minute == pytest.approx(120, rel=0.02)


def test_before_the_first_answer_nothing_is_known() -> None:
    view = ProgressMeter(fleet(1, FakeClock()), Tally(total=5)).view()
    assert view.eta is None
    assert "ETA ?" in plain(view)


def test_of_many_owners_the_scarcest_are_shown() -> None:
    clock = FakeClock()
    pool = fleet(30, clock)
    lease_all(pool, 40)  # the first ten have one call less
    view = ProgressMeter(pool, Tally(total=5)).view()
    assert len(view.headroom) == _progress.SHOWN
    assert view.hidden == 30 - _progress.SHOWN
    assert max(one.share for one in view.headroom) < 0.95
    assert "18 more" in plain(view)
    assert "18 more owners" in shown(drawn(view))


@pytest.mark.parametrize("terminal", [True, False])
async def test_it_is_watched_until_the_end(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "PLAIN_EVERY", 0.0)
    monkeypatch.setattr(_progress, "LIVE_EVERY", 0.0)
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, highlight=False)
    tally = Tally(total=5)
    task = asyncio.create_task(watch(ProgressMeter(fleet(1, FakeClock()), tally), console))
    for _ in range(5):
        await asyncio.sleep(0)
    tally.answered = 5
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "5/5" in file.getvalue()
    assert ("\x1b[" in file.getvalue()) == terminal
