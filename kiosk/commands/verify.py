"""``kiosk verify``: 1:1, two photos, one person or two?"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import click

from kiosk.advice import advise
from kiosk.align import central_face
from kiosk.biometrics import Embedding, Face, Image
from kiosk.commands.options import PATH, common_options, json_option, load, print_json
from kiosk.config import Config
from kiosk.drawing import check_plot_path, draw_verification, write_image
from kiosk.errors import InputError
from kiosk.photo import read_photo
from kiosk.pipeline import Pipeline, build_pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Side:
    """One photo's face."""

    path: Path
    face: Face
    crop: Image
    embedding: Embedding


@click.command("verify")
@click.argument("image_a", type=PATH)
@click.argument("image_b", type=PATH)
@click.option(
    "--plot", type=PATH, metavar="OUT.png", help="Draw both aligned faces, distance and threshold to this file."
)
@json_option
@common_options
def command(
    *, image_a: Path, image_b: Path, plot: Path | None, as_json: bool, config_path: Path | None, verbose: int
) -> None:
    """Do two photos show the same person?

    Prints True or False and the distance between the two faces (1 - cosine similarity). In a photo of several people
    the largest face near the centre counts. The threshold is the bundle's own for single comparisons, or
    match.threshold where that is a number.
    """
    config = load(config_path, verbose)
    check_plot_path(plot)
    pipeline = build_pipeline(config)
    a, b = (_find_face(path, pipeline) for path in (image_a, image_b))
    score = float(a.embedding @ b.embedding)
    score_threshold = _score_threshold(config, pipeline)
    same = score >= score_threshold
    if plot is not None:
        picture = draw_verification((a.crop, b.crop), distance=1 - score, threshold=1 - score_threshold, same=same)
        write_image(plot, picture)
    if as_json:
        print_json(_document(a, b, score, score_threshold, str(pipeline.embedder.model_id)))
    else:
        click.echo(same)
        click.echo(f"Distance = {1 - score:.2f}")


def _score_threshold(config: Config, pipeline: Pipeline) -> float:
    wanted = config.match.threshold
    return pipeline.bundle.verification_threshold() if wanted == "auto" else wanted


def _find_face(path: Path, pipeline: Pipeline) -> _Side:
    image = read_photo(path)
    faces = pipeline.photo_detector.detect(image)
    if not faces:
        raise InputError(f"{path}: no face found; use a photo that shows the face from the front")
    face = central_face(faces, image.shape[1], image.shape[0])
    quality = pipeline.gate.assess(image, face)
    if quality.failure is not None:
        log.warning("%s: the distance says little: %s", path, advise(quality))
    crop = pipeline.embedder.crop(image, face)
    return _Side(path, face, crop, pipeline.embedder.embed(image, face))


def _document(a: _Side, b: _Side, score: float, score_threshold: float, model: str) -> dict[str, object]:
    return {
        "same": score >= score_threshold,
        "distance": round(1 - score, 6),
        "score": round(score, 6),
        "threshold": round(1 - score_threshold, 6),
        "score_threshold": round(score_threshold, 6),
        "metric": "cosine",
        "model": model,
        "faces": [{"box": list(side.face.box.rounded()), "image": str(side.path)} for side in (a, b)],
    }
