"""What this machine makes of photos and of a clip, from the pixels of a JPEG file to the event at the broker.

    python tests/arm64/observation.py OUT --photos FOLDER --clip CLIP [--bundle FOLDER] [--runtime R] [--given OTHER]

Runs on both machines and knows nothing of the comparison. Writes ``OUT.npz`` (arrays) and ``OUT.json`` (the rest).
With ``--given`` every step is also done once from what the *other* machine had before it: a difference is found in the
step that makes it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from kiosk import tflite
from kiosk.align import central_face
from kiosk.biometrics import Box, Face, Image
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.detector import BlazeFaceDetector, PhotoDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.photo import read_photo
from kiosk.quality import measure

Arrays = dict[str, NDArray[Any]]

ENROLLED = {"obama": "obama.jpg", "biden": "biden_portrait.jpg"}
SEARCHED = ("obama2.jpg", "biden.jpg", "collins.jpg")
"""`kiosk identify` looks at every part of a photo: more of them would take qemu too long."""
MEASURES = ("size_px", "eye_distance_px", "sharpness", "brightness", "contrast", "clipped", "yaw", "pitch")
"""Of :class:`kiosk.biometrics.Quality`, in the order of the arrays."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="beside the built-in one")
    parser.add_argument("--runtime", choices=["auto", "litert", "tflite-runtime"], default="auto")
    parser.add_argument("--given", type=Path, help="OUT of the other machine")
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.iterdir() if path.suffix in {".jpg", ".png"})
    eyes = Eyes([BUILT_IN / BUILT_IN_BUNDLE, *options.bundle], options.runtime)
    arrays = {}
    for photo in photos:
        arrays |= {f"{photo.name}/{key}": value for key, value in eyes.look(read_photo(photo)).items()}
    if options.given is not None:
        with np.load(options.given.with_suffix(".npz")) as other:
            for photo in photos:
                arrays |= {f"{photo.name}/given/{key}": value for key, value in eyes.repeat(other, photo.name).items()}
    np.savez(options.out.with_suffix(".npz"), **arrays)
    document = {
        "machine": describe(options.runtime),
        "xnnpack_parts": eyes.xnnpack_parts(),
        "photos": [photo.name for photo in photos],
        **live(options.clip, options.runtime),
    }
    options.out.with_suffix(".json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def describe(runtime: str) -> dict[str, str]:
    """What computes here."""
    names = ("numpy", "opencv-python-headless")
    return {
        "processor": platform.machine(),
        "python": platform.python_version(),
        "runtime": tflite.runtime_version(runtime),  # type: ignore[arg-type]
        **{name: importlib.metadata.version(name) for name in names},
    }


class Eyes:
    """The steps of recognition, one by one."""

    def __init__(self, bundles: list[Path], runtime: tflite.Runtime) -> None:
        self._blazeface = BlazeFaceDetector(runtime=runtime)
        self._detector = PhotoDetector(self._blazeface)
        self._embedders = {path.name: TfliteEmbedder(read_bundle(path), runtime=runtime) for path in bundles}

    def look(self, image: Image) -> Arrays:
        """Every step from what the one before it has made here."""
        faces = self._detector.detect(image)
        found: Arrays = {"image": image, "faces": rows(faces)}
        if faces:
            face = central_face(faces, image.shape[1], image.shape[0])
            found["face"] = rows([face])
            found |= self._follow(image, face)
        return found

    def repeat(self, other: Arrays, name: str) -> Arrays:
        """Every step from what the other machine had before it."""
        image = other[f"{name}/image"]
        found: Arrays = {"faces": rows(self._detector.detect(image))}
        if f"{name}/face" in other:
            followed = self._follow(image, face_of(other[f"{name}/face"][0]))
            found |= {key: value for key, value in followed.items() if not key.startswith("embedding/")}
            for bundle, embedder in self._embedders.items():
                if f"{name}/crop/{bundle}" in other:
                    found[f"embedding/{bundle}"] = embedder.embed_crop(other[f"{name}/crop/{bundle}"])
        return found

    def _follow(self, image: Image, face: Face) -> Arrays:
        quality = asdict(measure(image, face))
        found: Arrays = {"quality": np.array([quality[name] for name in MEASURES], np.float64)}
        for name, embedder in self._embedders.items():
            crop = embedder.crop(image, face)
            found[f"crop/{name}"] = crop
            found[f"embedding/{name}"] = embedder.embed_crop(crop)
        return found

    def xnnpack_parts(self) -> dict[str, int]:
        """Parts of each network that the runtime has given to its fast code: none would be another comparison."""
        networks = {"blazeface": self._blazeface, **self._embedders}
        return {name: _parts(network) for name, network in networks.items()}


def _parts(network: BlazeFaceDetector | TfliteEmbedder) -> int:
    operations = network._interpreter._get_ops_details()  # type: ignore[attr-defined]
    return sum(operation["op_name"] == "DELEGATE" for operation in operations)


def rows(faces: list[Face]) -> NDArray[np.float64]:
    """One row a face: box, score, six landmarks; shape (n, 17)."""
    return np.array([_row(face) for face in faces], np.float64).reshape(-1, 17)


def _row(face: Face) -> list[float]:
    assert face.landmarks is not None
    return [*(face.box.x, face.box.y, face.box.w, face.box.h, face.score), *face.landmarks.ravel().tolist()]


def face_of(row: NDArray[np.float64]) -> Face:
    """The face of a row of :func:`rows`."""
    return Face(Box(*row[:4].tolist()), float(row[4]), row[5:].reshape(6, 2).astype(np.float32))


# The commands


def live(clip: Path, runtime: str) -> dict[str, Any]:
    """Enroll two people, search others' photos, and play the clip to `kiosk run` before a broker."""
    # The tests' own broker and listener; they come with the repository, not with what is installed.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from broker import listening

    with tempfile.TemporaryDirectory(prefix="kiosk-observed-") as name:
        folder = Path(name)
        settings: dict[str, dict[str, Any]] = {
            "device": {"site": "hq", "id": "door-1"},
            "store": {"path": str(folder / "kiosk.db")},
            "model": {"bundle": BUILT_IN_BUNDLE, "runtime": runtime},
            "camera": {"source": str(clip), "pace": "fast"},
        }
        samples = BUILT_IN.parent / "samples"
        with listening(folder, "kiosk/#") as (broker, subscriber):
            settings["mqtt"] = {"host": "127.0.0.1", "port": broker.port, "rejected_events": True}
            (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
            for subject_id, photo in ENROLLED.items():
                _kiosk(folder, "enroll", subject_id, str(samples / photo))
            identified = json.loads(_kiosk(folder, "identify", "--json", *(str(samples / photo) for photo in SEARCHED)))
            verified = json.loads(
                _kiosk(folder, "verify", "--json", *(str(samples / p) for p in ("obama.jpg", "obama2.jpg")))
            )
            _kiosk(folder, "run")
            events = [m.json() for end in ("event/attendance", "event/rejected") for m in subscriber.on(end)]
        said = (folder / "said").read_text(encoding="utf-8").replace(str(samples), "").replace(name, "")
    return {"identify": list(_by_photo(identified)), "verify": verified, "events": events, "said": said.splitlines()}


def _by_photo(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for image in document["images"]:
        yield {"photo": Path(image["path"]).name, "faces": image["faces"]}


def _kiosk(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "kiosk", *arguments, "--config", str(folder / "config.yaml")]
    # What the caller's environment sets for a real kiosk is not meant for this one.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("KIOSK_")}
    result = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=folder, env=environ, check=False)
    if result.returncode:
        sys.exit(f"kiosk {arguments[0]}: exit code {result.returncode}: {result.stderr}")
    if arguments[0] != "run":
        # The daemon's log has times in it; what the others say is the same anywhere.
        with (folder / "said").open("a", encoding="utf-8") as file:
            file.write(result.stderr)
    return result.stdout


if __name__ == "__main__":
    main()
