"""``kiosk why``: what one decision rests on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from kiosk.biometrics import Candidate, Reason
from kiosk.charts import draw_decision
from kiosk.commands.by_hand import Correction, manual_document, tell_manual
from kiosk.commands.lookup import Row, find_decision
from kiosk.commands.options import PATH, common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.commands.times import local_time
from kiosk.drawing import check_plot_path
from kiosk.errors import InputError
from kiosk.events import Method, rejection_of
from kiosk.evidence import (
    CodeEvidence,
    Evidence,
    FrameFigures,
    QualityFigures,
    advise,
    describe_quality,
    explain_code,
    explain_outcome,
    read_code_evidence,
    read_evidence,
    read_manual_evidence,
)
from kiosk.store import AttendanceRow


@click.command("why")
@click.argument("event_id")
@json_option
@click.option(
    "--plot",
    type=PATH,
    metavar="OUT.png",
    help="Draw each frame's scores, threshold, fused score and quality to this file.",
)
@common_options
def command(*, event_id: str, as_json: bool, plot: Path | None, config_path: Path | None, verbose: int) -> None:
    """Show what one decision rests on, accepted or not.

    EVENT_ID is an event's id, the first characters of it (8 or more, as long as only one event begins so), or the
    seq of a check-in. Shown are the outcome in words, candidates and scores, threshold and margin, and frame by frame
    the two best scores, the weight in the fusion, how live the face looks (where that is checked) and the quality.
    `kiosk events` and `kiosk events --rejected` list the ids; decisions without a check-in are kept
    store.rejected_days. Of what was added or voided by hand it tells who did it, when and why.
    """
    config = load(config_path, verbose)
    check_plot_path(plot)
    zone = ZoneInfo(config.device.timezone)
    with open_store(config) as store:
        row = find_decision(store, event_id)
        correction = Correction.find(store, row)
    manual = read_manual_evidence(row.evidence)
    if manual is not None and isinstance(row, AttendanceRow):
        if plot is not None:
            raise InputError("this event was entered by hand: there are no scores to draw; leave out --plot")
        tell_manual(row, manual, correction, zone, as_json=as_json)
        return
    coded = read_code_evidence(row.evidence)
    if coded is not None:
        if plot is not None:
            raise InputError("this event rests on a code: there are no scores to draw; leave out --plot")
        _tell_code(row, coded, correction, zone, as_json=as_json)
        return
    evidence = read_evidence(row.evidence)
    if plot is not None:
        draw_decision(plot, evidence, title=_title(row), explanation=explain_outcome(evidence))
    if as_json:
        print_json(decision_document(row, correction))
        return
    for line in [*_lines(row, evidence, zone), *correction.lines(zone)]:
        click.echo(line.rstrip())


def decision_document(row: Row, correction: Correction) -> dict[str, Any]:
    """What a decision rests on, and what was done about it by hand, as JSON."""
    manual = read_manual_evidence(row.evidence)
    if manual is not None and isinstance(row, AttendanceRow):
        return manual_document(row, manual, correction)
    coded = read_code_evidence(row.evidence)
    if coded is not None:
        return {**_outline(row, coded), "code": coded.kind, **correction.document()}
    return {**_document(row, read_evidence(row.evidence)), **correction.document()}


def _tell_code(row: Row, evidence: CodeEvidence, correction: Correction, zone: ZoneInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(decision_document(row, correction))
        return
    for line in [*_head_lines(row, evidence, zone), *correction.lines(zone)]:
        click.echo(line)


def _outline(row: Row, evidence: Evidence | CodeEvidence) -> dict[str, Any]:
    stored = evidence.document()
    return {
        "event_id": row.event_id,
        "seq": row.seq if isinstance(row, AttendanceRow) else None,
        "event_type": _event_type(row),
        "occurred_at": row.occurred_at,
        "tz": row.tz,
        "clock_synchronized": row.clock_synchronized,
        "stated_at": row.stated_at if isinstance(row, AttendanceRow) else None,
        "site": row.site,
        "device": row.device,
        "method": (Method.CODE if isinstance(evidence, CodeEvidence) else Method.FACE).value,
        "decision": stored["decision"],
        "reason": stored["reason"],
        "explanation": _explain(evidence),
        "advice": _advice(evidence),
        "subject_id": row.subject_id if isinstance(row, AttendanceRow) else None,
    }


def _document(row: Row, evidence: Evidence) -> dict[str, Any]:
    stored = evidence.document()
    match = stored["match"]
    return {
        **_outline(row, evidence),
        "score": match["score"],
        "threshold": match["threshold"],
        "threshold_source": stored["threshold_source"],
        "margin": match["margin"],
        "margin_needed": stored["margin_needed"],
        "model": match["model"],
        "gallery_size": match["gallery_size"],
        "candidates": stored["candidates"],
        "frames": match["frames"],
        "frame_evidence": stored["frame_evidence"],
        "quality": stored["quality"],
        "pad": stored["pad"],
    }


def _head_lines(row: Row, evidence: Evidence | CodeEvidence, zone: ZoneInfo) -> Iterator[str]:
    yield f"{_title(row)}, {row.site}/{row.device}"
    doubt = "" if row.clock_synchronized else " (the clock was not synchronized)"
    yield f"event {row.event_id} at {local_time(row.occurred_at, zone)} {zone.key}{doubt}"
    if isinstance(row, AttendanceRow) and row.stated_at is not None:
        yield f"its time was corrected: before the clock was set it said {local_time(row.stated_at, zone)}"
    yield ""
    yield _explain(evidence)
    advice = _advice(evidence)
    if advice is not None:
        yield f"what to do: {advice}"


def _explain(evidence: Evidence | CodeEvidence) -> str:
    return explain_code(evidence) if isinstance(evidence, CodeEvidence) else explain_outcome(evidence)


def _lines(row: Row, evidence: Evidence, zone: ZoneInfo) -> Iterator[str]:
    yield from _head_lines(row, evidence, zone)
    yield ""
    for name, value in _figures(evidence):
        yield f"{name:<12}{value}"
    yield from _candidate_lines(evidence.candidates)
    yield from _frame_lines(evidence)


def _figures(evidence: Evidence) -> Iterator[tuple[str, str]]:
    yield "threshold", _threshold_words(evidence)
    yield "margin", f"{_score(evidence.margin, 'none')}, needed {_score(evidence.margin_needed, 'not recorded')}"
    size = "not recorded" if evidence.gallery_size is None else f"{evidence.gallery_size} subjects"
    yield "gallery", size
    yield "model", evidence.model or "not recorded"
    yield "PAD", _pad_words(evidence)
    # The frames' own figures stand in their table.
    if evidence.quality is not None and not any(frame.quality for frame in evidence.frame_evidence):
        yield "quality", f"{_quality_words(evidence.quality)} (last frame)"


def _threshold_words(evidence: Evidence) -> str:
    """The threshold this face had to reach, and the rule it follows from."""
    threshold = f"{evidence.threshold:.3f}"
    if evidence.threshold_source is None:
        return f"{threshold} (why not recorded)"
    rule = evidence.threshold_source.removeprefix("threshold ")
    return rule if rule.startswith(threshold) else f"{threshold} for this face: {rule}"


def _candidate_lines(candidates: tuple[Candidate, ...]) -> Iterator[str]:
    if not candidates:
        return
    yield ""
    yield "candidates"
    for candidate in candidates:
        yield f"  {candidate.score:6.3f}  {candidate.subject_id}"


def _frame_lines(evidence: Evidence) -> Iterator[str]:
    frames = evidence.frame_evidence
    yield ""
    if not frames:
        yield f"frames: {evidence.frames} fused" if evidence.frames else "frames: none was good enough to be compared"
        return
    shown = "" if len(frames) == evidence.frames else f", the newest {len(frames)} of them"
    yield f"frames: {evidence.frames} fused{shown}"
    table = [("time", "weight", "first", "second", "live", "quality"), *map(_frame_cells, frames)]
    if all(frame.live_score is None for frame in frames):
        table = [(*row[:4], *row[5:]) for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))


def _frame_cells(frame: FrameFigures) -> tuple[str, ...]:
    best = [f"{candidate.score:.3f} {candidate.subject_id}" for candidate in frame.candidates[:2]]
    return (
        "-" if frame.offset_s is None else f"{frame.offset_s:.2f} s",
        "-" if frame.weight is None else f"{frame.weight:.0%}",
        best[0] if best else "-",
        best[1] if len(best) > 1 else "-",
        _score(frame.live_score, "-"),
        "-" if frame.quality is None else _quality_words(frame.quality),
    )


def _quality_words(quality: QualityFigures) -> str:
    return ", ".join(describe_quality(quality))


def _pad_words(evidence: Evidence) -> str:
    pad = evidence.pad or {}
    if not pad.get("checked"):
        return "not checked"
    return f"{'passed' if pad.get('passed') else 'failed'}, score {_score(pad.get('score'), 'not recorded')}"


def _advice(evidence: Evidence | CodeEvidence) -> str | None:
    return None if evidence.reason == Reason.MATCH else advise(evidence)


def _title(row: Row) -> str:
    if isinstance(row, AttendanceRow):
        return f"{row.event_type} of {row.subject_id} (seq {row.seq})"
    return f"no check-in: {row.reason.replace('_', ' ')}"


def _event_type(row: Row) -> str:
    return row.event_type if isinstance(row, AttendanceRow) else rejection_of(row.reason).value


def _score(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.3f}"
