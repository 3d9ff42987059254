"""What ``kiosk check`` says of the computer itself: power, heat, storage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.board import Board, describe_wear
from kiosk.commands.stores import find_daemon
from kiosk.config import Config
from kiosk.errors import KioskError
from kiosk.preview import PreviewClient, socket_path

_ASK_S = 2.0
_LITTLE_MIB = 512
"""Less than that and what the system itself writes may fill the disk soon."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """``well``: nothing needs attention. ``message``: one line."""

    well: bool
    message: str


def judge_power(board: Board, seen: Mapping[str, Any]) -> Judgement:
    """``seen``: what the running kiosk has noticed since its start, see :func:`ask_daemon`."""
    condition, problem = board.condition(), board.power_problem()
    if problem is not None:
        return Judgement(False, problem)
    if condition.undervoltage is None:
        return Judgement(True, "this computer does not tell of its supply voltage")
    if seen.get("undervoltage_seen"):
        return Judgement(
            False,
            "the supply voltage is good now, and was too low since the kiosk was started: use the board's own power "
            "supply, a short cable, fewer USB devices",
        )
    since = " since the kiosk was started" if seen else "; only a running kiosk knows how it was before"
    return Judgement(True, f"the supply voltage is good{since}")


def judge_heat(board: Board, seen: Mapping[str, Any]) -> Judgement:
    """See :func:`judge_power`."""
    problem, temperature_c = board.heat_problem(), board.temperature_c
    if problem is not None:
        return Judgement(False, problem)
    at = "this computer does not tell its temperature" if temperature_c is None else f"{temperature_c:.0f} °C"
    if seen.get("throttled_seen"):
        return Judgement(
            False, f"{at}; the board has slowed itself down since the kiosk was started: give it air or a cooler"
        )
    return Judgement(True, at)


def judge_storage(board: Board, config: Config) -> Judgement:
    """Free space where the store is, errors of file systems, wear of cards."""
    folder = Path(config.store.path).absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    free_mib = shutil.disk_usage(folder).free >> 20
    wear = [describe_wear(memory) for memory in board.memories]
    told = [f"{free_mib / 1024:.1f} GiB free", *wear]
    if board.disk_errors:
        told.append(f"{sum(board.disk_errors.values())} file system errors")
    problems = board.storage_problems()
    if free_mib < max(_LITTLE_MIB, 2 * config.store.min_free_mib):
        problems.append(
            f"only {free_mib} MiB are free on the store's disk, and check-ins are refused at "
            f"{config.store.min_free_mib} (store.min_free_mib): free some"
        )
    return Judgement(not problems, "; ".join(problems or told))


def ask_daemon(config: Config) -> Mapping[str, Any]:
    """The board as the running kiosk has seen it since its start; empty where none answers."""
    if find_daemon(config) is None:
        return {}
    try:
        with PreviewClient(socket_path(Path(config.store.path))) as client:
            board = client.health(timeout_s=_ASK_S).now.get("board")
    except KioskError:
        return {}
    return board if isinstance(board, dict) else {}
