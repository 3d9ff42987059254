"""What was measured at this door, per model; the newest counts, the older ones stay as evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from kiosk import integrity
from kiosk.biometrics import ModelId
from kiosk.errors import StoreError
from kiosk.store._audit import AuditLog
from kiosk.store._chain import Action

if TYPE_CHECKING:
    from kiosk.calibration import Calibration


class Calibrations(AuditLog):
    """The table ``calibrations``."""

    def add_calibration(self, calibration: Calibration) -> None:
        """From now on automatic thresholds for its model follow it."""
        with self._writing() as db:
            cursor = db.execute(
                "INSERT INTO calibrations (model_id, created_at, document) VALUES (?, ?, ?)",
                [calibration.model, calibration.created_at, calibration.model_dump_json()],
            )
            integrity.seal(db, "calibrations", "id = ?", [cursor.lastrowid])
            details = {"model": calibration.model, "score_shift": calibration.score_shift}
            self._log(db, Action.CALIBRATE, details)

    def reset_calibration(self, model_id: ModelId) -> bool:
        """Forget what was measured for a model: its bundle's own figures count again. False when nothing was."""
        with self._writing() as db:
            deleted = db.execute("DELETE FROM calibrations WHERE model_id = ?", [model_id]).rowcount
            if deleted:
                self._log(db, Action.RESET_CALIBRATION, {"model": model_id})
        return deleted > 0

    def calibration(self, model_id: ModelId) -> Calibration | None:
        """The one in force.

        Raises:
            StoreError: it is none that this version understands.
        """
        found = self._rows("SELECT document FROM calibrations WHERE model_id = ? ORDER BY id DESC LIMIT 1", [model_id])
        if not found:
            return None
        from kiosk.calibration import Calibration

        try:
            return Calibration.model_validate_json(found[0]["document"])
        except ValidationError:
            raise StoreError(
                f"{self.path}: the calibration of {model_id} is not understood; `kiosk calibrate --reset` forgets it"
            ) from None
