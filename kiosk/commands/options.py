"""What every subcommand shares: its common options, the configuration they lead to, and JSON on stdout."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kiosk.config import Config

F = TypeVar("F", bound=Callable[..., Any])

# Whoever opens a file says why it cannot be read, with the exit code for that.
PATH = click.Path(path_type=Path, readable=False)


class _Date(click.DateTime):
    """A day; what is none is told as people write it, not as ``strptime`` does."""

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d"])

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is no date: use YYYY-MM-DD, 2026-03-02 say", param, ctx)


DATE = _Date()


class WholeNumber(click.IntRange):
    """An integer within bounds; the message for what is none says so in words."""

    name = "whole number"


class Number(click.FloatRange):
    """The same for any number."""

    name = "number"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - as click has it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            # Lies within no bounds and outside of none.
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return number


def common_options(function: F) -> F:
    """``--config`` and ``--verbose``; the function receives ``config_path`` and ``verbose``."""
    function = click.option("-v", "--verbose", count=True, help="Tell more on stderr; twice for everything.")(function)
    return click.option(
        "--config",
        "config_path",
        type=PATH,
        metavar="FILE",
        help="Configuration file. Default: $KIOSK_CONFIG, ./config.yaml, /etc/kiosk/config.yaml, built-in values.",
    )(function)


def json_option(function: F) -> F:
    """``--json``; the function receives ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there.")(
        function
    )


def load(config_path: Path | None, verbose: int, *, quiet: bool = True) -> Config:
    """Set up logging and read the configuration.

    ``quiet``: without ``-v`` only warnings are logged; the daemon tells more.

    Raises:
        ConfigError: with every problem, one a line.
    """
    from kiosk import config, logs

    logs.configure(verbose - 1 if quiet else verbose)
    return config.load(config_path, os.environ)


def print_json(document: object) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def ask(question: str) -> bool:
    """Ask on stderr, default no; no answer is a no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def count(number: int, noun: str) -> str:
    """``1 template``, ``2 templates``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Iterable[str], at_most: int = 5) -> str:
    """The first few, and how many more there are."""
    shown, rest = (listed := list(names))[:at_most], len(listed) - at_most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
