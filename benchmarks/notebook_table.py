"""The notebook's experiment on the bundled sample photos: every pair, its distance, by the default path and by Haar.

    python benchmarks/notebook_table.py [BUNDLE ...]

Prints Markdown. Without arguments the built-in bundle is measured.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from kiosk.align import central_face
from kiosk.biometrics import Embedding
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, Bundle, read_bundle
from kiosk.detector import BlazeFaceDetector, HaarDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.photo import read_photo
from kiosk.ports import Detector

SAMPLES = Path(__file__).parent.parent / "kiosk" / "data" / "samples"


def person(name: str) -> str:
    return name.rstrip("0123456789").split("_")[0]


def embed_all(embedder: TfliteEmbedder, detector: Detector) -> dict[str, Embedding | None]:
    embeddings: dict[str, Embedding | None] = {}
    for path in sorted(SAMPLES.glob("*.jpg")):
        image = read_photo(path)
        faces = detector.detect(image)
        height, width = image.shape[:2]
        embeddings[path.stem] = embedder.embed(image, central_face(faces, width, height)) if faces else None
    return embeddings


def cell(a: Embedding | None, b: Embedding | None, same: bool, threshold: float) -> str:
    if a is None or b is None:
        return "no face"
    distance = 1 - float(a @ b)
    return f"{distance:.3f}{'' if (distance <= threshold) == same else ' ✗'}"


def print_table(bundle: Bundle) -> None:
    default = embed_all(TfliteEmbedder(bundle), BlazeFaceDetector())
    notebook = embed_all(TfliteEmbedder(bundle, alignment="haar-square-v1"), HaarDetector())
    threshold = 1 - bundle.verification_threshold()
    print(f"`{bundle.model_id}`: distance threshold {threshold:.3f} (✗: judged wrongly by it)\n")
    print("| photos | same person | default: BlazeFace, turned, squeezed or chip | notebook: Haar, eyes, square |")
    print("|---|---|---|---|")
    pairs = sorted(itertools.combinations(default, 2), key=lambda pair: person(pair[0]) != person(pair[1]))
    for a, b in pairs:
        same = person(a) == person(b)
        cells = [cell(table[a], table[b], same, threshold) for table in (default, notebook)]
        print(f"| {a} – {b} | {'yes' if same else 'no'} | {cells[0]} | {cells[1]} |")
    print()


if __name__ == "__main__":
    for folder in sys.argv[1:] or [str(BUILT_IN / BUILT_IN_BUNDLE)]:
        print_table(read_bundle(Path(folder)))
