"""How long a look at a large gallery takes, and its way to another kiosk.

    python benchmarks/gallery.py [--templates 10000] [--per-subject 5] [--dim 512]
    KIOSK_STORE__PATH=kiosk.db python benchmarks/gallery.py --mislabelled

Made-up people in real stores, one run after another in one process; prints one JSON document. CPU seconds are told,
too, for a machine that does something else meanwhile.

--mislabelled: of a store with real people, one after another of those with three templates gets one of somebody else's
in the place of an own one: how often does the audit find it? Nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kiosk.biometrics import ModelId, Quality, StoredTemplate, SubjectId
from kiosk.config import load
from kiosk.decision import DecisionRule
from kiosk.gallery import Gallery
from kiosk.gallery_file import Origin, PortablePerson, open_gallery, seal_gallery
from kiosk.gallery_health import Issue, Limits, inspect_templates
from kiosk.gallery_import import Arrival, Mode, check_faces, plan_import
from kiosk.pipeline import build_rule, build_yardstick, model_id_of, open_bundle
from kiosk.quality import ENROLLMENT_GATE
from kiosk.store import Store

MODEL = ModelId("benchmark@000000")
QUALITY = Quality(120.0, 60.0, 120.0, 0.0, None, 60.0, 40.0, 0.0, 0.1, 0.95)
ORIGIN = Origin("2026-03-02T07:58:13Z", clock_synchronized=True, site="hq", device="door-1", kiosk="0")
RULE = DecisionRule(0.5, 0.05, 5, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=int, default=10_000)
    parser.add_argument("--per-subject", type=int, default=5)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--mislabelled", action="store_true")
    options = parser.parse_args()
    if options.mislabelled:
        print(json.dumps(find_mislabelled(), indent=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.templates, options.per_subject, options.dim)
    figures["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    print(json.dumps({**vars(options), "seconds (CPU seconds)": figures, "machine": machine}, indent=1))


def measure(folder: Path, templates: int, per_subject: int, dim: int) -> dict[str, object]:
    figures: dict[str, object] = {}
    with Store.open(folder / "a.db") as store, Store.open(folder / "b.db") as other:
        fill(store, templates, per_subject, dim)
        with Timed(figures, "templates read"):
            stored, _ = store.stored_templates()
        with Timed(figures, "audit of the templates"):
            inspect_templates(stored, Limits(MODEL, 0.4, 0.93, RULE, ENROLLMENT_GATE.failure))
        with Timed(figures, "export: people read"):
            people = store.portable_people(MODEL)
        with Timed(figures, "export: sealed"):
            content = seal_gallery(people, MODEL, dim, ORIGIN, "a password for measuring")
        figures["file MB"] = round(len(content) / 1e6, 1)
        details = {"sha256": "0" * 64}
        with Timed(figures, "export: logged"), store.log_export([person.id for person in people], details):
            pass
        with Timed(figures, "import: opened"):
            _, people = open_gallery("file", content, "a password for measuring")
        with Timed(figures, "import: written"):
            other.import_people(plan_import(people, {}, Mode.REFUSE).arrivals, details, {})
        with Timed(figures, "import: residents read"):
            residents = other.residents()
        here = Gallery(MODEL, [row for resident in residents.values() for row in resident.templates])
        strangers = [replaced(person) for person in people]
        with Timed(figures, "import: faces looked for among as many"):
            check_faces(plan_import(strangers, residents, Mode.REFUSE), here, RULE, 0.4)
    return figures


class Timed:
    """Notes how long its block took."""

    def __init__(self, figures: dict[str, object], name: str) -> None:
        self._figures, self._name = figures, name

    def __enter__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self._figures[self._name] = f"{wall:.2f} ({cpu:.2f})"


def fill(store: Store, templates: int, per_subject: int, dim: int) -> None:
    """By an import, for to enroll one after another takes minutes."""
    at = "2026-03-02T07:58:13.412Z"
    arrivals = []
    for number in range(templates // per_subject):
        one = SubjectId(f"P{number}")
        rows = embeddings(number, per_subject, dim)
        made = tuple(StoredTemplate(one, MODEL, row, None, QUALITY, "a" * 64, at) for row in rows)
        arrivals.append(Arrival(one, at, one, None, made, None))
    store.import_people(arrivals, {"sha256": "0" * 64}, {})


def embeddings(seed: int, count: int, dim: int) -> np.ndarray:
    """Of one made-up person."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal(dim) + 0.7 * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def replaced(person: PortablePerson) -> PortablePerson:
    """Somebody else under another id."""
    rows = embeddings(int(person.id[1:]) + 10**6, len(person.templates), len(person.templates[0].embedding))
    templates = tuple(replace(template, embedding=row) for template, row in zip(person.templates, rows, strict=True))
    return replace(person, id=SubjectId(f"Q{person.id}"), templates=templates)


def find_mislabelled() -> dict[str, int]:
    """Each subject stands in a swap once, as who gets a photo or as who lends it."""
    config = load(None, os.environ)
    bundle = open_bundle(config)
    model_id, yardstick = model_id_of(config, bundle), build_yardstick(config, bundle)
    with Store.open(config.store.path, writable=False) as store:
        rows = [row for row in store.stored_templates()[0] if row.model_id == model_id]
    places: dict[SubjectId, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.subject_id, []).append(place)
    people = [subject for subject, found in places.items() if len(found) >= 3]
    np.random.default_rng(0).shuffle(people)
    figures = {"swaps": 0, "found": 0, "found and named": 0, "another template suspected, too": 0}
    for subject, lender in zip(people[::2], people[1::2], strict=False):
        wrong, lent = places[subject][0], places[lender][0]
        swapped = [*rows]
        swapped[wrong] = replace(rows[wrong], embedding=rows[lent].embedding)
        del swapped[lent]
        gallery = Gallery(model_id, swapped)
        others = gallery.restricted(gallery.subjects[1:], lapsed=frozenset())
        rule, judge = build_rule(config, bundle, others), ENROLLMENT_GATE.failure
        limits = Limits(model_id, yardstick.same_face_score, yardstick.same_picture_score, rule, judge)
        misfits = [one for one in inspect_templates(swapped, limits) if one.issue is Issue.MISFIT]
        right = [one for one in misfits if one.templates == (rows[wrong].id,)]
        figures["swaps"] += 1
        figures["found"] += bool(right)
        figures["found and named"] += any(one.other_id == lender for one in right)
        figures["another template suspected, too"] += len(misfits) > len(right)
    return figures


if __name__ == "__main__":
    main()
