"""The file with the key of the templates: beside the store, not in it, so that a database or a backup alone is mute.

It holds the key that seals and, while the templates change over to a new one, those before it. With a master secret
(the systemd credential ``store-key``, or a file) the content is sealed in turn.

The file has two copies of its content, each in 4 KiB of its own, with a checksum and a number that counts up. They are
overwritten in place, one after the other, each on the disk before the next: a power cut leaves one that is whole, and
once both are written no block of the file system holds a key that was dropped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlite_utils import Database

from kiosk.credentials import find_credential
from kiosk.errors import KeyFileError, KeyPermissionError, KioskError, StoreError
from kiosk.store._files import beside, create_private, link_flag, rename
from kiosk.store._sealing import KEY_BYTES, Key, Refused, seal, unseal

CREDENTIAL = "store-key"
"""The systemd credential that is the master secret, where there is one."""
MOST_KEYS = 16
"""More pile up only while something keeps old ones from being dropped; the oldest go then."""

_COPY_BYTES = 4096
_COPIES = 2
_FORMAT = "kiosk template key 1"
_ABOUT = "Without this file nobody enrolled is recognized. Keep a copy, but not where the backups are."
_ANEW = "or remove everybody (`kiosk subjects remove`) and enroll them again"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """``keys``: newest first; the first seals. ``adopting``: templates of before encryption are still sealed, once.

    ``number`` counts the writings; ``settled``: both copies say the same; ``wrapped``: the master secret seals them.
    """

    keys: tuple[Key, ...]
    adopting: bool
    number: int = 0
    settled: bool = False
    wrapped: bool = False

    @property
    def current(self) -> Key:
        return self.keys[0]

    def find(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)


class KeySettings(Protocol):
    """What is configured about the store and its key."""

    @property
    def path(self) -> Path: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def master_key_file(self) -> Path | None: ...


class KeyFile:
    """``master_file``: what the file is sealed with, None for nothing. Writers hold the store's lock."""

    def __init__(self, path: Path, master_file: Path | None = None) -> None:
        self.path = path
        self.master_file = master_file

    @classmethod
    def of(cls, store: Path, *, key_file: Path | None = None, master_file: Path | None = None) -> KeyFile:
        """Where nothing else is said: beside the store, sealed with the service's credential if it has one."""
        return cls(key_file or beside(store, ".key"), master_file or find_credential(CREDENTIAL))

    @classmethod
    def configured(cls, settings: KeySettings) -> KeyFile:
        """Where the configuration says."""
        return cls.of(settings.path, key_file=settings.key_file, master_file=settings.master_key_file)

    def exists(self) -> bool:
        return self.path.exists()

    def read(self) -> KeyRing:
        """
        Raises:
            KeyFileError: it is missing or damaged, or the master secret is not the one it was sealed with.
            KeyPermissionError: it may not be read.
        """
        copies = _copies(_read(self.path, "the key of the templates", f", {_ANEW}"))
        found = sorted(filter(None, map(_parse, copies)), key=lambda one: int(one["number"]), reverse=True)
        if not found:
            raise KeyFileError(
                f"{self.path}: the key of the templates is damaged; put your copy of it there, {self._anew()}"
            )
        newest = found[0]
        if self.master_file is not None and not newest["wrapped"]:
            # Not needed yet: but who set it is to know that it could not seal anything.
            self._master()
        content = json.loads(self._unwrapped(newest) if newest["wrapped"] else newest["content"])
        return KeyRing(
            keys=tuple(Key(one["id"], bytes.fromhex(one["secret"])) for one in content["keys"]),
            adopting=content["adopting"],
            number=newest["number"],
            settled=copies.count(copies[0]) == _COPIES,
            wrapped=newest["wrapped"],
        )

    def create(self, owner_of: Path, *, adopting: bool = False) -> KeyRing:
        """A file (0600) with a fresh key, on the disk when this returns.

        Raises:
            StoreError: it cannot be written.
            KeyFileError: the master secret is of no use.
        """
        ring = KeyRing((Key.fresh(),), adopting, number=1, settled=True, wrapped=self.master_file is not None)
        content = self._encode(ring)
        unfinished = beside(self.path, ".new")
        try:
            with create_private(unfinished, owner_of) as file:
                file.write(content * _COPIES)
                file.flush()
                os.fsync(file.fileno())
            rename(unfinished, self.path)
        except OSError as error:
            raise self._unwritten(error) from error
        return ring

    def write(self, keys: Sequence[Key], *, number: int, adopting: bool) -> KeyRing:
        """Replace the content, newest key first; what it said before is overwritten. ``number``: of the ring before.

        Raises:
            StoreError: it cannot be written; what it said before still counts, or this does.
            KeyFileError: the master secret is of no use.
        """
        wrapped = self.master_file is not None
        ring = KeyRing(tuple(keys[:MOST_KEYS]), adopting, number=number + 1, settled=True, wrapped=wrapped)
        content = self._encode(ring)
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | link_flag(self.path))
            try:
                for copy in range(_COPIES):
                    os.pwrite(fd, content, copy * _COPY_BYTES)
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._unwritten(error) from error
        return ring

    def open_to_others(self) -> bool:
        """Whether anybody but its owner may read it."""
        return bool(self.path.stat().st_mode & 0o077)

    def _encode(self, ring: KeyRing) -> bytes:
        """One copy: a JSON document, its SHA-256, and newlines up to its length."""
        keys = [{"id": key.id, "secret": key.secret.hex()} for key in ring.keys]
        content = json.dumps({"keys": keys, "adopting": ring.adopting})
        if ring.wrapped:
            content = base64.b64encode(seal(self._master(), content.encode(), _associated(ring.number))).decode()
        document = {
            "format": _FORMAT,
            "about": _ABOUT,
            "number": ring.number,
            "wrapped": ring.wrapped,
            "content": content,
        }
        text = json.dumps(document).encode()
        copy = b"%b\n%b\n" % (text, hashlib.sha256(text).hexdigest().encode())
        if len(copy) > _COPY_BYTES:
            raise ValueError("too many keys")
        return copy.ljust(_COPY_BYTES, b"\n")

    def _unwrapped(self, document: dict[str, Any]) -> bytes:
        if self.master_file is None:
            raise KeyFileError(
                f"{self.path}: the key file is sealed, and this process has nothing to open it with; give it the "
                f"credential {CREDENTIAL}, or set store.master_key_file (docs/encryption.md)"
            )
        try:
            return unseal(self._master(), base64.b64decode(document["content"]), _associated(document["number"]))
        except Refused:
            raise KeyFileError(
                f"{self.path}: {self.master_file} is not what the key file was sealed with; bring back the "
                f"one that was (`kiosk privacy rekey --master FILE` changes it then), {self._anew()}"
            ) from None

    def _anew(self) -> str:
        return f"or move {self.path} away, remove everybody (`kiosk subjects remove`) and enroll them again"

    def _master(self) -> bytes:
        """The key that the master secret stands for; a random one needs no stretching."""
        if self.master_file is None:
            raise RuntimeError("no master secret")
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        secret = _read(self.master_file, "the master key").rstrip(b"\r\n")
        if len(secret) < KEY_BYTES - 1:
            raise KeyFileError(
                f"{self.master_file}: a master key needs at least {KEY_BYTES} random bytes: "
                "`openssl rand -base64 32` makes one"
            )
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=_FORMAT.encode()).derive(secret)

    def _unwritten(self, error: OSError) -> KioskError:
        problem = (error.strerror or str(error)).lower()
        return StoreError(f"{self.path}: the key of the templates cannot be written: {problem}; nothing was changed")


def key_for_upgrade(keys: KeyFile, db: Database, owner_of: Path) -> Key | None:
    """What a version that did not encrypt gets its templates sealed with; None where it has none.

    Raises:
        KeyFileError: this store's templates were encrypted already: others came here in the clear.
    """
    if not db.execute("SELECT EXISTS (SELECT 1 FROM templates)").fetchone()[0]:
        return None
    if not keys.exists():
        return keys.create(owner_of, adopting=True).current
    ring = keys.read()
    if not ring.adopting:
        raise KeyFileError(
            f"{owner_of}: templates that are not encrypted, beside the key of some that are: an old backup, or a "
            f"forgery; to take them for what they say, move {keys.path} away"
        )
    return ring.current


def _read(path: Path, what: str, anew: str = "") -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_COPIES * _COPY_BYTES)
    except PermissionError:
        raise KeyPermissionError(
            f"{path}: {what} may not be read by this user; run as its owner, or give it back to them"
        ) from None
    except FileNotFoundError:
        raise KeyFileError(f"{path}: {what} is missing; put your copy of it there{anew}") from None
    except OSError as error:
        raise KeyFileError(f"{path}: {what} cannot be read: {(error.strerror or str(error)).lower()}") from None


def _copies(content: bytes) -> list[bytes]:
    return [content[n * _COPY_BYTES : (n + 1) * _COPY_BYTES] for n in range(_COPIES)]


def _parse(copy: bytes) -> dict[str, Any] | None:
    """The document of one copy; None where it is not as it was written."""
    text, _, rest = copy.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != rest.rstrip(b"\n"):
        return None
    document: dict[str, Any] = json.loads(text)
    return document if document.get("format") == _FORMAT else None


def _associated(number: int) -> bytes:
    return f"{_FORMAT}: {number}".encode()
