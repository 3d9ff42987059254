"""`kiosk-convert build pad`: the published pair of networks as a pad bundle, checked against PyTorch."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convert.build import publish
from convert.calibration import SAMPLE_PHOTOS, light, move_face
from convert.minifasnet import INPUT_SIZE_PX, load_minifasnet
from convert.pad_reference import reference_logits, synthetic_crops
from convert.photos import main_face
from convert.quantization import quantize, quantizer_version
from convert.quiet import import_tensorflow
from convert.tflite import convert
from convert.weights import WeightsFile, cache_folder, fetch, sha256_of
from kiosk import __version__
from kiosk.align import cut_surroundings
from kiosk.biometrics import Image
from kiosk.detector import BlazeFaceDetector
from kiosk.errors import InputError, OutputError, UnavailableError
from kiosk.pad import (
    MANIFEST,
    PadBundle,
    PadManifest,
    PadNetwork,
    PadSource,
    live_score,
    read_pad_bundle,
    run,
)
from kiosk.photo import photos_below, read_photo
from kiosk.selftest import record_scores
from kiosk.tflite import make_interpreter

PadVariant = Literal["float32", "int8"]
PAD_VARIANTS: tuple[PadVariant, ...] = ("float32", "int8")

THRESHOLD = 0.4
"""Of the score that a bundle calls live; measured in docs/pad.md."""

FLOORS: dict[PadVariant, float] = {"float32": 1e-4, "int8": 0.05}
"""Most that the live scores (0-1) of a network may differ from PyTorch's on the synthetic crops: float32's at worst,
int8's on average. A build beyond it fails."""

CALIBRATION_CROPS = 200
_SEED = 80

Say = Callable[[str], None]
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PadRecipe:
    """One of the two networks. ``scale``: its crop's side in units of the face box's."""

    architecture: str
    scale: float
    weights: WeightsFile


def _published(file: str, sha256: str) -> WeightsFile:
    project, commit = "minivision-ai/Silent-Face-Anti-Spoofing", "f679b7c96ad407d1114182847d3e0c20619a76d0"
    return WeightsFile(
        file=file,
        origin=project,
        licence="Apache-2.0",
        sha256=sha256,
        url=f"https://raw.githubusercontent.com/{project}/{commit}/resources/anti_spoof_models/{file}",
    )


NETWORKS = (
    PadRecipe(
        "minifasnet-v2",
        2.7,
        _published("2.7_80x80_MiniFASNetV2.pth", "a5eb02e1843f19b5386b953cc4c9f011c3f985d0ee2bb9819eea9a142099bec0"),
    ),
    PadRecipe(
        "minifasnet-v1se",
        4.0,
        _published(
            "4_0_0_80x80_MiniFASNetV1SE.pth", "84ee1d37d96894d5e82de5a57df044ef80a58be2b218b5ed7cdfd875ec2f5990"
        ),
    ),
)

_BY_HAND = (
    f"pad is made of two files, {' and '.join(network.weights.file for network in NETWORKS)}: fetch both from "
    f"{(NETWORKS[0].weights.url or '').rpartition('/')[0]}/ into one folder, and give that with --weights"
)


@dataclass(frozen=True, slots=True)
class PadParity:
    """Differences of one network's live score (0-1) from PyTorch's over the synthetic crops."""

    crops: int
    worst: float
    mean: float
    size_bytes: int


def find_pad_weights(folder: Path | None) -> list[Path]:
    """The two published files: in the folder, else downloaded.

    Raises:
        InputError: one is not in the folder, or is not the published one.
        UnavailableError, OutputError: see ``convert.weights.fetch``.
    """
    if folder is None:
        try:
            return [fetch(network.weights, cache_folder()) for network in NETWORKS]
        except UnavailableError as error:
            raise UnavailableError(f"{str(error).partition(';')[0]}; {_BY_HAND}") from error
    paths = [folder / network.weights.file for network in NETWORKS]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        what = "is no folder" if not folder.is_dir() else f"{' and '.join(missing)} not in it"
        raise InputError(f"{folder}: {what}; {_BY_HAND}")
    for path, network in zip(paths, NETWORKS, strict=True):
        if sha256_of(path) != network.weights.sha256:
            raise InputError(f"{path}: SHA-256 is not that of the published file; fetch it again")
    return paths


def build_pad(
    weights: Sequence[Path], variants: Sequence[PadVariant], *, calibration: Path | None, out: Path, say: Say
) -> list[Path]:
    """Build ``out/pad-VARIANT`` for each variant and return the folders; a rerun replaces them.

    ``weights``: the files of ``NETWORKS``. ``calibration``: a folder of photos for int8; the sample photos by default.

    Raises:
        InputError: photos that cannot be used, or a network further from the published one than its floor.
        OutputError: ``out`` cannot be written.
    """
    say("pad: converting")
    networks = [convert(load_minifasnet(path), "float32", []) for path in weights]
    samples = _collect_samples(calibration, say) if "int8" in variants else [[] for _ in networks]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as work:
            folders = []
            for variant in variants:
                folder = Path(work) / f"pad-{variant}"
                folder.mkdir()
                bundle = _write_bundle(networks, variant, samples, folder)
                worst = ", ".join(f"{file} {p['worst']:.6f}" for file, p in bundle.manifest.report["parity"].items())
                say(f"pad-{variant}: live score off PyTorch's by at most {worst}")
                folders.append(folder)
            return [publish(folder, out / folder.name) for folder in folders]
    except OSError as error:
        raise OutputError(f"{error.filename or out}: cannot be written: {error.strerror}") from error


def _write_bundle(
    float32: Sequence[bytes], variant: PadVariant, samples: Sequence[Sequence[Array]], folder: Path
) -> PadBundle:
    networks = []
    parity: dict[str, Any] = {}
    for recipe, network, own in zip(NETWORKS, float32, samples, strict=True):
        content = quantize(network, own) if variant == "int8" else network
        path = folder / f"{recipe.architecture}.tflite"
        path.write_bytes(content)
        parity[path.name] = asdict(_require_floor(f"pad-{variant}", measure_pad_parity(path, recipe), variant, path))
        networks.append(
            PadNetwork(
                file=path.name,
                sha256=hashlib.sha256(content).hexdigest(),
                architecture=recipe.architecture,
                scale=recipe.scale,
                source=_source(recipe.weights),
            )
        )
    manifest = PadManifest(
        schema=1,
        name=folder.name,
        variant=variant,
        input_size_px=INPUT_SIZE_PX,
        networks=(networks[0], networks[1]),
        threshold=THRESHOLD,
        report={"built_with": _versions(), "parity": parity},
    )
    bundle = _write_manifest(folder, manifest)
    return _write_manifest(folder, manifest.model_copy(update={"known_scores": record_scores(bundle)}))


def _write_manifest(folder: Path, manifest: PadManifest) -> PadBundle:
    text = manifest.model_dump_json(by_alias=True, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return read_pad_bundle(folder)


def measure_pad_parity(path: Path, recipe: PadRecipe) -> PadParity:
    """Run a network by the kiosk's runtime on the crops that PyTorch was given."""
    network = make_interpreter(path, threads=1)
    ours = [live_score(run(network, crop.astype(np.uint8))) for crop in synthetic_crops()]
    theirs = [live_score(logits) for logits in reference_logits(recipe.weights.file)]
    off = np.abs(np.array(ours) - np.array(theirs))
    return PadParity(len(off), round(float(off.max()), 6), round(float(off.mean()), 6), path.stat().st_size)


def _require_floor(name: str, parity: PadParity, variant: PadVariant, path: Path) -> PadParity:
    off = parity.worst if variant == "float32" else parity.mean
    if not off <= FLOORS[variant]:
        raise InputError(
            f"{name}: {path.name}: live scores are off PyTorch's by {off:.4f}, at most {FLOORS[variant]} is allowed; "
            "nothing was published; calibrate with more, and more typical, photos"
        )
    return parity


def _source(weights: WeightsFile) -> PadSource:
    return PadSource(file=weights.file, sha256=str(weights.sha256), origin=weights.origin, licence=weights.licence)


def _versions() -> Mapping[str, str]:
    return {
        "kiosk": __version__,
        "tensorflow": import_tensorflow().__version__,
        "litert-quantizer": quantizer_version(),
    }


def _collect_samples(folder: Path | None, say: Say) -> list[list[Array]]:
    """For each network its crops of the photos' faces: as found, then moved and in other light, every second mirrored.

    Raises:
        InputError: no photo there, one that cannot be read, or none with a face.
    """
    source = folder or SAMPLE_PHOTOS
    random = np.random.default_rng(_SEED)
    paths = photos_below(source)
    paths = [paths[index] for index in random.permutation(len(paths))[:CALIBRATION_CROPS]]
    detector = BlazeFaceDetector(threads=2)
    shots = [(image, face) for image in map(read_photo, paths) if (face := main_face(image, detector)) is not None]
    if not shots:
        raise InputError(f"{source}: no face found in any of {len(paths)} photos; give photos that show faces")
    say(f"calibration: {len(shots)} photos of {'the sample photos' if folder is None else folder}")
    samples: list[list[Array]] = [[] for _ in NETWORKS]
    for number in range(math.ceil(CALIBRATION_CROPS / len(shots))):
        for image, face in shots:
            seen = face if number < 2 else move_face(face, random, turn_deg=0)
            for recipe, own in zip(NETWORKS, samples, strict=True):
                crop = cut_surroundings(image, seen.box, recipe.scale, INPUT_SIZE_PX)
                own.append(_varied(crop, random, lit=number >= 2, mirrored=number % 2 == 1))
    return samples


def _varied(crop: Image, random: np.random.Generator, *, lit: bool, mirrored: bool) -> Array:
    crop = light(crop, random) if lit else crop
    return np.ascontiguousarray(crop[:, ::-1] if mirrored else crop, np.float32)
