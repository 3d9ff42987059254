"""The `kiosk-convert` command. Every failure is one line on stderr and an exit code; TensorFlow loads only to build."""

from __future__ import annotations

import json
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kiosk import __version__
from kiosk.errors import KioskError, OutputError, UsageError

if TYPE_CHECKING:
    from convert.pipelines import DetectorName

_EXIT_USAGE = 64
_EXIT_INTERNAL = 70
_EXIT_OUTPUT = 74
_EXIT_PERMISSION = 77
_EXIT_INTERRUPTED = 128 + signal.SIGINT

_PAD = "pad"
_NAMES = ("facenet512", "facenet128", "dlib-resnet29", _PAD)
_VARIANTS = ("float32", "float16", "dynamic", "int8")
_PAD_VARIANTS = ("float32", "int8")
_DETECTORS = ("blazeface", "haar", "yunet")
_PATH = click.Path(path_type=Path)


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
@click.option(
    "--weights", type=_PATH, help="Weights file to use instead of a download; for pad, the folder with its two files."
)
@click.option("--source", help="Which publisher's file to download, e.g. deepface; the first known by default.")
@click.option("--calibration", type=_PATH, help="Folder of photos with faces, 150 or more.")
@click.option("--crops", is_flag=True, help="--calibration holds aligned crops of the model's input size: used as is.")
@click.option("--images", type=_PATH, help="Gate: folder of NAME/NAME_0001.jpg.")
@click.option("--pairs", "pairs_file", type=_PATH, help="Gate: LFW pair list of these images.")
@click.option("--out", type=_PATH, default=Path("bundles"), show_default=True)
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

    NAME pad: the two networks of presentation attack detection, one bundle of both, float32 and int8. They are checked
    against what PyTorch gave for the same pictures; --source, --crops, --images and --pairs do not apply.
    """
    if name == _PAD:
        if source or crops or images or pairs_file:
            raise click.UsageError("pad takes --weights, --calibration, --out and --variants only")
        _build_pad(weights, calibration, out, variants)
        return
    wanted = _parse_variants(variants, _VARIANTS)
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


def _build_pad(weights: Path | None, calibration: Path | None, out: Path, variants: str | None) -> None:
    wanted = _parse_variants(variants, _PAD_VARIANTS)
    from convert.pad_build import build_pad, find_pad_weights

    for folder in build_pad(find_pad_weights(weights), wanted, calibration=calibration, out=out, say=_say):
        click.echo(str(folder))


@cli.command("evaluate")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=_PATH)
@click.option("--images", type=_PATH, help="Folder of NAME/NAME_0001.jpg, for --pairs.")
@click.option("--pairs", "pairs_file", type=_PATH, help="LFW pair list, View 1 or View 2: measure 1:1 verification.")
@click.option("--gallery", type=_PATH, help="Folder of SUBJECT/*.jpg to enroll: measure 1:N identification.")
@click.option("--probes", type=_PATH, help="Folder of SUBJECT/*.jpg: other photos of the enrolled, to search with.")
@click.option("--strangers", type=_PATH, help="Folder of PERSON/*.jpg: people who are not enrolled.")
@click.option(
    "--templates", type=click.IntRange(1), help="Enroll the first so many photos of a subject; all by default."
)
@click.option("--fuse", type=click.IntRange(1), help="Search with so many photos fused to one probe; 1 by default.")
@click.option(
    "--detector",
    "detectors",
    type=click.Choice(_DETECTORS),
    multiple=True,
    default=("blazeface",),
    show_default=True,
    help="May be repeated. haar is the notebook's path: cascades for face and eyes, square crop. yunet needs --yunet "
    "and was never measured by the kiosk's authors.",
)
@click.option("--yunet", type=_PATH, help="YuNet's network, face_detection_yunet_2023mar.onnx of OpenCV Zoo.")
@click.option("--scores", type=_PATH, help="Write one CSV row a pair or a search here.")
@click.option("--plots", type=_PATH, help="Write charts as PNG into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True, help="Threads of the embedder.")
def evaluate_command(
    *,
    bundles: tuple[Path, ...],
    images: Path | None,
    pairs_file: Path | None,
    gallery: Path | None,
    probes: Path | None,
    strangers: Path | None,
    templates: int | None,
    fuse: int | None,
    detectors: tuple[DetectorName, ...],
    yunet: Path | None,
    scores: Path | None,
    plots: Path | None,
    as_json: bool,
    threads: int,
) -> None:
    """Measure bundles as the kiosk would run them: detector, alignment, embedder.

    --images with --pairs measures 1:1 verification by LFW's protocol: accuracy, EER, TAR at FAR 1e-2 to 1e-4, the ROC.
    --gallery, --probes and --strangers measure open-set 1:N identification: rank-1 rate, FNIR at FPIR 1e-2 and 1e-3,
    and what the threshold that `match.threshold: auto` would choose gives. Every figure has its 95 % interval, from
    resampling people. A face that is not found, in a photo that cannot be read or shows none, counts as an error.

    Of several faces in a photo the one with the largest box counts, less twice the square of its distance from the
    centre; the kiosk has the same rule everywhere.

    Several bundles and detectors are measured in turns on each photo, every bundle with every detector. One run prints
    one document with --json, several print {"runs": [...]}.

    --scores: a pair's row is fold,path_a,path_b,same,score; a search's is kind,person,own_score,best_other,
    best_other_score. The score of a face that was not found is empty. Where there is more than one table, each goes
    to a file of its own, with -pairs or -searches, bundle and detector added to the name.
    """
    _check_options(images, pairs_file, (gallery, probes, strangers), templates, fuse)
    if len(set(detectors)) < len(detectors):
        raise UsageError("--detector: one of them is named twice")
    if yunet is not None and "yunet" not in detectors:
        raise UsageError("--yunet is for --detector yunet, which is not asked for")
    from convert.evaluate import PairList, Task, evaluate
    from convert.openset import read_open_set
    from convert.pairs import read_pairs
    from convert.pipelines import open_pipelines
    from convert.results import results_text, write_results
    from kiosk.bundle import read_bundle

    if scores is not None and not scores.parent.is_dir():
        # Before minutes of measuring, not after.
        raise OutputError(f"{scores}: cannot be written: no folder {scores.parent}; make it or choose another place")
    pairs = PairList(images, read_pairs(pairs_file)) if images and pairs_file else None
    open_set = None
    if gallery and probes and strangers:
        open_set = read_open_set(gallery, probes, strangers, templates=templates, fuse=fuse or 1)
    pipelines = open_pipelines([read_bundle(folder) for folder in bundles], detectors, yunet=yunet, threads=threads)
    if plots is not None:
        from convert.plots import draw_results, make_folder

        make_folder(plots)
    results = evaluate(pipelines, Task(pairs, open_set), threads=threads, say=_warn)
    if scores is not None:
        write_results(scores, results)
    if plots is not None:
        for path in draw_results(plots, results):
            _say(f"written: {path}")
    if as_json:
        documents = [result.document for result in results]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else {"runs": documents}, indent=2))
    else:
        click.echo(results_text(results))


@cli.command("evaluate-pad")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=_PATH)
@click.option("--live", type=_PATH, required=True, help="Folder of photos of people.")
@click.option(
    "--attack",
    "attacks",
    metavar="KIND=DIR",
    multiple=True,
    required=True,
    help="Folder of photos of one kind of attack, e.g. print=DIR or screen=DIR. May be repeated.",
)
@click.option("--scores", type=_PATH, help="Write one CSV row a photo here: kind,path,score of each bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
def evaluate_pad_command(
    *,
    bundles: tuple[Path, ...],
    live: Path,
    attacks: tuple[str, ...],
    scores: Path | None,
    as_json: bool,
    threads: int,
) -> None:
    """Measure presentation attack detection: APCER of each kind of attack and BPCER, photo by photo.

    Every photo's main face is found and cut out as the kiosk does it. A live face that is not found counts as an error;
    an attack without a face found does not, since no door opens. The 95 % intervals count photos as independent: where
    many are of one person they are too narrow.

    One bundle prints one document with --json, several print {"runs": [...]}.
    """
    folders = {"live": live, **_parse_attacks(attacks)}
    if scores is not None and not scores.parent.is_dir():
        raise OutputError(f"{scores}: cannot be written: no folder {scores.parent}; make it or choose another place")
    from convert.pad_evaluate import evaluate_pad, pad_documents, pad_text, write_pad_scores
    from kiosk.pad import read_pad_bundle

    result = evaluate_pad([read_pad_bundle(folder) for folder in bundles], folders, threads=threads)
    if scores is not None:
        write_pad_scores(scores, result)
    documents = pad_documents(result)
    if as_json:
        click.echo(json.dumps(documents[0] if len(documents) == 1 else {"runs": documents}, indent=2))
    else:
        click.echo(pad_text(documents))


def _parse_attacks(texts: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for text in texts:
        kind, _, folder = text.partition("=")
        if not kind.isidentifier() or not folder:
            raise click.BadParameter(f"{text!r} is not KIND=DIR", param_hint="--attack")
        if kind in folders or kind == "live":
            raise click.BadParameter(f"{kind} is there already", param_hint="--attack")
        folders[kind] = Path(folder)
    return folders


def _check_options(
    images: Path | None,
    pairs_file: Path | None,
    folders: tuple[Path | None, ...],
    templates: int | None,
    fuse: int | None,
) -> None:
    """Which options belong together.

    Raises:
        UsageError: something is missing, or given for nothing.
    """
    if (images is None) != (pairs_file is None):
        raise UsageError("--images and --pairs belong together; see `kiosk-convert evaluate --help`")
    if any(folders) and not all(folders):
        raise UsageError("--gallery, --probes and --strangers belong together; see `kiosk-convert evaluate --help`")
    if pairs_file is None and not any(folders):
        raise UsageError("nothing to measure: give --images and --pairs, or --gallery, --probes and --strangers")
    if not any(folders) and (templates or fuse):
        raise UsageError("--templates and --fuse are for identification: give --gallery, --probes and --strangers")


def _parse_variants(text: str | None, known: Sequence[str]) -> tuple[Any, ...]:
    names = [part.strip() for part in text.split(",")] if text else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint="--variants")
    return tuple(name for name in known if name in names)


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


def _warn(text: str) -> None:
    """A remark on stderr in one line, whatever a file name in it contains."""
    _say("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in f"warning: {text}"))
