"""Which cameras there are on this machine, and how ``camera.source`` names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kiosk.camera._picamera2 import list_picamera2
from kiosk.errors import CameraError

_SYSTEM = Path("/sys/class/video4linux")
_BY_ID = Path("/dev/v4l/by-id")


@dataclass(frozen=True, slots=True)
class FoundCamera:
    """``source``: for ``camera.source``, that which survives replugging where there is one. ``device``: its file."""

    source: str
    name: str
    device: str | None = None


def list_cameras() -> tuple[list[FoundCamera], str | None]:
    """USB cameras, then those of libcamera; and why the latter cannot be listed, None where they can."""
    found = list_usb(_SYSTEM, _BY_ID)
    try:
        models = list_picamera2()
    except CameraError as error:
        return found, str(error)
    places = ["picamera2" if place == 0 else f"picamera2:{place}" for place in range(len(models))]
    return found + [FoundCamera(place, model) for place, model in zip(places, models, strict=True)], None


def list_usb(system: Path, by_id: Path) -> list[FoundCamera]:
    """The first device file of each USB camera: others carry its metadata. A board's own are stages of its hardware."""
    links = {link.resolve().name: link for link in by_id.glob("*")} if by_id.is_dir() else {}
    found = []
    for folder in sorted(system.glob("video*"), key=lambda folder: int(folder.name.removeprefix("video"))):
        if _read(folder / "index") != "0" or "/usb" not in str((folder / "device").resolve()):
            continue
        device = f"/dev/{folder.name}"
        found.append(FoundCamera(str(links.get(folder.name, device)), _read(folder / "name") or "?", device))
    return found


def _read(file: Path) -> str:
    """A line of the kernel's; empty where the camera has just gone."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
