"""The commands, joined. Errors that a user can't put right are traced, without local variables."""

from __future__ import annotations

import typer

from .batch import batch
from .check import check
from .demo import demo
from .explain import explain_command
from .mock import mock
from .revive import revive
from .simulate import simulate
from .status import status

app = typer.Typer(
    name="quotafleet",
    help="A fleet of LLM API keys: use the quota you own, be refused almost never, lose nothing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it shows local variables, and so perhaps a secret
)
for command in (batch, check, status, revive, simulate, mock, demo):
    app.command()(command)
app.command(name="explain")(explain_command)
