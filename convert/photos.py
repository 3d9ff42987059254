"""Photos of a folder, and the one face each is of."""

from __future__ import annotations

from pathlib import Path

from kiosk.align import central_face
from kiosk.biometrics import Face, Image
from kiosk.errors import InputError
from kiosk.opencv import cv2
from kiosk.photo import is_photo
from kiosk.ports import Detector


def photos_of_people(folder: Path) -> dict[str, list[Path]]:
    """The photos of ``folder/<person>/``, by person, both sorted by name.

    Raises:
        InputError: no such folder, or no photo in any folder in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    # Unlike kiosk.photo.photos_below this follows links to the folders of people: a set of them need not be copied.
    people = {
        person.name: sorted(path for path in person.iterdir() if is_photo(path))
        for person in sorted(folder.iterdir())
        if person.is_dir()
    }
    found = {name: paths for name, paths in people.items() if paths}
    if not found:
        raise InputError(f"{folder}: no photos of people in it; it wants {folder.name or 'FOLDER'}/<subject>/*.jpg")
    return found


def main_face(image: Image, detector: Detector) -> Face | None:
    """The face the photo is of, None where no face is found."""
    faces = detector.detect(image)
    return central_face(faces, image.shape[1], image.shape[0]) if faces else None


def opencv_threads() -> int:
    """How many threads OpenCV's own detectors may use."""
    return int(cv2.getNumThreads())
