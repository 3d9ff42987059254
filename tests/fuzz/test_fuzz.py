"""The short form of fuzzing: a few hundred inputs over every surface. The long one: ``benchmarks/fuzz.py``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzz.daemon import attack_daemon
from fuzz.harness import run_surface
from fuzz.surfaces import SURFACES, Defect, Surface
from kiosk.errors import KioskError

# What bytes do has little to do with the versions of Python and libraries.
pytestmark = pytest.mark.faults

SEED = 5
MOST_GROWTH_KIB = 64 * 1024
COUNTS = {
    "photo": 120,
    "camera": 15,
    "video": 60,
    "badge": 40,
    "config": 100,
    "secrets": 40,
    "command": 60,
    "replay": 100,
    "broker": 80,
    "manifest": 120,
    "model": 2,
    "store": 3,
    "evidence": 100,
}


def test_every_surface_has_its_share() -> None:
    assert set(COUNTS) == set(SURFACES)


@pytest.mark.parametrize("name", COUNTS)
def test_no_input_crashes_hangs_or_grows(name: str, tmp_path: Path) -> None:
    result = run_surface(name, folder=tmp_path, seed=SEED, count=COUNTS[name], kept=tmp_path / "kept")
    assert result.sound, result
    assert result.inputs == COUNTS[name]
    assert result.growth_kib < MOST_GROWTH_KIB


def test_the_daemon_goes_on_recognizing(tmp_path: Path) -> None:
    result = attack_daemon(tmp_path, seed=SEED, count=100)
    assert result.sound, result
    assert result.growth_kib < MOST_GROWTH_KIB


# --- the harness itself


def _surface(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A surface of `broken.py`, for this test only; its worker finds it by the name."""
    from fuzz import broken

    monkeypatch.setitem(SURFACES, name, broken.BROKEN[name])


@pytest.mark.parametrize(
    ("name", "crashes", "hangs", "defects"),
    [("broken-crash", 3, 0, 0), ("broken-hang", 0, 3, 0), ("broken-error", 0, 0, 2), ("broken-thread", 0, 0, 2)],
)
def test_what_is_broken_is_noticed_and_the_rest_is_tried_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, crashes: int, hangs: int, defects: int
) -> None:
    _surface(monkeypatch, name)
    monkeypatch.setattr("fuzz.harness._BEYOND_LIMIT_S", 0.5)
    result = run_surface(name, folder=tmp_path, seed=1, count=9, kept=tmp_path / "kept")
    assert (result.inputs, result.crashes, result.hangs, result.defect_count) == (9, crashes, hangs, defects)
    assert len(list((tmp_path / "kept").iterdir())) == crashes + hangs + defects
    assert not result.sound


def test_growth_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _surface(monkeypatch, "broken-memory")
    result = run_surface("broken-memory", folder=tmp_path, seed=1, count=9)
    assert result.growth_kib > MOST_GROWTH_KIB


def test_the_same_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    surface: Surface = SURFACES["evidence"](tmp_path)
    seeds = surface.seeds()
    one, same, other = (surface.damaged(random.Random(number), seeds) for number in (1, 1, 2))  # noqa: S311
    assert one == same != other


def test_an_undocumented_exit_code_is_a_defect() -> None:
    from fuzz.surfaces import refusal

    with pytest.raises(Defect, match="exit code 1"):
        refusal(KioskError("something"))
