"""The command line: ``quotafleet batch``, ``check``, ``status``, ``revive``, ``simulate`` and more.

What it is made of (typer, rich) comes with the extra `cli`, and is imported only once `main` runs.
"""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["main"]

#: What the extra brings; anything else that is missing is a fault, and shown as one.
_EXTRA: Final = frozenset({"typer", "rich", "openai", "httpx", "httpx2", "uvicorn"})


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    try:
        from ._app import app  # noqa: PLC0415 - so that a missing extra is told, not traced

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(f"quotafleet: {missing} is missing: in the checkout, pip install '.[cli]'")
