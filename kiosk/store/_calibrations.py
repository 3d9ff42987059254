"""What was measured at this door, per model; the newest counts, the older ones stay as evidence."""

from __future__ import annotations

from kiosk import integrity
from kiosk.biometrics import ModelId
from kiosk.calibration import Calibration
from kiosk.store._connection import Connection


class Calibrations(Connection):
    """The table ``calibrations``."""

    def add_calibration(self, calibration: Calibration) -> None:
        """From now on automatic thresholds for its model follow it."""
        with self._writing() as db:
            cursor = db.execute(
                "INSERT INTO calibrations (model_id, created_at, document) VALUES (?, ?, ?)",
                [calibration.model, calibration.created_at, calibration.model_dump_json()],
            )
            integrity.seal(db, "calibrations", "id = ?", [cursor.lastrowid])

    def reset_calibration(self, model_id: ModelId) -> bool:
        """Forget what was measured for a model: its bundle's own figures count again. False when nothing was."""
        with self._writing() as db:
            return db.execute("DELETE FROM calibrations WHERE model_id = ?", [model_id]).rowcount > 0

    def calibration(self, model_id: ModelId) -> Calibration | None:
        """The one in force."""
        found = self._rows("SELECT document FROM calibrations WHERE model_id = ? ORDER BY id DESC LIMIT 1", [model_id])
        return Calibration.model_validate_json(found[0]["document"]) if found else None
