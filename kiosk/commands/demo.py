"""``kiosk demo``: everything at once, with nothing set up."""

from __future__ import annotations

from pathlib import Path

import click

from kiosk.commands.options import PATH, Number
from kiosk.demo import run_demo


@click.command("demo")
@click.option("--keep", type=PATH, metavar="DIR", help="Work in a new folder below DIR and leave it there.")
@click.option(
    "--patience",
    type=Number(1, 1000),
    default=1.0,
    metavar="FACTOR",
    help="Wait so many times as long as usual for each step: for very slow machines, and emulated ones.",
)
def command(keep: Path | None, patience: float) -> None:
    """See everything work, with nothing set up.

    Starts a broker on this machine, enrolls two people from sample photos, plays a clip of them and a stranger to
    `kiosk run`, and prints each MQTT message as a subscriber receives it: one JSON document a line on stdout.
    """
    run_demo(keep, patience)
