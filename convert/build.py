"""`kiosk-convert build`: weights in, verified bundles out; published only when every variant passes the gate."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.calibration import Crops, collect_crops, read_crops
from convert.crop_pairs import CropPairs, cut_pairs, sample_pairs
from convert.gate import FAR, PairFigures, measure_pairs, require_pass
from convert.metrics import unresolved
from convert.pairs import Pair, read_pairs
from convert.parity import (
    Parity,
    measure_latencies,
    measure_parity,
    reference_embeddings,
    require_floor,
    runtime_embeddings,
)
from convert.quantization import quantizer_version
from convert.quiet import Model, import_tensorflow
from convert.recipes import Measured, Recipe, measured
from convert.report import report_data, report_markdown
from convert.tflite import convert
from convert.weights import WeightsFile, cache_folder, fetch, sha256_of
from kiosk.bundle import Bundle, Manifest, Source, Variant, read_bundle
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import InputError, OutputError, UsageError
from kiosk.preprocessing import preprocess
from kiosk.selftest import examine_bundle, find_samples, record_answers

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Weights:
    """A weights file on this machine, and what is known about it (``known`` None: nobody we know published it)."""

    path: Path
    sha256: str
    known: WeightsFile | None


@dataclass(frozen=True, slots=True)
class Material:
    """What a build is calibrated with and judged by.

    ``calibration``: a folder of photos or, with ``crops``, of aligned crops (None: the sample photos). ``pairs``: a
    folder of photos and LFW's list of pairs of them (None: the sample photos that do not calibrate).
    """

    calibration: Path | None = None
    crops: bool = False
    pairs: tuple[Path, Path] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One build: ``recipe`` with ``weights``."""

    recipe: Recipe
    weights: Weights
    material: Material
    variants: Sequence[Variant]
    say: Say


@dataclass(slots=True)
class _Findings:
    """What was measured of each variant, float32 first."""

    parity: dict[str, Parity] = field(default_factory=dict)
    gate: dict[str, PairFigures] = field(default_factory=dict)


def build(job: Job, out: Path) -> list[Path]:
    """Build ``out/NAME-VARIANT`` for each variant and return the folders; a rerun replaces them.

    Raises:
        InputError: weights or photos that cannot be used, or a variant that does not pass the gate or is below its
            floor (nothing is published then).
        ModelError: a variant that would not pass the kiosk's self-test.
        OutputError: ``out`` cannot be written.
    """
    recipe = job.recipe
    listed = _read_pairs(job.material)
    job.say(f"{recipe.name}: reading {job.weights.path.name}")
    model = recipe.load(job.weights.path, recipe.embedding_dim)
    crops = _collect_crops(job, listed)
    pairs = _cut_pairs(job, listed, crops)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as work:
            folders = _build_all(job, model, crops, pairs, Path(work))
            return [publish(folder, out / folder.name) for folder in folders]
    except OSError as error:
        raise OutputError(f"{error.filename or out}: cannot be written: {error.strerror}") from error


def find_weights(recipe: Recipe, path: Path | None, source: str | None, say: Say) -> Weights:
    """The file given by path, else the recipe's (the one of ``source``), downloaded if need be.

    Raises:
        UsageError: no file of the recipe has that source.
        UnavailableError, InputError, OutputError: see ``convert.weights.fetch``.
    """
    if path is not None:
        sha256 = sha256_of(path)
        known = recipe.known_file(sha256)
        if known is None:
            say(f"warning: {path.name}: SHA-256 {sha256[:12]}… is none we know; used if its shapes fit")
        return Weights(path, sha256, known)
    file = next((file for file in recipe.files if source is None or source in file.origin), None)
    if file is None:
        raise UsageError(f"--source {source}: {recipe.name} comes from " + " or ".join(f.origin for f in recipe.files))
    found = fetch(file, cache_folder())
    if file.sha256 is None:
        say(f"warning: {file.file}: its published SHA-256 is not known to us; used if its shapes fit")
    return Weights(found, sha256_of(found), file)


def _read_pairs(material: Material) -> list[Pair]:
    """The user's pairs, none without.

    Raises:
        InputError: a list that cannot be read, or too short for the gate.
    """
    if material.pairs is None:
        return []
    listed = read_pairs(material.pairs[1])
    too_few = unresolved(FAR, sum(not pair.same for pair in listed), "pairs of different people")
    if too_few:
        raise InputError(f"{material.pairs[1]}: quantization gate: {too_few}")
    return listed


def _collect_crops(job: Job, listed: Sequence[Pair]) -> Crops:
    """Calibration and parity crops, none of them of a photo that the gate judges by."""
    recipe, material = job.recipe, job.material
    apart: frozenset[Path] = frozenset()
    if material.pairs:
        images = material.pairs[0].resolve()
        apart = frozenset((images / path).resolve() for pair in listed for path in (pair.path_a, pair.path_b))
    if material.crops and material.calibration:
        return read_crops(material.calibration, size_px=recipe.input_size_px, apart=apart, say=job.say)
    return collect_crops(
        material.calibration, alignment=recipe.alignment, size_px=recipe.input_size_px, apart=apart, say=job.say
    )


def _cut_pairs(job: Job, listed: Sequence[Pair], crops: Crops) -> CropPairs:
    recipe, material = job.recipe, job.material
    if material.pairs:
        images = material.pairs[0]
        pairs = cut_pairs(images, listed, alignment=recipe.alignment, size_px=recipe.input_size_px)
    else:
        pairs = sample_pairs(crops.photos, alignment=recipe.alignment, size_px=recipe.input_size_px)
    job.say(f"gate: {pairs.what}")
    return pairs


def _build_all(job: Job, model: Model, crops: Crops, pairs: CropPairs, work: Path) -> list[Path]:
    recipe, say = job.recipe, job.say
    say(f"{recipe.name}: Keras embeddings of {len(crops.held_out)} crops")
    keras = reference_embeddings(model, crops.held_out, recipe.preprocessing)
    samples = [preprocess(crop, recipe.preprocessing) for crop in crops.calibration]
    bundles: dict[Variant, Bundle] = {}
    findings = _Findings()
    # Float32 is what the others are judged by, wanted or not.
    for variant in dict.fromkeys(("float32", *job.variants)):
        name = f"{recipe.name}-{variant}"
        say(f"{name}: converting")
        bundles[variant] = _write_bundle(job, variant, convert(model, variant, samples), work / name)
        findings.gate[variant] = measure_pairs(bundles[variant], pairs)
        require_pass(name, findings.gate[variant], findings.gate["float32"], pairs)
        if variant == "float32":
            float32 = runtime_embeddings(bundles[variant], crops.held_out)
        findings.parity[variant] = measure_parity(bundles[variant], crops.held_out, keras, float32)
        say(f"{name}: {_summary(findings.parity[variant], findings.gate[variant])}")
        require_floor(name, findings.parity[variant])
    data = report_data(
        findings.parity,
        measure_latencies(bundles, crops.held_out[0]),
        findings.gate,
        split=crops.split,
        pairs=pairs.what,
        built_with={"tensorflow": import_tensorflow().__version__, "litert-quantizer": quantizer_version()},
    )
    for variant in job.variants:
        _write_report(bundles[variant], data, variant)
        _require_self_test(bundles[variant].folder)
    return [bundles[variant].folder for variant in job.variants]


def _write_bundle(job: Job, variant: Variant, content: bytes, folder: Path) -> Bundle:
    recipe, weights = job.recipe, job.weights
    folder.mkdir()
    (folder / "model.tflite").write_bytes(content)
    # Figures belong to weights: another file's bundle starts without any.
    figures = measured(recipe.name, variant) if weights.known else Measured((), None, None, None)
    manifest = Manifest(
        schema=1,
        name=folder.name,
        architecture=recipe.name,
        variant=variant,
        source=_source(weights),
        tflite_sha256=hashlib.sha256(content).hexdigest(),
        input_size_px=recipe.input_size_px,
        input_dtype="float32",
        embedding_dim=recipe.embedding_dim,
        preprocessing=recipe.preprocessing,
        alignment=recipe.alignment,
        thresholds=figures.thresholds,
        thresholds_measured_on=figures.thresholds_measured_on,
        search=figures.search,
        accuracy=figures.accuracy,
    )
    _write_manifest(folder, manifest)
    return read_bundle(folder)


def _source(weights: Weights) -> Source:
    known = weights.known
    return Source(
        file=weights.path.name,
        sha256=weights.sha256,
        origin=known.origin if known else "given by path",
        licence=known.licence if known else "not known",
    )


def _write_report(bundle: Bundle, data: dict[str, Any], variant: Variant) -> None:
    own = {
        **data,
        "parity": data["parity"][variant],
        "gate": {**data["gate"], "figures": data["gate"]["figures"][variant]},
    }
    manifest = bundle.manifest.model_copy(update={"known_answers": record_answers(bundle), "report": own})
    _write_manifest(bundle.folder, manifest)
    (bundle.folder / "report.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (bundle.folder / "report.md").write_text(report_markdown(manifest, data), encoding="utf-8")


def _require_self_test(folder: Path) -> None:
    """What the kiosk would refuse is not published."""
    bundle = read_bundle(folder)
    examine_bundle(bundle, TfliteEmbedder(bundle), find_samples())


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = manifest.model_dump_json(by_alias=True, indent=2)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def publish(folder: Path, target: Path) -> Path:
    """Move a finished bundle to its place; one that stands there gives way first."""
    old = folder.with_name(f"{folder.name}.old")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _summary(parity: Parity, figures: PairFigures) -> str:
    return (
        f"accuracy {figures.accuracy:.4f}, TAR {figures.tar:.4f}; cosine mean {parity.cosine_mean:.5f}, "
        f"p1 {parity.cosine_p1:.5f}, min {parity.cosine_min:.5f}; {parity.size_bytes / 1e6:.2f} MB"
    )
