"""What an evaluation found for one bundle behind one detector; as text, and as rows of CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.identification import Searches
from convert.verification import Comparisons
from kiosk.errors import OutputError

_DECIMALS = 6
_NONE = "–"


@dataclass(frozen=True, slots=True)
class Result:
    """``document`` is what ``--json`` prints; the scores behind it are there for what was asked."""

    label: str
    document: dict[str, Any]
    comparisons: Comparisons | None
    searches: Searches | None


def round_figures(value: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    """The same document with every number rounded for printing; tuples become lists."""
    match value:
        case float():
            return round(value, _DECIMALS)
        case dict():
            return {key: round_figures(item) for key, item in value.items()}
        case list() | tuple():
            return [round_figures(item) for item in value]
    return value


# --- text -------------------------------------------------------------------------------------------------------------


def results_text(results: Sequence[Result]) -> str:
    """One run in full, several as tables."""
    if len(results) == 1:
        return "\n".join(_run_lines(results[0].document))
    parts = [[*_timing_note(results)]]
    if results[0].comparisons is not None:
        parts.insert(0, _table(_VERIFICATION_HEAD, [_verification_row(result) for result in results]))
    if results[0].searches is not None:
        parts.insert(-1, _table(_IDENTIFICATION_HEAD, [_identification_row(result) for result in results]))
    return "\n\n".join("\n".join(part) for part in parts)


def _run_lines(run: dict[str, Any]) -> list[str]:
    lines = [f"{run['model']} ({run['detector']}, {run['alignment']})"]
    if "pairs" in run:
        lines += _pair_lines(run)
    stages, times = run["stages"], run["timing"]
    lines.append(
        f"photos     {run['photos']}: {len(stages['unreadable'])} not readable, {len(stages['no_face'])} without a "
        f"face, {len(stages['several_faces'])} with several (taken: {stages['face_rule'].split(':')[0]})"
    )
    lines.append(f"median ms  {_ms(times['detect_ms'])} detection, {_ms(times['align_ms'])} alignment, "
                 f"{_ms(times['embed_ms'])} embedding")  # fmt: skip
    if "identification" in run:
        lines += _identification_lines(run["identification"])
    return lines


def _pair_lines(run: dict[str, Any]) -> list[str]:
    spread = "" if run["accuracy_std"] is None else f" ± {run['accuracy_std']:.4f}"
    rates = ", ".join(
        f"{_percent(tar)} {_interval(run['tar_at_far_ci'][far])}at FAR {far}"
        for far, tar in run["tar_at_far"].items()
        if tar is not None
    )
    wrong = len(run["stages"]["wrong_face"])
    lines = [
        f"accuracy   {run['accuracy']:.4f}{spread} of {run['pairs']} pairs ({run['protocol']})",
        f"           {_fractions(run['accuracy_ci'])} (95 %, people resampled)",
        f"threshold  {run['threshold']:.3f}",
        f"EER        {_percent(run['eer'])} {_interval(run['eer_ci'])}".rstrip(),
        f"TAR        {rates or 'not defined'}",
    ]
    lines += [f"           at FAR {far}: {reason}" for far, reason in run["tar_at_far_reason"].items()]
    lines.append(
        f"not found  {run['undetected_photos']} of {run['photos']} photos, "
        f"{run['undetected_pairs']} pairs (counted as errors)"
    )
    lines.append(f"wrong face {wrong} pairs (another face in a photo would have matched)")
    return lines


def _identification_lines(figures: dict[str, Any]) -> list[str]:
    templates = figures["templates_per_subject"]
    lines = [
        (
            f"1:N        {figures['enrolled']} subjects, {templates['min']} to {templates['max']} photos each; "
            f"searches: {figures['mated_searches']} by subjects ({figures['mated_people']} people), "
            f"{figures['stranger_searches']} by strangers ({figures['stranger_people']} people), "
            f"photos a search: {figures['photos_per_search']}"
        ),
        f"rank 1     {_percent(figures['rank1_rate'])} {_interval(figures['rank1_rate_ci'])}".rstrip(),
    ]
    for fpir, fnir in figures["fnir_at_fpir"].items():
        if fnir is None:
            lines.append(f"FNIR       at FPIR {fpir}: {figures['fnir_at_fpir_reason'].get(fpir, 'not defined')}")
            continue
        lines.append(
            f"FNIR       {_percent(fnir)} {_interval(figures['fnir_at_fpir_ci'][fpir])}at FPIR {fpir}, "
            f"score {figures['threshold_at_fpir'][fpir]:.3f}"
        )
    for point in figures["automatic"]:
        stated = f"automatic  stated FPIR {point['stated_fpir']:g}:"
        if point["threshold"] is None:
            lines.append(f"{stated} {point['reason']}")
            continue
        lines.append(
            f"{stated} score {point['threshold']:.3f}, measured {_percent(point['fpir'])} "
            f"{_interval(point['fpir_ci'])}and FNIR {_percent(point['fnir'])} {_interval(point['fnir_ci'])}".rstrip()
        )
    lines.append(
        f"not found  {len(figures['failed_to_enroll'])} subjects not enrolled; no face in "
        f"{figures['undetected_mated_searches']} searches by subjects (misses), "
        f"{figures['undetected_stranger_searches']} by strangers (not identified)"
    )
    wrong = figures["wrong_face"]
    lines.append("wrong face " + ("not defined" if wrong is None else f"{len(wrong)} photos of missed searches"))
    return lines


_VERIFICATION_HEAD = (
    "bundle", "detector", "accuracy (95 %)", "EER", "TAR at FAR 1e-3", "no face", "detect", "align", "embed ms",
)  # fmt: skip
_IDENTIFICATION_HEAD = (
    "bundle", "detector", "rank 1", "FNIR at FPIR 1 %", "at 0.1 %", "auto 0.1 %: FPIR", "FNIR", "no face",
)  # fmt: skip


def _verification_row(result: Result) -> list[str]:
    run = result.document
    return [
        *_name_cells(result),
        f"{run['accuracy']:.4f} {_fractions(run['accuracy_ci'])}",
        _percent(run["eer"]),
        _percent(run["tar_at_far"]["0.001"]),
        f"{run['undetected_pairs']} pairs",
        *(_ms(run["timing"][stage]) for stage in ("detect_ms", "align_ms", "embed_ms")),
    ]


def _identification_row(result: Result) -> list[str]:
    figures = result.document["identification"]
    automatic = figures["automatic"][-1]
    return [
        *_name_cells(result),
        _percent(figures["rank1_rate"]),
        *(
            f"{_percent(fnir)} {_interval(figures['fnir_at_fpir_ci'][fpir])}".strip()
            for fpir, fnir in figures["fnir_at_fpir"].items()
        ),
        f"{_percent(automatic['fpir'])} {_interval(automatic['fpir_ci'])}".strip(),
        f"{_percent(automatic['fnir'])} {_interval(automatic['fnir_ci'])}".strip(),
        f"{figures['undetected_mated_searches']} + {figures['undetected_stranger_searches']}",
    ]


def _name_cells(result: Result) -> list[str]:
    bundle, detector = result.label.split(", ")
    return [bundle, "haar (the notebook's)" if detector == "haar" else detector]


def _timing_note(results: Sequence[Result]) -> list[str]:
    runs = [result.document for result in results]
    lines = [
        (
            f"{runs[0]['photos']} photos through {len(runs)} runs in turns; medians in milliseconds a photo: "
            f"{runs[0]['timing']['embedder_threads']} threads embed, BlazeFace has one, OpenCV's detectors have "
            f"{runs[0]['timing']['opencv_threads']}."
        )
    ]
    if any("pairs" in run for run in runs):
        lines.append("A pair with a face not found is an error. 95 % intervals: people resampled.")
    reasons = {reason for run in runs for reason in run.get("tar_at_far_reason", {}).values()}
    reasons |= {
        reason for run in runs for reason in run.get("identification", {}).get("fnir_at_fpir_reason", {}).values()
    }
    return lines + [f"{_NONE}: {reason}" for reason in sorted(reasons)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2%}"


def _interval(interval: Sequence[float] | None) -> str:
    """In percent, with a space behind it; nothing at all where there is none."""
    return "" if interval is None else f"({100 * interval[0]:.2f}–{100 * interval[1]:.2f}) "


def _fractions(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"({interval[0]:.4f}–{interval[1]:.4f})"


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


# --- CSV --------------------------------------------------------------------------------------------------------------


def write_results(path: Path, results: Sequence[Result]) -> None:
    """One CSV row a pair and one a search. One kind of one run goes to ``path``; otherwise each goes to a file of its
    own beside it, with the kind, the bundle and the detector in the name.

    Raises:
        OutputError: a file cannot be written.
    """
    for result in results:
        kinds: dict[str, list[list[object]]] = {}
        if result.comparisons is not None:
            kinds["pairs"] = pair_rows(result.comparisons)
        if result.searches is not None:
            kinds["searches"] = search_rows(result.searches)
        for kind, rows in kinds.items():
            parts = [path.stem]
            parts += [kind] if len(kinds) > 1 else []
            parts += result.label.split(", ") if len(results) > 1 else []
            write_csv(path.with_name("-".join(parts) + path.suffix), rows)


def pair_rows(comparisons: Comparisons) -> list[list[object]]:
    """``fold,path_a,path_b,same,score``; the score is empty where a face was not found."""
    rows: list[list[object]] = [["fold", "path_a", "path_b", "same", "score"]]
    for pair, score in zip(comparisons.pairs, comparisons.scores.tolist(), strict=True):
        rows.append([pair.fold, pair.path_a, pair.path_b, int(pair.same), _cell(score)])
    return rows


def search_rows(searches: Searches) -> list[list[object]]:
    """``kind,person,own_score,best_other,best_other_score``; a stranger has no score of its own."""
    rows: list[list[object]] = [["kind", "person", "own_score", "best_other", "best_other_score"]]
    mated = (searches.mated_people, searches.own_scores, searches.other_people, searches.other_scores)
    for person, own, other, score in zip(*(column.tolist() for column in mated), strict=True):
        rows.append(["mated", person, _cell(own), other if math.isfinite(score) else "", _cell(score)])
    strangers = (searches.stranger_people, searches.nearest_people, searches.nearest_scores)
    for person, nearest, score in zip(*(column.tolist() for column in strangers), strict=True):
        rows.append(["stranger", person, "", nearest if math.isfinite(score) else "", _cell(score)])
    return rows


def _cell(score: float) -> str:
    return f"{score:.6f}" if math.isfinite(score) else ""


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """
    Raises:
        OutputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text.getvalue(), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
