"""The `kiosk-convert` command. Every failure is one line on stderr and an exit code; TensorFlow loads only to build."""

from __future__ import annotations

import json
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from kiosk import __version__
from kiosk.errors import KioskError

_EXIT_USAGE = 64
_EXIT_INTERNAL = 70
_EXIT_OUTPUT = 74
_EXIT_PERMISSION = 77
_EXIT_INTERRUPTED = 128 + signal.SIGINT

_NAMES = ("facenet512", "facenet128", "dlib-resnet29")
_VARIANTS = ("float32", "float16", "dynamic", "int8")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 64 usage, 65 bad input or a variant that does not pass the gate, 69 download or "
    "package not available, 73/74 cannot write, 77 not permitted.",
)
@click.version_option(__version__, prog_name="kiosk-convert", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks and what the libraries log.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Turn published network weights into model bundles for the kiosk, and measure bundles."""
    ctx.ensure_object(dict)["debug"] = debug
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@cli.command("build")
@click.argument("name", type=click.Choice(_NAMES))
@click.option("--weights", type=click.Path(path_type=Path), help="Use this weights file instead of a download.")
@click.option("--source", help="Which publisher's file to download, e.g. deepface; the first known by default.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of photos with faces, 150 or more.")
@click.option("--crops", is_flag=True, help="--calibration holds aligned crops of the model's input size: used as is.")
@click.option("--images", type=click.Path(path_type=Path), help="Gate: folder of NAME/NAME_0001.jpg.")
@click.option("--pairs", "pairs_file", type=click.Path(path_type=Path), help="Gate: LFW pair list of these images.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bundles"), show_default=True)
@click.option("--variants", help=f"Comma-separated, of {','.join(_VARIANTS)}; all by default.")
def build_command(
    *,
    name: str,
    weights: Path | None,
    source: str | None,
    calibration: Path | None,
    crops: bool,
    images: Path | None,
    pairs_file: Path | None,
    out: Path,
    variants: str | None,
) -> None:
    """Build model bundles: .tflite variants with manifest and report, published when all pass the quantization gate.

    Without --weights the published file is downloaded to ~/.cache/kiosk (resumed when interrupted) and its SHA-256
    checked. Without --calibration the kiosk's few sample photos calibrate int8; photos from your own camera do it
    better.

    The gate refuses variants that tell people apart worse than float32 does: on the pairs of --images and --pairs, else
    on spoilt crops of the sample photos that did not calibrate. It refuses what wrong calibration has damaged.
    """
    wanted = _parse_variants(variants)
    if crops and calibration is None:
        raise click.UsageError("--crops says what --calibration holds: give both")
    if (images is None) != (pairs_file is None):
        raise click.UsageError("--images and --pairs belong together: give both or neither")
    from convert.build import Job, Material, build, find_weights
    from convert.recipes import find_recipe

    recipe = find_recipe(name)
    found = find_weights(recipe, weights, source, _say)
    material = Material(calibration, crops, (images, pairs_file) if images and pairs_file else None)
    for folder in build(Job(recipe, found, material, wanted, _say), out):
        click.echo(str(folder))


@cli.command("evaluate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of NAME/NAME_0001.jpg.")
@click.option("--pairs", "pairs_file", type=click.Path(path_type=Path), required=True, help="LFW pair list.")
@click.option("--scores", type=click.Path(path_type=Path), help="Write one CSV row a pair here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--detector", type=click.Choice(["blazeface", "haar"]), default="blazeface", show_default=True)
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True)
def evaluate_command(
    *,
    bundle: Path,
    images: Path,
    pairs_file: Path,
    scores: Path | None,
    as_json: bool,
    detector: Literal["blazeface", "haar"],
    threads: int,
) -> None:
    """Measure 1:1 verification with a bundle as the kiosk would run it: detector, alignment, embedder."""
    from convert.evaluate import embed_photos, summarise, summary_text, write_scores
    from convert.pairs import read_pairs
    from kiosk.bundle import read_bundle

    pairs = read_pairs(pairs_file)
    paths = [path for pair in pairs for path in (pair.path_a, pair.path_b)]
    embeddings = embed_photos(read_bundle(bundle), images, paths, detector=detector, threads=threads)
    if scores is not None:
        write_scores(scores, pairs, embeddings)
    figures = summarise(pairs, embeddings, detector=detector)
    click.echo(json.dumps(figures, indent=2) if as_json else summary_text(figures))


def _parse_variants(text: str | None) -> tuple[Any, ...]:
    names = [part.strip() for part in text.split(",")] if text else list(_VARIANTS)
    unknown = [name for name in names if name not in _VARIANTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(_VARIANTS)}", param_hint="--variants")
    return tuple(name for name in _VARIANTS if name in names)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code; every failure is told on stderr."""
    state = {"debug": False}
    try:
        result: Any = cli.main(args=list(arguments), prog_name="kiosk-convert", standalone_mode=False, obj=state)
    except Exception as error:  # noqa: BLE001 - the process's outermost guard: nothing may end in a traceback
        if state["debug"]:
            traceback.print_exception(error)
        return _explain(error)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> int:
    match error:
        case KioskError():
            return _complain(str(error), error.exit_code)
        case click.Abort():
            return _EXIT_INTERRUPTED
        case click.ClickException():
            return _explain_usage(error)
        case OSError() if error.errno is not None:
            code = _EXIT_PERMISSION if isinstance(error, PermissionError) else _EXIT_OUTPUT
            return _complain(f"{error.filename or 'output'}: {error.strerror}", code)
    text = f"internal error: {type(error).__name__}: {error}; `kiosk-convert --debug …` shows the details"
    return _complain(text, _EXIT_INTERNAL)


def _explain_usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return _EXIT_USAGE
    return _complain(f"{error.format_message().rstrip('.')}; see `kiosk-convert --help`", _EXIT_USAGE)


def _complain(text: str, code: int) -> int:
    """One line on stderr, whatever a file name in it contains."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    click.echo(f"kiosk-convert: {line}", err=True)
    return code


def _say(text: str) -> None:
    click.echo(text, err=True)
