"""Measure everything docs/recognition.md states, and write the page's tables anew: one command.

    python benchmarks/recognition.py WEIGHTS LFW VIDEOS [--work FOLDER] [--only NAME[,NAME]]

WEIGHTS: facenet512_weights.h5. LFW: a folder with images/ and pairsDevTest.txt. VIDEOS: a folder of clips of people
nobody enrolled. Takes about two hours on two x86 cores; what --work holds already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).parent.parent
MEASURED = REPO / "docs" / "measured"
BUILT_IN = REPO / "kiosk" / "data" / "models" / "dlib-resnet29-int8"

Condense = Callable[[Any], Any]


@dataclass(frozen=True)
class Plan:
    """Where everything is."""

    weights: Path
    lfw: Path
    videos: Path
    work: Path

    @property
    def images(self) -> Path:
        return self.lfw / "images"

    @property
    def pairs(self) -> Path:
        return self.lfw / "pairsDevTest.txt"

    def facenet(self, variant: str = "int8") -> Path:
        return self.work / "bundles" / f"facenet512-{variant}"


@dataclass(frozen=True)
class Part:
    """One file of docs/measured. ``arguments`` of a Python program; its stdout unless ``{out}`` is among them."""

    name: str
    arguments: tuple[str | Path, ...]
    condense: Condense = lambda figures: figures


def parts(plan: Plan) -> list[Part]:
    here = Path(__file__).parent
    evaluate = ("-m", "convert", "evaluate", "--images", plan.images, "--pairs", plan.pairs, "--json")
    both = ("--detector", "blazeface", "--detector", "haar")
    rows = [
        Part(
            "verification",
            (*evaluate, *both, plan.facenet(), plan.facenet("float32"), BUILT_IN),
            lambda figures: {"runs": [_without(run, "stages", "bundle", "roc") for run in figures["runs"]]},
        ),
        Part("alternatives", (here / "alternatives.py", plan.facenet(), plan.images, plan.pairs)),
    ]
    for bundle in (plan.facenet(), BUILT_IN):
        rows.append(Part(f"thresholds-{bundle.name}", (here / "thresholds.py", bundle, plan.images)))
        rows.append(Part(f"identification-{bundle.name}", (here / "identification.py", bundle, plan.images)))
    cache = plan.work / "visits-cache"
    visits = (here / "visits.py", plan.facenet(), plan.lfw / "images", plan.videos, "--cache", cache, "--out", "{out}")
    quality = (here / "quality.py", plan.images, plan.facenet(), BUILT_IN, "--json", "{out}")
    material = (plan.weights, plan.images, plan.pairs)
    quantization = (here / "quantization.py", *material, "--work", plan.work / "quantization")
    plot = ("--plot", REPO / "docs" / "images" / "quality.png")
    rows += [
        Part("quantization", quantization),
        Part("visits", visits, _condense_visits),
        Part("quality", (*quality, *plot), _condense_quality),
        Part("notebook", (here / "notebook_table.py", BUILT_IN, plan.facenet())),
    ]
    return rows


def _without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _condense_visits(figures: dict[str, Any]) -> dict[str, Any]:
    """The default FPIR, frames that keep up, and visits of two and ten seconds."""
    synthetic = []
    for run in figures["synthetic"]:
        if run["look_s"]:
            continue
        settings = [
            {**setting, "lengths": [part for part in setting["lengths"] if part["length_s"] in {2.0, 10.0}]}
            for setting in run["settings"]
            if setting["fpir"] == 1e-3
        ]
        synthetic.append({**_without(run, "at_equal_fpir"), "settings": settings})
    video = [
        {**row, "settings": [setting for setting in row["settings"] if setting["fpir"] == 1e-3]}
        for row in figures["video"]
        if row["gallery"] == 200
    ]
    return {**figures, "synthetic": synthetic, "video": video}


def _condense_quality(figures: dict[str, Any]) -> dict[str, Any]:
    """Without the curves, which docs/images/quality.png shows."""
    bundles = [
        {
            **_without(bundle, "discard", "after_gate"),
            "steps": [_without(step, "median") for step in bundle["steps"]],
        }
        for bundle in figures["bundles"]
    ]
    return {**figures, "bundles": bundles}


def measure(plan: Plan, part: Part) -> None:
    raw = plan.work / f"{part.name}.json"
    if not raw.exists():
        print(f"{part.name}: measuring", flush=True)
        unfinished = raw.with_suffix(".part")
        arguments = [str(argument).replace("{out}", str(unfinished)) for argument in part.arguments]
        run = subprocess.run([sys.executable, *arguments], check=True, cwd=REPO, stdout=subprocess.PIPE, text=True)
        if part.name == "notebook":
            unfinished.write_text(json.dumps({"markdown": run.stdout.strip() + "\n"}), encoding="utf-8")
        elif "{out}" not in part.arguments:
            unfinished.write_text(run.stdout, encoding="utf-8")
        unfinished.rename(raw)
    figures = part.condense(json.loads(raw.read_text(encoding="utf-8")))
    text = json.dumps(figures, separators=(",", ":"), ensure_ascii=False)
    (MEASURED / f"{part.name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("lfw", type=Path)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--work", type=Path, default=Path("recognition"))
    parser.add_argument("--only", help="comma-separated names of files in docs/measured")
    arguments = parser.parse_args()
    plan = Plan(*(path.resolve() for path in (arguments.weights, arguments.lfw, arguments.videos, arguments.work)))
    plan.work.mkdir(parents=True, exist_ok=True)
    if not plan.facenet().exists():
        build = ("-m", "convert", "build", "facenet512", "--weights", plan.weights, "--out", plan.work / "bundles")
        subprocess.run([sys.executable, *map(str, build)], check=True, cwd=REPO)
    wanted = arguments.only.split(",") if arguments.only else None
    for part in parts(plan):
        if wanted is None or part.name in wanted:
            measure(plan, part)
    subprocess.run([sys.executable, str(REPO / "docs" / "generate_recognition.py")], check=True, cwd=REPO)


if __name__ == "__main__":
    main()
