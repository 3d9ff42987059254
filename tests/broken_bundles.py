"""Bundles with something wrong with them that a hash does not tell, made of the built-in one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, Bundle, read_bundle
from kiosk.tflite import make_interpreter


def make_bundle(folder: Path, name: str = "mine", *, tail: bytes = b"", **changes: object) -> Bundle:
    """A copy under another name; bytes behind the end of the network make another build that computes the same."""
    shutil.copytree(BUILT_IN / BUILT_IN_BUNDLE, folder)
    model = folder / "model.tflite"
    return with_model(folder, model.read_bytes() + tail, name=name, **changes)


def with_model(folder: Path, content: bytes, **changes: object) -> Bundle:
    """Another network in a bundle, and a manifest that says so."""
    (folder / "model.tflite").write_bytes(content)
    path = folder / "manifest.json"
    own = {"tflite_sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(json.loads(path.read_text()) | own | changes))
    return read_bundle(folder)


def swap_weights(folder: Path, **changes: object) -> Bundle:
    """It loads and runs, and what it says of faces means nothing."""
    return with_model(folder, backwards(folder / "model.tflite"), **changes)


def backwards(path: Path, *, larger_than: int = 100_000) -> bytes:
    """An int8 network whose large layers' weights stand backwards."""
    content = path.read_bytes()
    interpreter: Any = make_interpreter(path, threads=1)
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] == np.int8 and math.prod(detail["shape"]) > larger_than:
            with contextlib.suppress(ValueError):  # no constant
                weights = interpreter.get_tensor(detail["index"]).tobytes()
                content = content.replace(weights, weights[::-1])
    assert content != path.read_bytes()
    return content


def truncate(folder: Path) -> Bundle:
    """The end of the network is missing, and the manifest knows of no other."""
    content = (folder / "model.tflite").read_bytes()
    return with_model(folder, content[: len(content) // 2])
