"""Power cut at any instant of a bundle's update: afterwards the old build or the new one is installed, whole."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from broken_bundles import make_bundle, with_model

from faults.conftest import Record, Scale
from faults.disks import disk_with_a_plug
from kiosk.bundle import Bundle, read_bundle
from kiosk.bundle_choice import FORMER
from kiosk.commands.bundle_files import copy_bundle
from kiosk.errors import KioskError
from kiosk.model_start import sweep

pytestmark = pytest.mark.faults

CUT_WITHIN = 1.3
"""Of the time an update takes: some cuts come after its end."""


def build(folder: Path, number: int) -> Bundle:
    """Nobody looks into the network here."""
    if not folder.exists():
        make_bundle(folder)
    return with_model(folder, number.to_bytes(4, "big") * 100_000, report={"number": number}, known_answers=[])


def test_after_a_power_cut_one_of_the_two_builds_is_there(
    tmp_path: Path, scale: Scale, rng: np.random.Generator, record: Record
) -> None:
    cuts, outcomes = max(scale.power_cuts // 10, 5), {"old": 0, "new": 0}
    with disk_with_a_plug(tmp_path / "disk") as disk:
        disk.format()
        disk.mount()
        models = disk.root / "models"
        source = tmp_path / "build"
        began_s = time.perf_counter()
        copy_bundle(build(source, 0), models / "mine", nullcontext())
        took_s = time.perf_counter() - began_s
        for number in range(1, cuts + 1):
            old, new = read_bundle(models / "mine").fingerprint, build(source, number)
            timer = threading.Timer(rng.uniform(0, CUT_WITHIN * took_s), disk.cut_power)
            timer.start()
            try:
                copy_bundle(new, models / "mine", nullcontext())
                finished = True
            except (KioskError, OSError):
                finished = False
            timer.join()
            disk.unmount()
            disk.mount()
            found = read_bundle(models / "mine").fingerprint
            assert found in {old, new.fingerprint}
            # What was said to be installed is.
            assert not finished or found == new.fingerprint
            if found == new.fingerprint:
                assert read_bundle(models / FORMER / "mine").fingerprint == old
            outcomes["old" if found == old else "new"] += 1
            sweep(models)
            assert not list(models.glob(".install-*"))
        disk.unmount()
    record("bundle-power-cuts", cuts=cuts, **outcomes)
