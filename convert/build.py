"""`kiosk-convert build`: weights in, verified bundles out; published only when every variant is good."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.calibration import Crops, collect_crops
from convert.parity import Parity, measure_parity, reference_embeddings, require_floor
from convert.quiet import Model, import_tensorflow
from convert.recipes import Measured, Recipe, measured
from convert.report import report_data, report_markdown
from convert.tflite import convert
from convert.weights import WeightsFile, cache_folder, fetch, sha256_of
from kiosk.bundle import Bundle, Manifest, Source, Variant, read_bundle
from kiosk.errors import OutputError, UsageError
from kiosk.preprocessing import preprocess

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Weights:
    """A weights file on this machine, and what is known about it (``known`` None: nobody we know published it)."""

    path: Path
    sha256: str
    known: WeightsFile | None


@dataclass(frozen=True, slots=True)
class Job:
    """One build: ``recipe`` with ``weights``, calibrated on the photos of a folder (None: the sample photos)."""

    recipe: Recipe
    weights: Weights
    calibration: Path | None
    variants: Sequence[Variant]
    say: Say


def build(job: Job, out: Path) -> list[Path]:
    """Build ``out/NAME-VARIANT`` for each variant and return the folders; a rerun replaces them.

    Raises:
        InputError: weights or photos that cannot be used, or a variant below its floor (nothing is published then).
        OutputError: ``out`` cannot be written.
    """
    recipe = job.recipe
    job.say(f"{recipe.name}: reading {job.weights.path.name}")
    model = recipe.load(job.weights.path, recipe.embedding_dim)
    crops = collect_crops(job.calibration, alignment=recipe.alignment, size_px=recipe.input_size_px, say=job.say)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as work:
            folders = _build_all(job, model, crops, Path(work))
            return [_publish(folder, out / folder.name) for folder in folders]
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


def _build_all(job: Job, model: Model, crops: Crops, work: Path) -> list[Path]:
    recipe, say = job.recipe, job.say
    say(f"{recipe.name}: Keras embeddings of {len(crops.held_out)} crops")
    reference = reference_embeddings(model, crops.held_out, recipe.preprocessing)
    samples = [preprocess(crop, recipe.preprocessing) for crop in crops.calibration]
    bundles: dict[Variant, Bundle] = {}
    parities: dict[str, Parity] = {}
    for variant in job.variants:
        name = f"{recipe.name}-{variant}"
        say(f"{name}: converting")
        bundles[variant] = _write_bundle(job, variant, convert(model, variant, samples), work / name)
        parities[variant] = measure_parity(bundles[variant], crops.held_out, reference)
        say(f"{name}: cosine {_summary(parities[variant])}")
        require_floor(name, parities[variant])
    data = report_data(parities, crops.split, import_tensorflow().__version__)
    for variant, bundle in bundles.items():
        _write_report(bundle, data, variant)
    return [bundle.folder for bundle in bundles.values()]


def _write_bundle(job: Job, variant: Variant, content: bytes, folder: Path) -> Bundle:
    recipe, weights = job.recipe, job.weights
    folder.mkdir()
    (folder / "model.tflite").write_bytes(content)
    # Figures belong to weights: another file's bundle starts without any.
    figures = measured(recipe.name, variant) if weights.known else Measured((), None, None)
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
    own = {**data, "parity": data["parity"][variant]}
    manifest = bundle.manifest.model_copy(update={"report": own})
    _write_manifest(bundle.folder, manifest)
    (bundle.folder / "report.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (bundle.folder / "report.md").write_text(report_markdown(manifest, data), encoding="utf-8")


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = manifest.model_dump_json(by_alias=True, indent=2)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def _publish(folder: Path, target: Path) -> Path:
    """Move a finished bundle to its place; one that stands there gives way first."""
    old = folder.with_name(f"{folder.name}.old")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _summary(parity: Parity) -> str:
    return (
        f"mean {parity.cosine_mean:.5f}, p1 {parity.cosine_p1:.5f}, min {parity.cosine_min:.5f}; "
        f"{parity.latency_ms_2_threads:.1f} ms (2 threads), {parity.size_bytes / 1e6:.2f} MB"
    )
