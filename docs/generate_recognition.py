"""Fill the tables of docs/recognition.md from the figures in docs/measured/ (written by benchmarks/recognition.py).

    python docs/generate_recognition.py [--check]

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; the words around it are written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGE = DOCS / "recognition.md"
MEASURED = DOCS / "measured"
PLACE = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = Iterable[Sequence[str]]


def table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def load(name: str) -> Any:  # noqa: ANN401 - a JSON document
    return json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def span(interval: Sequence[float] | None, digits: int = 1) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.{digits}f}–{100 * interval[1]:.{digits}f})"


def verification() -> str:
    rows = []
    for run in load("verification")["runs"]:
        low, high = run["accuracy_ci"]
        timing = run["timing"]
        rows.append(
            [
                f"{run['model'].split('@')[0].split('+')[0]}",
                "default" if run["detector"] == "blazeface" else "notebook (Haar, eyes, square)",
                f"**{run['accuracy']:.4f}** ({low:.4f}–{high:.4f})",
                percent(run["eer"]),
                f"{number(run['tar_at_far']['0.01'])} / {number(run['tar_at_far']['0.001'])}",
                str(run["undetected_pairs"]),
                f"{timing['detect_ms']:.1f} + {timing['align_ms'] + timing['embed_ms']:.1f}",
            ]
        )
    head = [
        "bundle",
        "detector and alignment",
        "accuracy (95 %)",
        "EER",
        "TAR at FAR 1e-2 / 1e-3",
        "pairs with a face not found",
        "ms detect + embed",
    ]
    return table(head, rows)


def alternatives() -> str:
    figures = load("alternatives")
    rows = (
        [
            row["what"],
            row["name"],
            number(row["accuracy"]),
            percent(row["eer"]),
            number(row["tar"]),
            str(row["undetected_pairs"]),
            f"{row['detect_ms']:.1f}",
            f"{row['embed_ms']:.1f}",
        ]
        for row in figures["rows"]
    )
    head = [
        "changed",
        "alternative",
        "accuracy",
        "EER",
        "TAR at FAR 1e-3",
        "pairs not found",
        "detect ms",
        "crop and embed ms",
    ]
    return table(head, rows)


def identification() -> str:
    rows = []
    for name in ("facenet512-int8", "dlib-resnet29-int8"):
        for cell in load(f"identification-{name}")["cells"]:
            row = [name, str(cell["subjects"]), str(cell["templates"]), str(cell["fused"])]
            for fpir in ("0.01", "0.001"):
                row.append(percent(cell["cosine"]["fnir"][fpir]))
                row.append(f"**{percent(cell['crowd']['fnir'][fpir])}**{span(cell['crowd']['fnir_ci'][fpir])}")
            row.append(str(cell["crowd"]["mated_people"]))
            rows.append(row)
    head = [
        "bundle",
        "N",
        "templates",
        "photos a visit",
        "FNIR at FPIR 1 %: cosine",
        "as the kiosk decides (95 %)",
        "FNIR at FPIR 0.1 %: cosine",
        "as the kiosk decides (95 %)",
        "enrolled people searched",
    ]
    return table(head, rows)


def thresholds() -> str:
    rows = []
    for name in ("facenet512-int8", "dlib-resnet29-int8"):
        search = load(f"thresholds-{name}")["search"]
        places = [search["fpirs"].index(rate) for rate in (0.01, 0.001)]
        for gallery in search["galleries"]:
            if gallery["subjects"] in {1, 10, 50, 200, 500} and gallery["templates"] in {1, 3} and gallery["fnirs"]:
                cells = [f"{gallery['scores'][at]:.3f} ({percent(gallery['fnirs'][at])})" for at in places]
                rows.append([name, str(gallery["templates"]), str(gallery["subjects"]), *cells])
    return table(["bundle", "templates", "N", "threshold at FPIR 1 % (FNIR)", "at 0.1 % (FNIR)"], rows)


def comparisons() -> str:
    rows = [
        [name, f"{point['fmr']:g}", number(point["score"]), percent(point["fnmr"])]
        for name in ("facenet512-int8", "dlib-resnet29-int8")
        for point in load(f"thresholds-{name}")["comparisons"]
    ]
    return table(["bundle", "FMR", "score", "FNMR"], rows)


def held_out() -> str:
    rows = [
        [
            name,
            str(row["templates"]),
            str(row["subjects"]),
            percent(row["fpir"]),
            percent(row["mean"], 2),
            f"{percent(row['measured'][0], 2)} to {percent(row['measured'][-1], 2)}",
            f"{row['mean'] / row['fpir']:.2f}",
        ]
        for name in ("facenet512-int8", "dlib-resnet29-int8")
        for row in load(f"thresholds-{name}")["held_out"]
    ]
    return table(
        ["bundle", "templates", "N", "stated FPIR", "measured, mean", "over six splits", "measured / stated"], rows
    )


def drift(row: dict[str, Any]) -> str:
    """Of all photos of the pairs, or of a few where no more was measured."""
    if "cosine_mean" not in row:
        return f"{row['cosine_mean_of_few']:.4f} (a few faces)"
    return f"{row['cosine_mean']:.4f} / {row['cosine_p1']:.4f} / {row['cosine_min']:.4f}"


def quantization() -> str:
    rows = [
        [
            row["name"],
            row["made"],
            f"{row['size_mb']:.1f}",
            drift(row),
            number(row.get("accuracy")),
            percent(row.get("eer")),
            number(row.get("tar_at_far_1e-3")),
            f"{row['best_threshold_shift']:+.3f}" if "best_threshold_shift" in row else "–",
            " / ".join(number(row.get(f"latency_ms_{n}_threads"), 1) for n in (1, 2)),
        ]
        for row in load("quantization")["rows"]
    ]
    head = [
        "variant",
        "how made",
        "MB",
        "cosine to float32: mean / p1 / min",
        "accuracy",
        "EER",
        "TAR at FAR 1e-3",
        "threshold shift",
        "ms 1 / 2 threads",
    ]
    return table(head, rows)


def visits() -> str:
    rows = []
    for run in load("visits")["synthetic"]:
        for setting in run["settings"]:
            two, ten = (
                next(part for part in setting["lengths"] if part["length_s"] == length) for length in (2.0, 10.0)
            )
            time_s, embedded = two["time_s"], two["embedded"]
            rows.append(
                [
                    run["visits"],
                    str(run["gallery"]),
                    str(run["templates"]),
                    f"{setting['frames']}{' or early' if setting['early'] else ''}",
                    _share(two["fpir"], 2),
                    _share(ten["fpir"], 2),
                    _share(two["fnir"]),
                    _share(ten["fnir"]),
                    "–" if time_s is None else f"{time_s['median']:.2f} ({time_s['p95']:.2f})",
                    "–" if embedded is None else f"{embedded['median']:.0f}",
                ]
            )
    head = [
        "visits show",
        "N",
        "templates",
        "frames",
        "FPIR a visit: 2 s",
        "10 s",
        "FNIR a visit: 2 s",
        "10 s",
        "seconds to decide, median (p95)",
        "embeddings",
    ]
    return table(head, rows)


def video() -> str:
    rows = []
    for row in load("visits")["video"]:
        for setting in row["settings"]:
            enrolled = [part for part in setting["enrolled"] if part["length_s"] == 2.0]
            own = "–"
            if enrolled and enrolled[0]["visits"]:
                part = enrolled[0]
                time_s = "" if part["time_s"] is None else f", after {part['time_s']['median']:.2f} s"
                own = f"{part['missed']} of {part['visits']} missed{time_s}"
            frames = f"{setting['frames']}{' or early' if setting['early'] else ''}"
            galleries = f"{setting['stranger_identified']} of {row['galleries']}"
            rows.append([row["clip"], str(row["gallery"]), str(row["templates"]), frames, galleries, own])
    head = ["clip", "N", "templates", "frames", "galleries in which a stranger was named", "enrolled, visits of 2 s"]
    return table(head, rows)


def _share(rate: dict[str, float] | None, digits: int = 1) -> str:
    return "–" if rate is None else percent(rate["share"], digits)


def quality() -> str:
    rows = [
        [
            bundle["model"].split("@")[0],
            step["kind"],
            str(step["step"]),
            percent(step["fnmr"]),
            percent(step["fmr"], 2),
            percent(step["passed"]["probe"], 0),
            percent(step["passed"]["enrollment"], 0),
        ]
        for bundle in load("quality")["bundles"]
        for step in bundle["steps"]
    ]
    head = ["bundle", "photo spoiled by", "step", "FNMR", "FMR", "pass at the door", "pass enrollment"]
    return table(head, rows)


def notebook() -> str:
    text: str = load("notebook")["markdown"]
    return text


TABLES: dict[str, Callable[[], str]] = {
    "verification": verification,
    "alternatives": alternatives,
    "identification": identification,
    "thresholds": thresholds,
    "comparisons": comparisons,
    "held-out": held_out,
    "quantization": quantization,
    "visits": visits,
    "video": video,
    "quality": quality,
    "notebook": notebook,
}


def render(page: str) -> str:
    """The page with every table made anew."""
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n{place[3]}", page)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    made = render(page)
    if "--check" in sys.argv:
        if made != page:
            sys.exit(f"{PAGE.name} is not what docs/measured gives; run python docs/generate_recognition.py")
        return
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
