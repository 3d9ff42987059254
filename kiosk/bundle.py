"""Model bundles: a folder with ``model.tflite`` and the ``manifest.json`` that says what it is and how good.

A bundle whose hash does not match its manifest is refused; shapes are checked when it is loaded.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kiosk.biometrics import Embedding, ModelId
from kiosk.errors import ModelError
from kiosk.thresholds import SearchScores

BUILT_IN = Path(__file__).parent / "data" / "models"
BUILT_IN_BUNDLE = "dlib-resnet29-int8"

Variant = Literal["int8", "dynamic", "float16", "float32"]
Preprocessing = Literal["fixed-127.5-128", "per-image-whitening", "dlib-mean-256"]
Alignment = Literal["eyes-box-v1", "dlib-chip-v1", "haar-square-v1"]

_VARIANT_ORDER: tuple[Variant, ...] = ("int8", "dynamic", "float16", "float32")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Record):
    """Where the weights came from."""

    file: str
    sha256: str
    origin: str
    licence: str


class OperatingPoint(_Record):
    """A score and the false match rate of single comparisons measured at it."""

    fmr: float = Field(gt=0, le=1)
    score: float = Field(ge=-1, le=1)


class Accuracy(_Record):
    """Measured 1:1 verification accuracy; undetected faces count as errors."""

    protocol: str
    pairs: int
    value: float
    threshold: float
    undetected: int


_ANSWER_DTYPE = np.dtype("<f2")


class KnownAnswer(_Record):
    """What a bundle answered when it was built: the embedding of the face in one of the kiosk's sample photos.

    ``photo_sha256``: of the photo's file, for a later kiosk may come with another one. ``embedding``: little-endian
    16-bit floats in base64.
    """

    photo: str = Field(pattern=r"^[a-z0-9_]{1,64}\.jpg$")
    photo_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    embedding: str = Field(pattern=r"^[A-Za-z0-9+/=]{4,16384}$")

    @classmethod
    def of(cls, photo: str, photo_sha256: str, embedding: Embedding) -> Self:
        text = base64.b64encode(embedding.astype(_ANSWER_DTYPE).tobytes()).decode("ascii")
        return cls(photo=photo, photo_sha256=photo_sha256, embedding=text)

    def decoded(self) -> Embedding:
        """Shape (embedding_dim,). ValueError: it is none."""
        values: Embedding = np.frombuffer(base64.b64decode(self.embedding), _ANSWER_DTYPE).astype(np.float32)
        return values


class Manifest(_Record):
    """``manifest.json``."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    architecture: str
    variant: Variant
    source: Source
    tflite_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    input_size_px: int = Field(ge=16, le=1024)
    input_dtype: Literal["float32", "uint8", "int8"]
    embedding_dim: int = Field(ge=1, le=4096)
    preprocessing: Preprocessing
    alignment: Alignment
    thresholds: tuple[OperatingPoint, ...] = ()
    thresholds_measured_on: str | None = None
    search: SearchScores | None = None
    accuracy: Accuracy | None = None
    known_answers: tuple[KnownAnswer, ...] = Field(default=(), max_length=32)
    report: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _answers_fit(self) -> Self:
        for answer in self.known_answers:
            values = answer.decoded()
            if values.shape != (self.embedding_dim,) or not np.isfinite(values).all():
                raise ValueError(f"the known answer for {answer.photo} is no embedding of this model")
        return self

    @field_validator("thresholds")
    @classmethod
    def _one_score_a_rate(cls, points: tuple[OperatingPoint, ...]) -> tuple[OperatingPoint, ...]:
        if len({point.fmr for point in points}) != len(points):
            raise ValueError("two scores for one rate")
        return points


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose model file matches its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        return self.folder / "model.tflite"

    @property
    def model_id(self) -> ModelId:
        """``name@`` and the first six hex digits of the model's hash."""
        return ModelId(f"{self.manifest.name}@{self.manifest.tflite_sha256[:6]}")

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all that the manifest states, the model's hash among it.

        The same for later versions of the kiosk, whose manifests may have more fields.
        """
        text = self.manifest.model_dump_json(by_alias=True, exclude_defaults=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def built_in(self) -> bool:
        return self.folder.parent == BUILT_IN

    @property
    def measured(self) -> bool:
        """Whether the error rates of comparisons and of searches are known."""
        return bool(self.manifest.thresholds) and self.manifest.search is not None

    def verification_threshold(self, fmr: float = 1e-3) -> float:
        """The score of a 1:1 decision with this false match rate.

        Between the measured points, and beyond the last one, the score is linear in the logarithm of the rate.

        Raises:
            ModelError: nobody has measured this bundle.
        """
        points = self.manifest.thresholds
        if not points:
            raise self._unmeasured()
        if len(points) == 1:
            return points[0].score
        wanted = math.log10(fmr)
        pairs = [(math.log10(p.fmr), p.score) for p in sorted(points, key=lambda p: -p.fmr)]
        low, high = next(
            ((a, b) for a, b in itertools.pairwise(pairs) if wanted >= b[0]),
            (pairs[-2], pairs[-1]),
        )
        slope = (high[1] - low[1]) / (high[0] - low[0])
        return min(max(low[1] + slope * (wanted - low[0]), -1.0), 1.0)

    def search_scores(self) -> SearchScores:
        """What strangers' searches score.

        Raises:
            ModelError: nobody has measured this bundle.
        """
        if self.manifest.search is None:
            raise self._unmeasured()
        return self.manifest.search

    def margin(self, configured: float) -> float:
        """``match.margin`` on this model's scale.

        The setting is meant for FaceNet, whose scores spread over 0.4 and more above the 1:1 threshold. Models that
        crowd all faces together (dlib: threshold above 0.9) get the same share of what spread they have.
        """
        if not self.manifest.thresholds:
            return configured
        return configured * min(1.0, (1 - self.verification_threshold()) / _FACENET_SPREAD)

    def _unmeasured(self) -> ModelError:
        return ModelError(f"{self.folder}: no error rates were measured for this bundle; set match.threshold")


_FACENET_SPREAD = 0.40


def read_bundle(folder: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        ModelError: the folder, manifest or model is missing, malformed, or the hash differs.
    """
    manifest_path = folder / "manifest.json"
    try:
        text = manifest_path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: not a model bundle (no manifest.json); build or install the bundle again"
        ) from None
    except OSError as error:
        raise ModelError(f"{manifest_path}: cannot be read: {error.strerror}") from error
    bundle = Bundle(folder, _parse_manifest(manifest_path, text))
    found = _sha256(bundle.model_path)
    if found != bundle.manifest.tflite_sha256:
        raise ModelError(
            f"{bundle.model_path}: SHA-256 {found[:12]}… differs from the manifest's "
            f"{bundle.manifest.tflite_sha256[:12]}…; build or install the bundle again"
        )
    return bundle


Changes = Mapping[Path, "Bundle | None"]
"""What would lie at a place (see :func:`place`) after a change that is only planned: a bundle, or None for nothing."""

NO_CHANGES: Changes = MappingProxyType({})


def place(folder: Path) -> Path:
    """A folder's absolute path; where it is a link itself, that of the link."""
    return folder.parent.resolve() / folder.name


def bundle_folders(parent: Path) -> list[Path]:
    """The folders that hold a bundle or a part of one, by name."""
    return sorted({path.parent for file in ("manifest.json", "model.tflite") for path in parent.glob(f"*/{file}")})


def find_bundles(models_folder: Path, changes: Changes = NO_CHANGES) -> list[Bundle]:
    """All bundles, installed ones first, each group in the order ``auto`` prefers them.

    Raises:
        ModelError: one of them is damaged or only half copied.
    """
    installed = _bundles_in(models_folder, changes) if models_folder != BUILT_IN else []
    return sorted(installed, key=preference) + sorted(_bundles_in(BUILT_IN), key=preference)


def select_bundle(wanted: str, models_folder: Path, changes: Changes = NO_CHANGES) -> Bundle:
    """The bundle named in ``model.bundle``: ``auto``, an installed name, or a folder.

    ``auto`` takes the installed bundle with the best measured accuracy (the smallest variant among equals), and
    the built-in one when none is installed, or none whose error rates are known. With ``changes`` it is the bundle
    that would be taken after them.

    Raises:
        ModelError: there is no such bundle, or it is damaged.
    """
    if wanted == "auto":
        bundles = find_bundles(models_folder, changes)
        if not bundles:
            raise ModelError(f"no model bundle in {models_folder} or {BUILT_IN}; reinstall the kiosk")
        return next((bundle for bundle in bundles if bundle.measured), bundles[0])
    for folder in (models_folder / wanted, BUILT_IN / wanted, Path(wanted)):
        if place(folder) in changes:
            planned = changes[place(folder)]
            if planned is not None:
                return planned
        elif (folder / "manifest.json").exists():
            return read_bundle(folder)
    raise ModelError(f"model.bundle: no bundle {wanted!r}; `kiosk model list` names the installed ones")


def _bundles_in(parent: Path, changes: Changes = NO_CHANGES) -> list[Bundle]:
    planned = {folder: bundle for folder, bundle in changes.items() if folder.parent == parent.resolve()}
    folders = [folder for folder in bundle_folders(parent) if place(folder) not in planned]
    return [_read_installed(folder) for folder in folders] + [b for b in planned.values() if b is not None]


def _read_installed(folder: Path) -> Bundle:
    try:
        return read_bundle(folder)
    except ModelError as error:
        if folder.parent == BUILT_IN:
            raise
        raise ModelError(
            f"{error}; `kiosk model install FOLDER` replaces it, `kiosk model remove {folder.name}` takes it away"
        ) from None


def preference(bundle: Bundle) -> tuple[float, int, str]:
    """What ``auto`` sorts bundles by, the best first."""
    accuracy = bundle.manifest.accuracy.value if bundle.manifest.accuracy else 0.0
    # Half a point of accuracy on 1,000 pairs is noise: within it, the smaller variant wins.
    return -round(accuracy * 200), _VARIANT_ORDER.index(bundle.manifest.variant), bundle.manifest.name


def _parse_manifest(path: Path, text: bytes) -> Manifest:
    try:
        return Manifest.model_validate(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise ModelError(f"{path}: {where}: {first['msg']}; build or install the bundle again") from None
        raise ModelError(f"{path}: not valid JSON; build or install the bundle again") from None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}; install the bundle again") from error
