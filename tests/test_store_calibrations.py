"""What was measured at a door, in the store: the newest counts, per model."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database

from kiosk import migrations
from kiosk.biometrics import ModelId, SubjectId
from kiosk.calibration import Calibration
from kiosk.store import NewTemplate, Store

MODEL, OTHER = ModelId("m@1"), ModelId("other@1")


def calibration(shift: float, model: ModelId = MODEL) -> Calibration:
    return Calibration(
        model=model,
        created_at="2026-03-02T08:00:00+00:00",
        subjects=12,
        searches=36,
        people=12,
        rates=(0.2, 0.1),
        measured_shift=shift,
        interval=(shift - 0.01, shift + 0.01),
        score_shift=shift,
    )


def test_the_newest_counts_for_its_model_and_the_older_stay(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    with Store.open(path) as store:
        assert store.calibration(MODEL) is None
        for shift, model in ((0.05, MODEL), (0.2, OTHER), (-0.02, MODEL)):
            store.add_calibration(calibration(shift, model))
        assert store.calibration(MODEL) == calibration(-0.02)
    with Store.open(path, writable=False) as store:
        assert store.calibration(MODEL) == calibration(-0.02)
        assert store.calibration(OTHER) == calibration(0.2, OTHER)
        assert store._rows("SELECT COUNT(*) AS n FROM calibrations")[0]["n"] == 3


def test_reset_forgets_one_model_with_all_its_past(tmp_path: Path) -> None:
    with Store.open(tmp_path / "k.db") as store:
        for shift, model in ((0.05, MODEL), (0.1, MODEL), (0.2, OTHER)):
            store.add_calibration(calibration(shift, model))
        assert store.reset_calibration(MODEL)
        assert store.calibration(MODEL) is None
        assert store.calibration(OTHER) == calibration(0.2, OTHER)
        assert not store.reset_calibration(MODEL)
        assert [(row.action, row.detail()) for row in store.audit_rows()] == [
            ("calibrate", {"model": MODEL, "score_shift": 0.05}),
            ("calibrate", {"model": MODEL, "score_shift": 0.1}),
            ("calibrate", {"model": OTHER, "score_shift": 0.2}),
            ("reset_calibration", {"model": MODEL}),
        ]


def test_the_gallery_carries_the_shift_of_its_model(tmp_path: Path) -> None:
    face = np.eye(4, dtype=np.float32)[0]
    with Store.open(tmp_path / "k.db") as store:
        store.enroll(SubjectId("a"), [NewTemplate(MODEL, face), NewTemplate(OTHER, face)])
        assert store.gallery(MODEL).score_shift == 0
        store.add_calibration(calibration(0.07))
        assert store.gallery(MODEL).score_shift == 0.07
        assert store.gallery(OTHER).score_shift == 0
        store.reset_calibration(MODEL)
        assert store.gallery(MODEL).score_shift == 0


@pytest.mark.parametrize("steps", [1, 2])
def test_an_older_store_gets_the_table_and_keeps_its_people(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "k.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrations.migrate(db, path, migrations.STEPS[:steps])
        assert "calibrations" not in db.table_names()
        db.execute("INSERT INTO subjects (id, created_at) VALUES ('a', 'now')")
    with Store.open(path) as store:
        assert [subject.id for subject in store.subjects()] == ["a"]
        assert store.calibration(MODEL) is None
        store.add_calibration(calibration(0.05))
        assert store.calibration(MODEL) == calibration(0.05)
