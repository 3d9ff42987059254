"""Error rates and time to decision per visit: several frames of one person, the way the daemon sees them.

    python benchmarks/visits.py BUNDLE LFW_FOLDER VIDEO_FOLDER [--out visits.json] [--cache FOLDER]

LFW_FOLDER holds one folder per person (LFW's layout). 150 enrolled people and 520 strangers walk up to a camera:
visits drawn from one photo (frames as alike as they can be) or from two in turn (as different as they can be).
VIDEO_FOLDER holds clips of people nobody enrolled; from clips of one person, stills of the first third are enrolled and
the rest is cut into visits. Every frame is detected, judged and embedded once and kept in the cache; the real
recognizer then goes through the visits with every gallery and setting.

FPIR: share of strangers' visits in which anybody is identified. FNIR: share of enrolled people's visits in which they
are not. Intervals: Wilson, 95 %, counting each person once however many galleries they were searched in. Times are from
the first frame with a face to the decision, in media time; ``look_s`` is what one embedding is taken to cost: frames
that come meanwhile are dropped, as the daemon drops them. ``embedded`` counts embeddings until the decision.

``at_equal_fpir`` compares settings fairly: FNIR at the threshold where FPIR per visit is 1 % in fact.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from visit_frames import LONG_S, WALK_S, Cache, Playback, Shown, Visit

from kiosk.biometrics import Decision, Embedding, Frame, Reason, SubjectId, Template, Verdict
from kiosk.bundle import Bundle, read_bundle
from kiosk.decision import DecisionRule
from kiosk.gallery import Gallery
from kiosk.photo import photos_below
from kiosk.recognition import Recognizer

MATED, MATED_VARIED, LONG_MATED = 150, 90, 40
STRANGERS, STRANGERS_VARIED, LONG_STRANGERS = 400, 120, 60
FILLERS = 770
MAX_TEMPLATES = 3
# Size of the galleries, and how many of each there are.
GALLERIES = {50: 6, 200: 3, 500: 2}
STRANGERS_SEARCH = 2
VIDEO_GALLERIES, VIDEO_GALLERIES_ENROLLED = 20, 4
FRAMES = (1, 3, 5)
LOOKS_S = (0.0, 0.2)
LENGTHS_S = (0.5, 1.0, WALK_S, 5.0, LONG_S)
FPIRS = (1e-2, 1e-3)
MARGIN = 0.05
NOBODY = SubjectId("")
_UNREACHABLE = 2.0


@dataclass(frozen=True, slots=True)
class Setting:
    """``early``: whether a decisive score (FPIR / 10) ends the visit before ``frames``."""

    frames: int
    early: bool
    fpir: float = 1e-3


SETTINGS = [Setting(frames, early, fpir) for fpir in FPIRS for frames in FRAMES for early in (False, True)]


@dataclass(frozen=True, slots=True)
class Run:
    """Visits of one kind, at galleries of one size; ``look_s`` is what an embedding takes."""

    visits: str
    gallery: int
    templates: int
    look_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays what. Nobody is both a stranger and enrolled."""

    mated: list[Shown]
    mated_varied: list[Shown]
    strangers: list[Shown]
    strangers_varied: list[Shown]
    enrolled: dict[str, tuple[Path, ...]]
    """Photos of each subject to enroll, the subjects of mated visits first."""


def cast(folder: Path) -> Cast:
    """The people with the most photos are enrolled and come; of those with two, some are strangers shown by both."""
    people: dict[str, list[Path]] = {}
    for path in photos_below(folder):
        people.setdefault(path.parent.name, []).append(path)
    names = np.random.default_rng(3).permutation(sorted(people)).tolist()
    ranked = sorted(names, key=lambda name: -len(people[name]))
    coming, rest = ranked[:MATED], ranked[MATED:]
    varied, fillers, single = rest[:STRANGERS_VARIED], rest[STRANGERS_VARIED:][:FILLERS], rest[-STRANGERS:]
    # The last photo is the visit; where there are enough, a varied visit takes the last two.
    enrolled = {name: tuple(people[name][:-1][:MAX_TEMPLATES]) for name in coming}
    return Cast(
        [Shown(name, (people[name][-1],), LONG_S if i < LONG_MATED else WALK_S) for i, name in enumerate(coming)],
        [Shown(name, tuple(people[name][-2:]), LONG_S) for name in coming[:MATED_VARIED]],
        [Shown(name, (people[name][0],), LONG_S if i < LONG_STRANGERS else WALK_S) for i, name in enumerate(single)],
        [Shown(name, tuple(people[name][:2]), LONG_S) for name in varied],
        enrolled | {name: tuple(people[name][:MAX_TEMPLATES]) for name in fillers},
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A frame's decision on the track's evidence so far."""

    time_s: float
    embedded: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class Played:
    """A visit at one gallery. ``own``: the subject that came, ``NOBODY`` for a stranger."""

    person: str
    own: SubjectId
    seen_s: float
    length_s: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule made of a visit. ``found`` is the first identification."""

    played: Played
    found: Step | None
    last: Reason | None

    @property
    def right(self) -> bool:
        return self.found is not None and self.found.decision.subject_id == self.played.own


class Door:
    """A recognizer with one gallery, through which visits are played.

    Its rule identifies nobody, and each step is kept: until somebody is identified the recognizer does the same under
    every rule, so that one pass shows what any rule and number of frames would have decided, and when.
    """

    def __init__(self, bundle: Bundle, gallery: Gallery, look_s: float) -> None:
        self._bundle, self._gallery, self._look_s = bundle, gallery, look_s

    def play(self, visit: Visit, own: SubjectId = NOBODY) -> Played:
        playback = Playback(self._bundle.model_id)
        search = self._bundle.search_scores()
        recognizer = Recognizer(
            detector=playback,
            embedder=playback,
            gate=playback,
            gallery=self._gallery,
            rule=DecisionRule(_UNREACHABLE, 0.0, search.crowd_size, search.crowd_weight),
            same_face_score=self._bundle.verification_threshold(1e-2),
            frames=1,
        )
        nothing = np.zeros((1, 1, 3), np.uint8)
        steps: list[Step] = []
        free_s = 0.0
        for index, frame in enumerate(visit.frames):
            if frame.time_s < free_s:
                continue
            before, playback.frame = playback.embedded, frame
            reports = recognizer.process(Frame(nothing, frame.time_s, index))
            free_s = frame.time_s + (playback.embedded - before) * self._look_s
            steps += [Step(free_s, playback.embedded, r.decision) for r in reports if r.decision.frames]
        seen_s = next((frame.time_s for frame in visit.frames if frame.faces), math.nan)
        last_s = visit.frames[-1].time_s if visit.frames else 0.0
        return Played(visit.name, own, seen_s, last_s, tuple(steps))


def judge(played: Played, rule: DecisionRule, frames: int, length_s: float) -> Outcome:
    """What the first ``length_s`` of a visit lead to."""
    last = None
    for step in played.steps:
        if step.time_s >= length_s:
            break
        decision = rule.decide(step.decision.candidates, frames=step.decision.frames)
        last = decision.reason
        if decision.verdict is Verdict.IDENTIFIED and rule.has_enough(decision, frames):
            return Outcome(played, replace(step, decision=decision), last)
    return Outcome(played, None, last)


def make_rule(bundle: Bundle, templates: Mapping[int, int], setting: Setting) -> DecisionRule:
    """As ``kiosk.pipeline`` does for ``match.threshold: auto``. ``templates``: subjects by their number of them."""
    search = bundle.search_scores()
    threshold = search.threshold(templates, setting.fpir)
    decisive = search.threshold(templates, setting.fpir / 10) if setting.early else math.inf
    return DecisionRule(threshold, bundle.margin(MARGIN), search.crowd_size, search.crowd_weight, decisive)


@dataclass(frozen=True, slots=True)
class Stage:
    """All that is played, loaded before the workers start."""

    bundle: Bundle
    mated: dict[str, list[Visit]]
    strangers: dict[str, list[Visit]]
    templates: dict[SubjectId, list[Embedding]]

    def gallery(self, names: Iterable[SubjectId], templates: int) -> Gallery:
        rows = ((name, embedding) for name in names for embedding in self.templates[name][:templates])
        model_id = self.bundle.model_id
        return Gallery(model_id, [Template(name, model_id, embedding) for name, embedding in rows])

    def galleries(self, size: int, templates: int) -> list[Gallery]:
        """Disjoint, with the same number of subjects of mated visits in each."""
        names, count = list(self.templates), GALLERIES[size]
        share = MATED // count
        fillers = names[MATED:]
        filled = size - share
        groups = (
            names[i * share : (i + 1) * share] + fillers[i * filled : (i + 1) * filled] for i in range(count)
        )  # fmt: skip
        return [self.gallery(group, templates) for group in groups]


def measure(stage: Stage, run: Run) -> dict[str, Any]:
    """Every visit of one kind: the mated ones at their gallery, strangers at two."""
    galleries = stage.galleries(run.gallery, run.templates)
    doors = [Door(stage.bundle, gallery, run.look_s) for gallery in galleries]
    homes = {name: door for gallery, door in zip(galleries, doors, strict=True) for name in gallery.subjects}
    mated = [homes[SubjectId(v.name)].play(v, SubjectId(v.name)) for v in stage.mated[run.visits]]
    strangers = [door.play(visit) for visit in stage.strangers[run.visits] for door in doors[:STRANGERS_SEARCH]]
    rows = []
    for setting in SETTINGS:
        rule = make_rule(stage.bundle, galleries[0].subjects_by_templates, setting)
        lengths = [summarize(mated, strangers, rule, setting.frames, length_s) for length_s in LENGTHS_S]
        scores = {"threshold": round(rule.threshold, 4), "decisive": round(min(rule.decisive, 9), 4)}
        rows.append({**asdict(setting), **scores, "lengths": lengths})
    margin = stage.bundle.margin(MARGIN)
    return {**asdict(run), "settings": rows, "at_equal_fpir": compare(mated, strangers, margin)}


def lasting(visits: Sequence[Played], length_s: float) -> list[Played]:
    return [played for played in visits if played.length_s >= min(length_s, LONG_S) - 1]


def summarize(
    mated: Sequence[Played], strangers: Sequence[Played], rule: DecisionRule, frames: int, length_s: float
) -> dict[str, Any]:
    """Rates of the visits that lasted so long."""
    came = [judge(played, rule, frames, length_s) for played in lasting(mated, length_s)]
    tried = [judge(played, rule, frames, length_s) for played in lasting(strangers, length_s)]
    return {
        "length_s": length_s,
        "fnir": rate(came, lambda o: not o.right),
        "mistaken": rate(came, lambda o: o.found is not None and not o.right),
        "mated_ambiguous": rate(came, lambda o: o.last is Reason.AMBIGUOUS),
        "fpir": rate(tried, lambda o: o.found is not None),
        "strangers_ambiguous": rate(tried, lambda o: o.last is Reason.AMBIGUOUS),
        **describe_time(came),
    }


def describe_time(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of the right identifications: time, embeddings until then, and the share that took fewer than 3 frames."""
    right = [(o.found, o.played.seen_s) for o in outcomes if o.right and o.found is not None]
    return {
        "time_s": percentiles([step.time_s - seen_s for step, seen_s in right]),
        "embedded": percentiles([step.embedded for step, _ in right]),
        "early_share": round(sum(step.decision.frames < 3 for step, _ in right) / max(len(right), 1), 4),
    }


def rate(outcomes: Sequence[Outcome], failed: Callable[[Outcome], bool]) -> dict[str, float] | None:
    """Share and its 95 % Wilson interval, each person counting once."""
    if not outcomes:
        return None
    people: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        people[outcome.played.person].append(failed(outcome))
    share, n, z = float(np.mean([np.mean(flags) for flags in people.values()])), len(people), 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return {"share": round(share, 5), "low": round(low, 5), "high": round(high, 5), "visits": len(outcomes)}


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": round(float(np.median(values)), 3), "p95": round(float(np.percentile(values, 95)), 3)}


def compare(mated: Sequence[Played], strangers: Sequence[Played], margin: float) -> list[dict[str, Any]]:
    """FNIR where FPIR per visit is in fact 1 %, and how FPIR grows at the threshold that gives 1 % in 2 s."""
    rows = []
    for frames in FRAMES:
        two = np.quantile([peak(p, frames, WALK_S, margin) for p in strangers], 0.99)
        for length_s in LENGTHS_S:
            own = [peak(p, frames, length_s, margin) for p in lasting(mated, length_s)]
            peaks = [peak(p, frames, length_s, margin) for p in lasting(strangers, length_s)]
            within_two = [peak(p, frames, WALK_S, margin) for p in lasting(strangers, length_s)]
            threshold = np.quantile(peaks, 0.99)
            rows.append(
                {
                    "length_s": length_s,
                    "frames": frames,
                    "threshold": round(float(threshold), 4),
                    "fnir": round(float(np.mean(np.array(own) < threshold)), 4),
                    "fpir_at_threshold_of_2_s": round(float(np.mean(np.array(peaks) >= two)), 4),
                    "fpir_of_the_same_visits_in_2_s": round(float(np.mean(np.array(within_two) >= two)), 4),
                }
            )
    return rows


def peak(played: Played, frames: int, length_s: float, margin: float) -> float:
    """The highest score, crowd's share taken off, with the margin that the visit reached with so many frames."""
    decisions = (s.decision for s in played.steps if s.time_s < length_s and s.decision.frames >= frames)
    leading = ((d.candidates[0], d.threshold) for d in decisions if d.margin is None or d.margin >= margin)
    # The threshold is unreachable but for the crowd's share, which belongs to the score here.
    scores = (c.score - (needed - _UNREACHABLE) for c, needed in leading if played.own in {NOBODY, c.subject_id})
    return max(scores, default=-1.0)


def play_video(stage: Stage, clips: Sequence[Visit], templates: int) -> list[dict[str, Any]]:
    """Clips against galleries of LFW people; of clips of one person, also visits once their stills are enrolled."""
    random = np.random.default_rng(11)
    names = list(stage.templates)
    rows = []
    for size in GALLERIES:
        groups = [[names[i] for i in random.choice(len(names), size, replace=False)] for _ in range(VIDEO_GALLERIES)]
        doors = [Door(stage.bundle, stage.gallery(group, templates), 0.0) for group in groups]
        for clip in clips:
            whole = [door.play(clip) for door in doors]
            row = {"clip": clip.name, "gallery": size, "templates": templates, "galleries": len(whole)}
            row["length_s"] = round(clip.frames[-1].time_s, 1)
            row["frames_with_a_face"] = sum(bool(frame.faces) for frame in clip.frames)
            row["highest_score"] = round(max(peak(played, 1, math.inf, 0.0) for played in whole), 3)
            row["settings"] = []
            alone = all(len(frame.faces) == 1 for frame in clip.frames)
            own = play_enrolled(stage, clip, groups, templates) if alone else {}
            for setting in SETTINGS:
                rule = make_rule(stage.bundle, {templates: size}, setting)
                judged = [judge(played, rule, setting.frames, math.inf) for played in whole]
                result = {**asdict(setting), "threshold": round(rule.threshold, 3)}
                result["stranger_identified"] = sum(o.found is not None for o in judged)
                result["enrolled"] = [count(visits, rule, setting.frames, length_s) for length_s, visits in own.items()]
                row["settings"].append(result)
            rows.append(row)
    return rows


def count(visits: Sequence[Played], rule: DecisionRule, frames: int, length_s: float) -> dict[str, Any]:
    judged = [judge(played, rule, frames, math.inf) for played in visits]
    return {
        "length_s": length_s,
        "visits": len(judged),
        "missed": sum(o.found is None for o in judged),
        "mistaken": sum(o.found is not None and not o.right for o in judged),
        **describe_time(judged),
    }


def play_enrolled(
    stage: Stage, clip: Visit, groups: Sequence[Sequence[SubjectId]], templates: int
) -> dict[float, list[Played]]:
    """Stills of the first third enrolled, among others; the rest cut into visits, one from every second on."""
    own, end_s = SubjectId(clip.name), clip.frames[-1].time_s
    third = [f.faces[0].embedding for f in clip.part(0, end_s / 3).frames if f.faces[0].embedding is not None]
    stills = [third[round(at * (len(third) - 1))] for at in (0.5, 0.0, 1.0)]
    known = Stage(stage.bundle, {}, {}, stage.templates | {own: stills})
    visits: dict[float, list[Played]] = defaultdict(list)
    for group in groups[:VIDEO_GALLERIES_ENROLLED]:
        door = Door(stage.bundle, known.gallery([own, *group[1:]], templates), 0.0)
        for length_s in LENGTHS_S:
            for start_s in np.arange(end_s / 3 + 0.5, end_s - length_s + 0.1, 1.0):
                visits[length_s].append(door.play(clip.part(float(start_s), length_s), own))
    return visits


def load(arguments: argparse.Namespace) -> tuple[Stage, list[Visit]]:
    bundle = read_bundle(arguments.bundle)
    cache = Cache(arguments.cache, bundle, jobs=arguments.jobs)
    clips = cache.clips(sorted(arguments.video.glob("*.mp4")))
    who = cast(arguments.lfw)
    embeddings = iter(cache.photos([path for photos in who.enrolled.values() for path in photos]))
    templates = {
        SubjectId(name): [e for e in [next(embeddings) for _ in photos] if e is not None]
        for name, photos in who.enrolled.items()
    }
    mated = {"two photos": cache.walks("mated_varied", who.mated_varied), "one photo": cache.walks("mated", who.mated)}
    strangers = {
        "two photos": cache.walks("strangers_varied", who.strangers_varied),
        "one photo": cache.walks("strangers", who.strangers),
    }
    return Stage(bundle, mated, strangers, templates), clips


_loaded: list[tuple[Stage, list[Visit]]] = []


def _measure(run: Run) -> dict[str, Any]:
    return measure(_loaded[0][0], run)


def _play_video(templates: int) -> list[dict[str, Any]]:
    return play_video(*_loaded[0], templates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("lfw", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, default=Path("visits.json"))
    parser.add_argument("--cache", type=Path, default=Path("visits-cache"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    stage, clips = load(arguments)
    # Somebody's second template is of a photo that their visit of two photos shows.
    runs = [Run("two photos", size, 1, look_s) for size in GALLERIES for look_s in LOOKS_S]
    runs += [Run("one photo", size, 1, look_s) for size in GALLERIES for look_s in LOOKS_S]
    runs += [Run("one photo", size, MAX_TEMPLATES) for size in GALLERIES]
    # The workers are forked: they get the visits, hundreds of megabytes, as they lie in memory and not with every task.
    _loaded.append((stage, clips))
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
        rows = list(tqdm(pool.imap(_measure, runs), "replays", total=len(runs)))
        video = list(pool.imap(_play_video, (1, MAX_TEMPLATES)))
    document = {"model": stage.bundle.model_id, "synthetic": rows, "video": [row for part in video for row in part]}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    for row in rows:
        for setting in row["settings"]:
            print(sentence(row, setting))


def sentence(run: dict[str, Any], setting: dict[str, Any]) -> str:
    """The visits of two seconds in one line."""
    two = next(part for part in setting["lengths"] if part["length_s"] == WALK_S)
    time_s = two["time_s"] or {"median": math.nan, "p95": math.nan}
    return (
        f"{run['visits']}, N {run['gallery']}, {run['templates']} templates, look {run['look_s']:g} s, "
        f"FPIR {setting['fpir']:g}, frames {setting['frames']}{', early' if setting['early'] else ''}: "
        f"FPIR {two['fpir']['share']:.2%}, FNIR {two['fnir']['share']:.1%}, "
        f"after {time_s['median']:.2f} s (p95 {time_s['p95']:.2f})"
    )


if __name__ == "__main__":
    main()
