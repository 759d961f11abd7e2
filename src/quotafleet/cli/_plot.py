"""A picture of a simulation: who waits over time, and what each owner's limits had left."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError
from ._forecast import STEP, Forecast

#: Owners drawn, the busiest first: more can't be read.
DRAWN: Final = 20


def draw(told: Forecast, file: Path) -> None:
    """Draw a forecast; the file's ending says in which format.

    Raises:
        ConfigError: matplotlib is missing, or does not know the format.
    """
    try:
        figures: Any = import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise ConfigError("--plot needs matplotlib", cure="pip install matplotlib") from error
    figure = figures.Figure(figsize=(9, 7), layout="constrained")
    waiting, used = figure.subplots(2, 1)
    minutes = [number * STEP / 60 for number in range(len(told.steps))]
    waiting.step(minutes, told.steps, where="post")
    waiting.set(xlabel="minutes", ylabel="calls waiting", ylim=(0, None))
    busiest = sorted(told.used, key=lambda owner: -told.used[owner].calls)[:DRAWN]
    names = sorted({name for owner in busiest for name in told.limits[owner]})
    for place, name in enumerate(names):
        shares = [100 * told.limits[owner].get(name, 0.0) for owner in busiest]
        width = 0.8 / len(names)
        used.bar([n + place * width for n in range(len(busiest))], shares, width, label=name)
    used.set_xticks(range(len(busiest)), busiest, rotation=60, ha="right")
    used.set(ylabel="% of the limit used")
    if names:
        used.legend()
    try:
        figure.savefig(file)
    except ValueError as error:
        raise ConfigError(f"--plot: {error}", cure="Name it like use.png") from error
