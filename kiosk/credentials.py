"""Secrets that systemd hands to the service (``LoadCredential=``), and files with secrets that others may read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

_READABLE_BY_OTHERS = 0o077
_CREDENTIAL_READABLE_BY_OTHERS = 0o007
"""systemd gives a credential to its service by an access control list, which shows as the group's bits (0440)."""


def find_credential(name: str) -> Path | None:
    """The file with a credential; None where this process is handed none of that name."""
    folder = _folder()
    path = None if folder is None else folder / name
    return path if path is not None and os.access(path, os.R_OK) else None


def warn_if_open(path: Path) -> None:
    """Have the log say that others may read a file with a secret."""
    folder = _folder()
    handed_over = folder is not None and path.resolve().is_relative_to(folder.resolve())
    if path.stat().st_mode & (_CREDENTIAL_READABLE_BY_OTHERS if handed_over else _READABLE_BY_OTHERS):
        log.warning("%s can be read by other users: chmod 600 %s", path, path)


def _folder() -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None
