"""Photos of a folder, and the one face each is of."""

from __future__ import annotations

from pathlib import Path

from kiosk.align import central_face
from kiosk.biometrics import Face, Image
from kiosk.errors import InputError
from kiosk.opencv import cv2
from kiosk.ports import Detector

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def photos_in(folder: Path) -> list[Path]:
    """All photos below a folder, sorted.

    Raises:
        InputError: no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise InputError(f"{folder}: no photos in it ({' '.join(sorted(_SUFFIXES))})")
    return paths


def photos_of_people(folder: Path) -> dict[str, list[Path]]:
    """The photos of ``folder/<person>/``, by person, both sorted by name.

    Raises:
        InputError: no such folder, or no photo in any folder in it.
    """
    people: dict[str, list[Path]] = {}
    for path in photos_in(folder):
        if len(path.relative_to(folder).parts) == 2:
            people.setdefault(path.parent.name, []).append(path)
    if not people:
        raise InputError(f"{folder}: no photos of people in it; it wants {folder.name or 'FOLDER'}/<subject>/*.jpg")
    return people


def main_face(image: Image, detector: Detector) -> Face | None:
    """The face the photo is of, None where no face is found."""
    faces = detector.detect(image)
    return central_face(faces, image.shape[1], image.shape[0]) if faces else None


def opencv_threads() -> int:
    """How many threads OpenCV's own detectors may use."""
    return int(cv2.getNumThreads())
