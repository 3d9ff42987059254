"""The kiosk's commands with a pad bundle: the same person live and as a print (NUAA)."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command_line import Kiosk
from runner import assert_one_line_error

from convert.photos import main_face
from kiosk.biometrics import Embedding, Face, Frame, Image, Reason, SubjectId, Template
from kiosk.config import Config, load
from kiosk.gallery import Gallery
from kiosk.opencv import cv2
from kiosk.photo import read_photo
from kiosk.pipeline import build_pad, build_pipeline, build_rule
from kiosk.recognition import Recognizer

pytestmark = pytest.mark.convert

PERSON = "0004_01_00*"

Seen = tuple[Image, Face]


@pytest.fixture(scope="module")
def photos(shared: Path) -> Path:
    return shared / "data" / "nuaa-sample"


@pytest.fixture(scope="module")
def home(
    pad_bundles: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Kiosk:
    """One person is enrolled, live, and the networks are installed as docs/pad.md tells."""
    folder = tmp_path_factory.mktemp("home")
    kiosk = Kiosk(folder, request.config.getoption("--runtime"))
    shutil.copytree(pad_bundles / "pad-int8", folder / "models" / "pad-int8")
    live = sorted((photos / "live").glob(PERSON))
    assert kiosk("enroll", "E1", live[0], live[6], live[12]).returncode == 0
    kiosk.configure(match={"window_s": 0.5}, camera={"pace": "fast"})
    for kind in ("live", "print"):
        (folder / kind).mkdir()
        for path in (photos / kind).glob(PERSON):
            shutil.copy(path, folder / kind)
    return kiosk


def faces(kiosk: Kiosk, *images: Path, **env: str) -> list[dict[str, Any]]:
    result = kiosk("identify", "--json", *images, env=env)
    assert result.returncode == 0, result.stderr
    return [face for image in json.loads(result.stdout)["images"] for face in image["faces"]]


def test_identify_tells_a_print_from_the_person(home: Kiosk) -> None:
    live, print_ = (sorted((home.folder / kind).iterdir())[3] for kind in ("live", "print"))
    person, spoof = faces(home, live, print_)
    assert (person["decision"], person["subject_id"]) == ("identified", "E1")
    assert (person["pad"]["checked"], person["pad"]["passed"]) == (True, True)
    assert (spoof["decision"], spoof["reason"], spoof["subject_id"]) == ("rejected", "spoof", None)
    assert spoof["pad"]["score"] < 0.1
    # What it protects from: without it the print is the person.
    (unguarded,) = faces(home, print_, KIOSK_PAD__ENABLED="false")
    assert (unguarded["subject_id"], unguarded["pad"]) == (
        "E1",
        {"checked": False, "passed": None, "score": None},
    )
    (strict,) = faces(home, live, KIOSK_PAD__THRESHOLD="1.0")
    assert strict["reason"] == "spoof"


def test_a_print_at_the_door_makes_no_check_in(home: Kiosk) -> None:
    home.configure(camera={"source": str(home.folder / "print")})
    assert home("run").returncode == 0
    assert json.loads(home("events", "--json").stdout)["events"] == []
    rejected = json.loads(home("events", "--rejected", "--json").stdout)["events"]
    assert {event["reason"] for event in rejected} == {"spoof"}
    told = home("why", rejected[0]["event_id"]).stdout
    assert "this looks like a picture of a face, not like a person" in told
    assert "PAD         failed, score 0.0" in told
    head, *frames = told[told.index("frames: ") :].splitlines()[1:]
    assert head.split() == ["time", "weight", "first", "second", "live", "quality"]
    live = head.index("live")
    assert {line[live : live + 3] for line in frames} == {"0.0"}

    home.configure(camera={"source": str(home.folder / "live")})
    assert home("run").returncode == 0
    (event,) = json.loads(home("events", "--json").stdout)["events"]
    assert event["subject_id"] == "E1"
    document = json.loads(home("why", "1", "--json").stdout)
    assert (document["pad"]["checked"], document["pad"]["passed"]) == (True, True)


def test_check_tells_of_the_bundle(home: Kiosk) -> None:
    def pad(**env: str) -> dict[str, str]:
        checks = json.loads(home("check", "--json", env=env).stdout)["checks"]
        return next(check for check in checks if check["name"] == "pad")

    told = pad()
    assert told["status"] == "ok"
    assert told["message"].startswith("pad-int8@")
    assert told["message"].endswith("a face is live from 0.4")
    assert pad(KIOSK_PAD__THRESHOLD="0.55")["message"].endswith("from 0.55")
    off = pad(KIOSK_PAD__ENABLED="false")
    assert (off["status"], off["message"]) == ("ok", "off (pad.enabled): a photo may pass for a face")


def test_a_damaged_bundle_opens_no_door(home: Kiosk, tmp_path: Path) -> None:
    """Whoever damages the guard must not be rid of it: the kiosk does not start without."""
    models = home.folder / "models" / "pad-int8"
    network = models / "minifasnet-v2.tflite"
    kept = tmp_path / network.name
    shutil.move(network, kept)
    try:
        result = home("run")
        assert result.returncode == 69
        assert "minifasnet-v2.tflite: cannot be read" in assert_one_line_error(result.stderr.splitlines()[-1] + "\n")
        checks = json.loads(home("check", "--json").stdout)["checks"]
        assert next(check for check in checks if check["name"] == "pad")["status"] == "fail"
    finally:
        shutil.move(kept, network)


class Looks:
    """The kiosk's own parts; what they say of a picture is remembered, as the same few are shown all the time."""

    def __init__(self, config: Config) -> None:
        pipeline, pad = build_pipeline(config), build_pad(config)
        assert pad is not None
        self.config, self.bundle, self.same_face_score = config, pipeline.bundle, pipeline.same_face_score
        self.model_id, self.threshold = pipeline.embedder.model_id, pad.threshold
        self._faces: dict[int, list[Face]] = {}
        self._pipeline = pipeline
        self.assess = pipeline.gate.assess
        self.embed = pipeline.embedder.embed
        self._embed = cache(lambda key, mirrored: pipeline.embedder.embed_frame(*self._shown[key], mirrored=mirrored))
        self._score = cache(lambda key: pad.score(*self._shown[key]))
        self._shown: dict[int, Seen] = {}

    def admit(self, image: Image) -> Image | None:
        """A picture to be shown; None where the kiosk sees no good face in it."""
        face = main_face(image, self._pipeline.detector)
        if face is None or self.assess(image, face).failure is not None:
            return None
        self._shown[id(image)] = image, face
        return image

    def detect(self, image: Image) -> list[Face]:
        return [self._shown[id(image)][1]]

    def embed_frame(self, image: Image, face: Face, *, mirrored: bool) -> Embedding:  # noqa: ARG002
        return self._embed(id(image), mirrored)

    def score(self, image: Image, face: Face) -> float:  # noqa: ARG002
        return self._score(id(image))

    def door(self, templates: list[Template]) -> Recognizer:
        gallery = Gallery(self.model_id, templates)
        return Recognizer(
            detector=self,
            embedder=self,
            gate=self,
            gallery=gallery,
            rule=build_rule(self.config, self.bundle, gallery),
            same_face_score=self.same_face_score,
            pad=self,
        )


def from_afar(image: Image) -> Image:
    """The same picture smaller, on what is left of it when it is blurred: the attacker's face counts less then."""
    far = cv2.GaussianBlur(image, (0, 0), 25)
    small = cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    top, left = (far.shape[0] - small.shape[0]) // 2, (far.shape[1] - small.shape[1]) // 2
    far[top : top + small.shape[0], left : left + small.shape[1]] = small
    return far


def test_guided_enrollment_takes_the_person_and_no_print(home: Kiosk, photos: Path, tmp_path: Path) -> None:
    told = {}
    for kind in ("live", "print"):
        # Held still: the same picture again and again.
        (tmp_path / kind).mkdir()
        shutil.copy(min((photos / kind).glob("0006_*")), tmp_path / kind)
        source = {"KIOSK_CAMERA__SOURCE": str(tmp_path / kind), "KIOSK_CAMERA__LOOP": "true"}
        result = home("enroll", "E6", "--camera", "--samples", "1", "--timeout-s", "3", "--json", env=source)
        told[kind] = result.returncode, result.stdout, result.stderr.splitlines()[-1]
    code, _, error = told["print"]
    assert code == 65
    assert "nothing was stored" in error
    assert "this looks like a picture of a face: take it away" in error
    code, out, error = told["live"]
    assert code == 0, error
    [sample] = json.loads(out)["samples"]
    assert sample["pad"]["score"] >= sample["pad"]["threshold"]


def cycle(images: list[Image], count: int) -> list[Image]:
    return [images[number % len(images)] for number in range(count)]


def test_a_live_face_brings_no_print_through_the_door(home: Kiosk, photos: Path) -> None:
    """Everybody shows his own face, from afar, and then a print of everybody else who is enrolled, or both in turns."""
    looks = Looks(load(home.folder / "config.yaml", {}))
    live, far, prints = ({} for _ in range(3))
    for person in ("0001", "0002", "0004", "0005", "0006", "0007", "0008", "0009"):
        for kind, change, shown in (("live", None, live), ("live", from_afar, far), ("print", None, prints)):
            paths = sorted((photos / kind).glob(f"{person}_*"))
            images = [read_photo(path) for path in paths[:: max(1, len(paths) // 8)][:8]]
            changed = [image if change is None else change(image) for image in images]
            shown[person] = [image for image in map(looks.admit, changed) if image is not None]
    templates = {
        person: [
            Template(SubjectId(person), looks.model_id, looks.embed(image, looks.detect(image)[0]))
            for image in images[:3]
        ]
        for person, images in live.items()
    }
    passed, tried, spoofs = [], 0, 0
    for attacker in far:
        door = [template for person in templates if person != attacker for template in templates[person]]
        for victim in set(far) - {attacker}:
            tried += 1
            sequences = [[*cycle(far[attacker], n), *cycle(prints[victim], n + 3)] for n in (15, 10, 6)]
            turns = zip(cycle(far[attacker], 20), cycle(prints[victim], 20), strict=True)
            sequences.append([image for pair in turns for image in pair])
            for sequence in sequences:
                recognizer = looks.door(door)
                for number, image in enumerate(sequence):
                    for report in recognizer.process(Frame(image, number / 15, number)):
                        spoofs += report.final and report.decision.reason is Reason.SPOOF
                        if report.final and report.decision.subject_id == victim:
                            passed.append((attacker, victim, report.decision))
    assert tried == 56
    assert spoofs > tried, "a print that nobody notices shows nothing"
    assert passed == []
