"""Who was recognized by the face, as against who came by a code or was entered by hand."""

from __future__ import annotations

from kiosk.biometrics import SubjectId
from kiosk.errors import StoreError
from kiosk.events import Method
from kiosk.packing import unpack
from kiosk.store._connection import Connection


class Recognitions(Connection):
    """Reads the table ``attendance``."""

    def last_recognitions(self) -> dict[SubjectId, int]:
        """The number of the last event of each subject whose face was recognized; nothing of who has none.

        Of an event whose evidence is damaged nobody can tell: it counts as one.
        """
        found: dict[SubjectId, int] = {}
        with self._reading() as db:
            sql = "SELECT seq, subject_id, evidence FROM attendance WHERE corrects IS NULL ORDER BY seq DESC"
            for seq, subject_id, evidence in db.execute(sql):
                if subject_id not in found and _by_face(evidence):
                    found[SubjectId(subject_id)] = seq
        return found


def _by_face(evidence: bytes) -> bool:
    try:
        return bool(unpack(evidence).get("method", Method.FACE) == Method.FACE)
    except StoreError:
        return True
