"""Opening the store a configuration names."""

from __future__ import annotations

from pathlib import Path

from kiosk.config import Config
from kiosk.errors import KioskError
from kiosk.signatures import find_signer
from kiosk.store import KeyFile, Limits, RunningDaemon, Store


def open_store(config: Config, *, writable: bool = False) -> Store:
    """The store; reading commands open it read-only, so that they never wait for the daemon.

    Raises:
        StoreError: it is missing (when only read), damaged, or of a newer version.
        PermissionDeniedError: it may not be opened.
    """
    return Store.open(
        Path(config.store.path),
        writable=writable,
        keys=KeyFile.configured(config.store),
        backs_up=config.store.backups.keep > 0,
    )


def open_register(config: Config) -> Store:
    """The store for writing events as the daemon does: signed where it signs, refused where it refuses.

    Raises:
        ConfigError: the key that events are signed with cannot be used.
        StoreError, PermissionDeniedError: as :func:`open_store`.
    """
    return Store.open(
        Path(config.store.path),
        limits=Limits(config.store.min_free_mib, config.store.max_unsent),
        keys=KeyFile.configured(config.store),
        signer=find_signer(config.mqtt.sign_key_file) if config.mqtt.enabled else None,
        backs_up=config.store.backups.keep > 0,
    )


def find_daemon(config: Config) -> RunningDaemon | None:
    """The daemon on this configuration's store, None where there is none or nobody can tell."""
    try:
        if not Path(config.store.path).exists():
            return None
        with open_store(config) as store:
            return store.running_daemon()
    except (KioskError, PermissionError):
        return None
