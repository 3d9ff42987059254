"""``kiosk identify``: 1:N, every face of every photo against the gallery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from kiosk.biometrics import FaceReport, Image
from kiosk.clock import SystemClock
from kiosk.commands.documents import face_document
from kiosk.commands.options import PATH, common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.drawing import check_plot_path, contact_sheet, describe, explain_faces, write_image
from kiosk.errors import InputError, InputPermissionError
from kiosk.photo import read_photo
from kiosk.pipeline import build_pipeline, build_recognizer
from kiosk.recognition import Recognizer


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One photo's faces, or why it could not be read."""

    path: Path
    reports: tuple[FaceReport, ...] = ()
    error: InputError | None = None
    picture: Image | None = None


@click.command("identify")
@click.argument("images", type=PATH, nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--plot",
    type=PATH,
    metavar="OUT.png",
    help="Draw the faces, and what each decision rests on in words and figures; several photos become one sheet.",
)
@json_option
@common_options
def command(
    *, images: tuple[Path, ...], plot: Path | None, as_json: bool, config_path: Path | None, verbose: int
) -> None:
    """Who is in these photos?

    Every face of every photo is searched in the gallery. A photo that cannot be read is reported, the others are
    done all the same, and the exit code is 65 (77 where this user may not read it).
    """
    config = load(config_path, verbose)
    check_plot_path(plot)
    pipeline = build_pipeline(config)
    with open_store(config) as store:
        today = SystemClock().trusted_date(config.device.timezone)
        gallery = store.gallery(pipeline.embedder.model_id, today=today)
    recognizer = build_recognizer(config, pipeline, gallery, detector=pipeline.group_detector)
    outcomes = [_examine(path, recognizer, draw=plot is not None) for path in images]
    if plot is not None:
        _save(plot, outcomes)
    if as_json:
        print_json({"images": [_image_document(outcome) for outcome in outcomes]})
    else:
        _print(outcomes)
    _complain(outcomes)


def _examine(path: Path, recognizer: Recognizer, *, draw: bool) -> _Outcome:
    try:
        image = read_photo(path)
    except InputError as error:
        return _Outcome(path, error=error)
    reports = tuple(recognizer.analyse(image))
    return _Outcome(path, reports, picture=explain_faces(image, reports) if draw else None)


def _save(plot: Path, outcomes: list[_Outcome]) -> None:
    pictures = [outcome.picture for outcome in outcomes if outcome.picture is not None]
    if pictures:
        write_image(plot, contact_sheet(pictures))


def _print(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        if outcome.error is not None:
            continue
        click.echo(f"{outcome.path}: {len(outcome.reports)} face{'' if len(outcome.reports) == 1 else 's'}")
        for report in outcome.reports:
            x, y, w, h = report.face.box.rounded()
            margin = "" if report.decision.margin is None else f", margin {report.decision.margin:.2f}"
            threshold = f"threshold {report.decision.threshold:.2f}{margin}"
            words = describe(report)
            told = words if words.startswith(report.decision.verdict) else f"{report.decision.verdict}: {words}"
            click.echo(f"  {told}  [{threshold}; box {x},{y} {w}x{h}]")


def _complain(outcomes: list[_Outcome]) -> None:
    """One line for all the photos that could not be read, and the exit code."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        kind = InputPermissionError if all(isinstance(error, InputPermissionError) for error in errors) else InputError
        raise kind(" | ".join(map(str, errors)))


def _image_document(outcome: _Outcome) -> dict[str, object]:
    document: dict[str, object] = {"path": str(outcome.path)}
    document["faces"] = [face_document(report) for report in outcome.reports]
    if outcome.error is not None:
        document["error"] = str(outcome.error)
    return document
