"""The kiosk's commands with a pad bundle: the same person live and as a print (NUAA)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import Kiosk
from runner import assert_one_line_error

pytestmark = pytest.mark.convert

PERSON = "0004_01_00*"


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
