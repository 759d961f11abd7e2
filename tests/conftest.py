"""What holds for all tests."""

from __future__ import annotations

import gc
import signal
import warnings
from collections.abc import Iterator

import pytest

from quotafleet._core.fleet import ownership

#: Frameworks, and pages as their readers run them, leave clients to the interpreter's end.
LEAVE_OPEN = ("tests/integrations/", "tests/docs/")


@pytest.fixture(scope="module", autouse=True)
def collected_where_it_was_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what such a module left open, lest it be held against a later test."""
    yield
    if any(folder in request.path.as_posix() for folder in LEAVE_OPEN):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session", autouse=True)
def programs_that_can_be_interrupted() -> None:
    """Let what tests start hear Ctrl-C: whoever is started in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one answer say whose a key is: the test is about what follows."""
    monkeypatch.setattr(ownership, "ANSWERS_TO_BELIEVE", 1)
