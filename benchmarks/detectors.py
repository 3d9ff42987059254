"""Time of face detection, BlazeFace and Haar side by side on the sample photos scaled to camera frames.

    python benchmarks/detectors.py [ROUNDS]

The two take turns frame by frame, so a noisy machine disturbs both alike. Prints medians and the median ratio.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from kiosk.biometrics import Face, Image
from kiosk.detector import BlazeFaceDetector, HaarDetector
from kiosk.opencv import cv2
from kiosk.photo import read_photo

SAMPLES = Path(__file__).parent.parent / "kiosk" / "data" / "samples"


def frame(image: Image, width: int = 1280, height: int = 720) -> Image:
    """The photo on a black camera frame, scaled to fit."""
    scale = min(width / image.shape[1], height / image.shape[0])
    small = cv2.resize(image, None, fx=scale, fy=scale)
    bottom, right = height - small.shape[0], width - small.shape[1]
    return cv2.copyMakeBorder(small, 0, bottom, 0, right, cv2.BORDER_CONSTANT)  # type: ignore[return-value]


def milliseconds(detect: Callable[[Image], list[Face]], image: Image) -> float:
    started = time.perf_counter()
    detect(image)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    cv2.setNumThreads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    frames = [frame(read_photo(path)) for path in sorted(SAMPLES.glob("*.jpg"))]
    blazeface, haar = BlazeFaceDetector().detect, HaarDetector().detect
    pairs = [(milliseconds(blazeface, image), milliseconds(haar, image)) for _ in range(rounds) for image in frames]
    print(f"{len(pairs)} frames of 1280 x 720, one thread, median ms")
    print(f"BlazeFace {median(a for a, _ in pairs):.1f}, Haar with eyes {median(b for _, b in pairs):.1f}")
    print(f"Haar / BlazeFace: median ratio {median(b / a for a, b in pairs):.0f}")
