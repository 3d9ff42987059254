"""Presentation attack detection: is this face a person, or a picture of one? Two networks look at how it is surrounded.

A pad bundle is a folder with `pad.json` and two TFLite networks (MiniFASNetV2 and V1SE), made by `kiosk-convert build
pad`. What it stops, and what not: docs/pad.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kiosk.align import cut_surroundings
from kiosk.biometrics import Face, Image
from kiosk.errors import ModelError
from kiosk.tflite import Interpreter, Runtime, make_interpreter

MANIFEST = "pad.json"

_AGAIN = "build the pad bundle again"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PadSource(_Record):
    """Where a network's weights came from."""

    file: str
    sha256: str
    origin: str
    licence: str


class PadNetwork(_Record):
    """One of the networks. ``scale``: its crop's side in units of the face box's."""

    file: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\.tflite$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    architecture: str
    scale: float = Field(ge=1, le=10)
    source: PadSource


class KnownScore(_Record):
    """What each network said (0-1), when the bundle was built, to the face in one of the kiosk's sample photos.

    ``negative``: to the photo's negative.
    """

    photo: str = Field(pattern=r"^[a-z0-9_]{1,64}\.jpg$")
    photo_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    negative: bool = False
    scores: tuple[float, float]


class PadManifest(_Record):
    """``pad.json``. ``threshold``: the score from which a face counts as live."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    variant: Literal["int8", "float32"]
    input_size_px: int = Field(ge=16, le=1024)
    networks: tuple[PadNetwork, PadNetwork]
    threshold: float = Field(gt=0, lt=1)
    known_scores: tuple[KnownScore, ...] = Field(default=(), max_length=32)
    report: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PadBundle:
    """A pad bundle whose files match its manifest."""

    folder: Path
    manifest: PadManifest

    @property
    def model_id(self) -> str:
        """``name@`` and the first six hex digits of a hash of all that decides: networks, their crops, threshold."""
        decides = [f"{network.sha256} {network.scale}" for network in self.manifest.networks]
        joined = "\n".join([*decides, f"{self.manifest.input_size_px} {self.manifest.threshold}"])
        return f"{self.manifest.name}@{hashlib.sha256(joined.encode()).hexdigest()[:6]}"


def read_pad_bundle(folder: Path) -> PadBundle:
    """Read and verify a pad bundle.

    Raises:
        ModelError: the folder, its manifest or a network is missing, malformed, or a hash differs.
    """
    path = folder / MANIFEST
    try:
        manifest = PadManifest.model_validate_json(path.read_bytes())
        for network in manifest.networks:
            found = hashlib.sha256((folder / network.file).read_bytes()).hexdigest()
            if found != network.sha256:
                raise ModelError(f"{folder / network.file}: damaged (SHA-256 differs from {MANIFEST}); {_AGAIN}")
    except OSError as error:
        raise ModelError(f"{error.filename or path}: cannot be read: {error.strerror}; {_AGAIN}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ModelError(f"{path}: {where}: {first['msg']}; {_AGAIN}") from error
    return PadBundle(folder, manifest)


def find_pad_bundle(models_folder: Path) -> PadBundle | None:
    """The pad bundle among the installed ones, int8 before float32; None without any.

    Raises:
        ModelError: it is damaged.
    """
    folders = (models_folder / f"pad-{variant}" for variant in ("int8", "float32"))
    # What stands there and is no bundle is told: a guard that somebody believes in must not be missing in silence.
    folder = next((folder for folder in folders if folder.exists() or folder.is_symlink()), None)
    return None if folder is None else read_pad_bundle(folder)


class TflitePad:
    """Runs a pad bundle. Not safe for several threads at once.

    Raises:
        ModelError: a network does not load, or is not one for this manifest.
    """

    def __init__(self, bundle: PadBundle, *, threads: int = 1, runtime: Runtime = "auto") -> None:
        self.model_id = bundle.model_id
        self.threshold = bundle.manifest.threshold
        self._size_px = bundle.manifest.input_size_px
        self._networks = [
            (network.scale, _open(bundle, network, threads, runtime)) for network in bundle.manifest.networks
        ]

    def score(self, image: Image, face: Face) -> float:
        """How live a face of a BGR image is, 0-1: the mean of what the networks think of their own crops."""
        return float(np.mean(self.scores(image, face)))

    def scores(self, image: Image, face: Face) -> list[float]:
        """What each network thinks, 0-1."""
        return [
            live_score(run(network, cut_surroundings(image, face.box, scale, self._size_px)))
            for scale, network in self._networks
        ]


def run(network: Interpreter, crop: Image) -> NDArray[np.float32]:
    """The network's logits (3,) for a BGR crop; the published network takes the values 0-255 as they are.

    Raises:
        ModelError: they are no numbers.
    """
    network.set_tensor(network.get_input_details()[0]["index"], crop[np.newaxis].astype(np.float32))
    network.invoke()
    logits: NDArray[np.float32] = network.get_tensor(network.get_output_details()[0]["index"])[0]
    if not np.isfinite(logits).all():
        raise ModelError(f"presentation attack detection: the network returned no numbers; {_AGAIN}")
    return logits


def live_score(logits: NDArray[np.float32]) -> float:
    """The softmax of class 1 of three: 1 is a live face, 0 and 2 are two kinds of attack."""
    exponentials = np.exp(logits - logits.max())
    return float(exponentials[1] / exponentials.sum())


def _open(bundle: PadBundle, network: PadNetwork, threads: int, runtime: Runtime) -> Interpreter:
    path = bundle.folder / network.file
    interpreter = make_interpreter(path, threads=threads, runtime=runtime)
    size = bundle.manifest.input_size_px
    tensors = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    found = [f"{np.dtype(tensor['dtype'])} {tuple(map(int, tensor['shape']))}" for tensor in tensors]
    wanted = [f"float32 {(1, size, size, 3)}", "float32 (1, 3)"]
    if found != wanted:
        raise ModelError(f"{path}: takes and gives {', '.join(found)}, not {' and '.join(wanted)}; {_AGAIN}")
    return interpreter
