"""The templates: encrypted when they are stored, decrypted when they are asked for, and given a new key when one goes.

Nothing that was erased can be read once the key it was sealed with is gone: not what a flash card keeps of old blocks,
nor copies of the store that nobody knows of. So an erasure notes which keys sealed what it deleted
(``integrity.STALE_KEYS``), the templates that remain are sealed with another one, and when no copy of ours needs the
old one any more, it is overwritten in the key file. Whatever interrupts that, the next attempt goes on from there.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import Embedding, ModelId, Quality, StoredTemplate, SubjectId, Template
from kiosk.errors import KeyFileError, StoreError
from kiosk.store._audit import AuditLog
from kiosk.store._chain import Action
from kiosk.store._connection import rows, scalar
from kiosk.store._keys import KeyFile, KeyRing
from kiosk.store._sealing import BOUND, Key, Refused
from kiosk.store._stale import ANY_KEY, name_stale, note_stale, stale

log = logging.getLogger(__name__)

_COLUMNS = ", ".join([*BOUND, "embedding", "key_id"])
_ATTEMPTS = 3
_BATCH = 500


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """An embedding to be stored, with how good its photo was and which photo it was.

    ``created_at``: when it was enrolled, where that was elsewhere; None: now.
    """

    model_id: ModelId
    embedding: Embedding
    quality: Quality | None = None
    source_sha256: str | None = None
    created_at: str | None = None


class RefusedTemplatesError(KeyFileError):
    """None of the templates can be decrypted. ``subjects``: how many people's; the message names them."""

    def __init__(self, refused: Mapping[SubjectId, int]) -> None:
        super().__init__(describe_refused(refused))
        self.subjects = len(refused)


class Templates(AuditLog):
    """The table ``templates``, and the key of what is in it."""

    _told_damaged: Sequence[str] = ()
    _told_refused: Mapping[SubjectId, int] = {}

    def templates(self, model_id: ModelId) -> list[Template]:
        """The templates one model made; those of other models cannot be compared with its embeddings.

        A template that is not as it was enrolled, or not where it was, is left out, and told of in the log.

        Raises:
            KeyFileError: their key cannot be had, or opens none of them.
        """
        self._tell_damaged_templates()
        found, refused = self._unsealed("model_id = ?", [model_id])
        if refused and not found:
            raise RefusedTemplatesError(refused)
        self._tell_refused(refused)
        return [
            Template(SubjectId(row["subject_id"]), ModelId(row["model_id"]), _embedding(embedding))
            for row, embedding in found
        ]

    def stored_templates(self) -> tuple[list[StoredTemplate], dict[SubjectId, list[int]]]:
        """All templates of all models with all there is to know of each; and the numbers of those of each subject that
        are damaged or cannot be decrypted.

        Raises:
            KeyFileError: their key cannot be had.
        """
        there = self._rows("SELECT id, CAST(subject_id AS BLOB) AS subject_id FROM templates ORDER BY id")
        found, _ = self._unsealed("TRUE", [])
        readable = {row["id"] for row, _ in found}
        unreadable: dict[SubjectId, list[int]] = {}
        for row in there:
            if row["id"] not in readable:
                subject_id = SubjectId(bytes(row["subject_id"]).decode("utf-8", "backslashreplace"))
                unreadable.setdefault(subject_id, []).append(row["id"])
        return [
            StoredTemplate(
                SubjectId(row["subject_id"]),
                ModelId(row["model_id"]),
                _embedding(embedding),
                row["id"],
                _quality(row["quality"]),
                row["source_sha256"],
                row["created_at"],
            )
            for row, embedding in found
        ], unreadable

    def damaged_templates(self) -> list[str]:
        """Whose templates are not as they were enrolled; an id may be damaged itself."""
        with self._reading() as db:
            found = db.execute(
                "SELECT DISTINCT CAST(subject_id AS BLOB) FROM templates"  # noqa: S608 - names from the code
                f" WHERE NOT {integrity.sound('templates')} ORDER BY 1"
            )
            return [bytes(row[0]).decode("utf-8", "backslashreplace") for row in found]

    def refused_templates(self) -> dict[SubjectId, int]:
        """How many templates, of whom, cannot be decrypted: forged, moved here, or sealed with a key that is gone.

        Raises:
            KeyFileError: their key cannot be had.
        """
        return self._unsealed("TRUE", [])[1]

    def embedding_bytes(self, template_id: int) -> bytes:
        """A template's embedding, little-endian float32; empty where there is no such template.

        Raises:
            KeyFileError: its key cannot be had.
            StoreError: it cannot be decrypted.
        """
        found, refused = self._unsealed("id = ?", [template_id])
        if refused:
            raise StoreError(f"{self.path}: template {template_id} of {', '.join(refused)} cannot be decrypted")
        return found[0][1] if found else b""

    def key_ring(self) -> KeyRing | None:
        """What the key file holds, None where there is neither such a file nor a need for one.

        Raises:
            KeyFileError: it is needed and cannot be had.
        """
        if self.keys.exists() or self._rows("SELECT 1 FROM templates LIMIT 1"):
            return self.keys.read()
        return None

    def _insert_templates(
        self, db: Database, subject_id: SubjectId, templates: Sequence[NewTemplate], now: str
    ) -> None:
        """The caller holds the transaction."""
        self._insert_all(db, [(subject_id, template) for template in templates], now)

    def _insert_all(self, db: Database, templates: Sequence[tuple[SubjectId, NewTemplate]], now: str) -> None:
        """Of several subjects. The caller holds the transaction."""
        if not templates:
            return
        key = self._sealing_key(db)
        first: int = scalar(db, "SELECT COALESCE(MAX(id), 0) + 1 FROM templates")
        inserted = []
        for number, (subject_id, template) in enumerate(templates, first):
            row: dict[str, Any] = {
                "id": number,
                "subject_id": subject_id,
                "model_id": template.model_id,
                "quality": None if template.quality is None else json.dumps(asdict(template.quality)),
                "source_sha256": template.source_sha256,
                "created_at": template.created_at or now,
                "key_id": key.id,
            }
            row["embedding"] = key.seal(_blob(template.embedding), row)
            inserted.append(row)
        names = list(inserted[0])
        db.conn.executemany(
            f"INSERT INTO templates ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608 - names from above
            [list(row.values()) for row in inserted],
        )
        integrity.seal(db, "templates", "id >= ?", [first])

    def _sealing_key(self, db: Database) -> Key:
        """The key for something new; made with the first template. The caller holds the store's lock.

        Raises:
            KeyFileError: it cannot be had, or what is there opens none of the templates: an old copy, or another's.
        """
        if not self.keys.exists() and not scalar(db, "SELECT 1 FROM templates LIMIT 1"):
            return self.keys.create(self.path).current
        ring = self.keys.read()
        # Found in the first row as a rule: this is asked at every enrollment.
        opens_one = "SELECT 1 FROM templates WHERE key_id IN (SELECT value FROM json_each(?)) LIMIT 1"
        if scalar(db, "SELECT 1 FROM templates LIMIT 1") and not scalar(
            db, opens_one, [json.dumps([key.id for key in ring.keys])]
        ):
            raise KeyFileError(
                f"{self.keys.path}: this key opens none of the templates: a copy of before the last change of the key, "
                "or another kiosk's; put the right one there, or remove everybody (`kiosk subjects remove`) and enroll "
                "them again"
            )
        return ring.current

    def _unsealed(
        self, where: str, params: Sequence[object]
    ) -> tuple[list[tuple[dict[str, Any], bytes]], dict[SubjectId, int]]:
        """Sound rows with their embeddings, and of whom how many are refused."""
        sql = f"SELECT {_COLUMNS} FROM templates WHERE {where} AND {integrity.sound('templates')} ORDER BY id"  # noqa: S608 - names from the code
        found = self._rows(sql, params)
        ring = self.keys.read() if found else None
        for _ in range(_ATTEMPTS - 1):
            # The key may have changed between the two.
            if ring is None or all(ring.find(row["key_id"]) for row in found):
                break
            found, ring = self._rows(sql, params), self.keys.read()
        return _unseal(found, ring.keys if ring is not None else ())

    def _tell_damaged_templates(self) -> None:
        damaged = self.damaged_templates()
        if damaged and damaged != self._told_damaged:
            log.error(
                "templates of %s are damaged and not compared; restart the kiosk, which restores the newest backup",
                ", ".join(ascii(subject) for subject in damaged),
            )
        self._told_damaged = damaged

    def _tell_refused(self, refused: Mapping[SubjectId, int]) -> None:
        if refused and refused != self._told_refused:
            log.error("%s", describe_refused(refused))
        self._told_refused = refused

    # --- a new key for what remains

    def _adopting(self) -> bool:
        """Whether an upgrade has only just encrypted the templates, and copies in the clear may be left."""
        return self._keys_to_drop() and self.keys.exists() and self.keys.read().adopting

    def _keys_to_drop(self) -> bool:
        with self._reading() as db:
            return integrity.mark(db, integrity.STALE_KEYS) is not None

    def _forget_dropped_keys(self) -> None:
        """Take the mark of keys away that are gone already, and close the receipts of whose templates they sealed: the
        keys are the last thing that goes, so that all else has been done.

        The backup that an erasure takes has both, and so has a store that is restored from it.
        """
        with self._reading() as db:
            noted = stale(db)
        if not noted or ANY_KEY in noted or not self.keys.exists():
            return
        try:
            ring = self.keys.read()
        except KeyFileError:
            return
        # Not settled: the old keys still stand in one of the copies.
        if ring.adopting or not ring.settled or any(key.id in noted for key in ring.keys):
            return
        with self._writing() as db:
            sealed_with = {row[0] for row in db.execute("SELECT DISTINCT key_id FROM templates")}
            if stale(db) == noted and sealed_with <= {ring.current.id}:
                integrity.clear_mark(db, integrity.STALE_KEYS)
                db.execute("UPDATE erasures SET complete = 1 WHERE NOT complete AND templates_erased > 0")

    def _give_up_bare_key(self) -> bool:
        """Where the key file lies in the clear and there is a master secret now: that key has to go. False elsewhere.

        Noted before anything is written, so that whatever interrupts it, the key that could be read goes; the next one
        is written sealed.

        Raises:
            KeyFileError: one of them is of no use.
        """
        if self.keys.master_file is None or not self.keys.exists() or self.keys.read().wrapped:
            return False
        with self._writing() as db:
            note_stale(db, [self.keys.read().current.id])
        return True

    def _begin_rekey(self, master_file: Path | None) -> None:
        """Seal the key file with another master secret, and have the present key go as after an erasure.

        Raises:
            KeyFileError: the key cannot be had, or the master secret is of no use; nothing was changed.
            StoreError: it cannot be written; nothing was changed.
        """
        before, after = self.keys, KeyFile(self.keys.path, master_file)
        with self._writing() as db:
            ring = before.read()
            note_stale(db, [ring.current.id])
            self._log(db, Action.REKEY, {"sealed_before": ring.wrapped, "sealed": master_file is not None})
            after.write(ring.keys, number=ring.number, adopting=ring.adopting)
            self.keys = after

    def _change_key(self) -> Key | None:
        """Seal what remains with a key that sealed nothing of what was erased; the key, None where none is needed:
        nothing remains, and the key is gone already.

        Raises:
            KeyFileError: there are keys that cannot be had.
        """
        if not self._keys_to_drop():
            return None
        with self._writing() as db:
            if not self.keys.exists() and not scalar(db, "SELECT 1 FROM templates LIMIT 1"):
                return None
            ring = self.keys.read()
            name_stale(db, [key.id for key in ring.keys])
            if ring.current.id in stale(db):
                log.info(
                    "%s: the key of the templates changes; copies of the file made before open nothing then",
                    self.keys.path,
                )
                ring = self.keys.write([Key.fresh(), *ring.keys], number=ring.number, adopting=ring.adopting)
            _reseal(db, ring)
        return ring.current

    def _drop_old_keys(self, current: Key | None, *, without_backups: bool) -> bool:
        """Overwrite all keys but one, when nothing needs them any more; False where something does.

        ``without_backups``: there were none, and so nobody may have begun one that still needs an old key.
        """
        if not self._keys_to_drop():
            return True
        with self._writing() as db:
            if current is not None:
                ring = self.keys.read()
                begun = without_backups and self.backups.possible()
                # A restore may have brought back some of before.
                if begun or ring.current != current or _reseal(db, ring):
                    return False
                self.keys.write([current], number=ring.number, adopting=False)
            # What was erased since the change was sealed with the new one.
            rest = [] if current is None else [key_id for key_id in stale(db) if key_id == current.id]
            if rest:
                integrity.set_mark(db, integrity.STALE_KEYS, {"key_ids": rest})
            else:
                integrity.clear_mark(db, integrity.STALE_KEYS)
        return True


def describe_refused(refused: Mapping[SubjectId, int]) -> str:
    """In one line: whose templates cannot be used, and what to do."""
    shown = [ascii(subject) for subject in list(refused)[:10]]
    more = f" and {len(refused) - len(shown)} more" if len(refused) > len(shown) else ""
    return (
        f"{sum(refused.values())} templates of {', '.join(shown)}{more} cannot be decrypted and are not compared: they "
        "were changed or moved, or their key is gone (an old backup, another kiosk's key file); put the right key file "
        "back, or enroll these people again"
    )


def _reseal(db: Database, ring: KeyRing) -> int:
    """Seal with the current key what another one of the ring sealed; how many there were.

    What is damaged or refused stays as it is: a new digest would only hide it.
    """
    current, last, done = ring.current, 0, 0
    while True:
        batch = rows(
            db,
            f"SELECT {_COLUMNS} FROM templates"  # noqa: S608 - names from the code
            f" WHERE id > ? AND key_id <> ? AND {integrity.sound('templates')} ORDER BY id LIMIT {_BATCH}",
            [last, current.id],
        )
        if not batch:
            return done
        readable, _ = _unseal(batch, ring.keys)
        db.conn.executemany(
            "UPDATE templates SET embedding = ?, key_id = ? WHERE id = ?",
            [(current.seal(embedding, row), current.id, row["id"]) for row, embedding in readable],
        )
        ids = json.dumps([row["id"] for row, _ in readable])
        integrity.seal(db, "templates", "id IN (SELECT value FROM json_each(?))", [ids])
        last, done = batch[-1]["id"], done + len(readable)


def _unseal(
    found: Iterable[dict[str, Any]], keys: Sequence[Key]
) -> tuple[list[tuple[dict[str, Any], bytes]], dict[SubjectId, int]]:
    by_id = {key.id: key for key in keys}
    readable, refused = [], Counter[SubjectId]()
    for row in found:
        try:
            key = by_id.get(row["key_id"])
            if key is None:
                raise Refused  # noqa: TRY301 - the same for the caller
            readable.append((row, key.unseal(row["embedding"], row)))
        except Refused:
            refused[SubjectId(row["subject_id"])] += 1
    return readable, dict(refused)


def _blob(embedding: Embedding) -> bytes:
    if embedding.ndim != 1 or not np.isfinite(embedding).all():
        raise ValueError(f"not an embedding: shape {embedding.shape}")
    return embedding.astype("<f4").tobytes()


def _quality(text: str | None) -> Quality | None:
    """What a version measured, as far as this one knows it; None where it measured nothing that can be compared."""
    known = {field.name for field in fields(Quality)}
    figures = {name: value for name, value in json.loads(text or "{}").items() if name in known}
    # Before there was a contrast, sharpness had another scale.
    if figures.get("contrast") is None:
        return None
    # Judged by whoever asks, by the limits of today.
    return Quality(**{**figures, "failure": None})


def _embedding(blob: bytes) -> Embedding:
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)
