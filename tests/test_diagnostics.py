"""The file for whoever helps: enough to help, and nobody in it."""

from __future__ import annotations

import json
import stat
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, run_in_process
from test_canary import Canaries
from test_store import check_in, embedding, reject

from kiosk.biometrics import ModelId, SubjectId
from kiosk.commands import diagnostics
from kiosk.commands.check import examine
from kiosk.commands.diagnostics import _without_places
from kiosk.config import load
from kiosk.errors import UnavailableError
from kiosk.preview import HealthReport, PreviewClient
from kiosk.store import Consent, NewTemplate, Store

SECRETS = [
    "zqsubject", "Zqxwenna", "zqlogin", "zqpassword", "zqcamhost", "zqbroker", "zquser", "zqmqttpass", "zqfolder",
    "zqsite", "zqdoor", "zqroot", "ZQ-FORM-17", "zqversion", "zqweb", "10.77.66.55", "zqbundle", "zqkey",
    "zqdata", "zqpath", "zqlatt",
]  # fmt: skip


@pytest.fixture
def planted(kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch) -> tuple[Kiosk, Canaries]:
    """A kiosk with something personal wherever something can be."""
    monkeypatch.chdir(kiosk.folder)
    folder = kiosk.folder / "zqfolder"
    folder.mkdir()
    for name, content in (("zqmqttpass", "zqpassword"), ("zqweb", "zqpassword-zqpassword")):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    kiosk.store = folder / "zqdata.db"
    kiosk.configure(
        device={"site": "zqsite", "id": "zqdoor", "timezone": "Asia/Seoul"},
        camera={"source": "rtsp://zqlogin:zqpassword@zqcamhost.invalid:554/zqpath", "open_timeout_s": 0.1},
        model={"bundle": "zqbundle"},
        store={"path": str(kiosk.store), "key_file": str(folder / "zqkey")},
        privacy={"require_consent": True},
        mqtt={
            "enabled": True, "host": "zqbroker.invalid", "allow_plaintext": False, "username": "zquser",
            "password_file": str(folder / "zqmqttpass"), "topic_root": "zqroot/x",
        },
        web={"host": "10.77.66.55", "password_file": str(folder / "zqweb"), "enabled": True},
    )  # fmt: skip
    canaries, vector = Canaries(), embedding(7)
    canaries.add_embedding(vector)
    soon = (datetime.now(UTC) + timedelta(days=9)).date().isoformat()
    consent = Consent("ZQ-FORM-17", "2026-01-01", "zqversion", soon)
    subject = SubjectId("zqsubject")
    with Store.open(kiosk.store) as store:
        store.enroll(subject, [NewTemplate(ModelId("m"), vector)], name="Zqxwenna Zqlatt", consent=consent)
        check_in(store, subject)
        reject(store, subject)
    return kiosk, canaries


def found_in(canaries: Canaries, content: bytes) -> list[str]:
    folded = content.decode(errors="replace").lower()
    return [*canaries.found_in(content), *(secret for secret in SECRETS if secret.lower() in folded)]


def read(file: Path) -> tuple[dict[str, Any], bytes]:
    """The documents, and everything in the file as it is written and as it is unpacked."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    documents = {name: json.loads(part) for name, part in parts.items() if name.endswith(".json")}
    return documents, file.read_bytes() + b"".join(parts.values())


def test_nobody_is_in_it(planted: tuple[Kiosk, Canaries], capsys: pytest.CaptureFixture[str]) -> None:
    kiosk, canaries = planted
    file = kiosk.folder / "help.zip"
    assert run_in_process("diagnostics", str(file), "--config", str(kiosk.config)) == 0
    documents, content = read(file)
    assert found_in(canaries, content) == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {*documents, "README.txt"} == set(zipfile.ZipFile(file).namelist())
    out, _ = capsys.readouterr()
    assert all(name in out for name in documents)
    about, config, checks = documents["about.json"], documents["config.json"], documents["check.json"]
    assert about["timezone"] == "Asia/Seoul"
    assert (config["camera"]["source"], config["camera"]["fps"], config["camera"]["pace"]) == ("(set)", 15, "realtime")
    assert (config["mqtt"]["host"], config["mqtt"]["allow_plaintext"], config["mqtt"]["tls"]) == ("(set)", False, None)
    assert config["match"]["threshold"] == "auto"
    # Who looked would have found: the doctor names people and places.
    said = " ".join(finding.message for finding in examine(load(kiosk.config, {}), source=None))
    assert {"zqsubject", "zqcamhost", "zqbroker", "zqsite"} <= set(found_in(canaries, said.encode()))
    # Of which only what names nobody is passed on.
    states = {check["name"]: check for check in checks}
    assert (states["camera"]["status"], states["camera"]["message"], states["camera"]["exit_code"]) == (
        "fail",
        None,
        69,
    )
    assert (states["consent"]["status"], states["consent"]["message"]) == ("warn", None)
    assert states["storage"]["message"] is not None
    assert documents["health.json"] == {"error": "UnavailableError"}
    assert documents["store.json"]["rows"]["subjects"] == documents["store.json"]["rows"]["attendance"] == 1
    assert documents["store.json"]["whole"] is True
    assert documents["packages.json"]["click"]


def test_what_the_running_kiosk_says(planted: tuple[Kiosk, Canaries], monkeypatch: pytest.MonkeyPatch) -> None:
    kiosk, canaries = planted
    now = {
        "site": "zqsite",
        "device": "zqdoor",
        "at": "2026-03-02T07:58:13.412Z",
        "problems": [
            {"part": "camera", "what": "rtsp://zqcamhost.invalid:554: no answer"},
            {
                "part": "broker",
                "what": "zqbroker.invalid:1883 at 10.77.66.56 or [fd00::17]:1883: nothing listens there",
            },
            {"part": "store", "what": "zqdata.db: no space left"},
        ],
        "outbox": {"oldest_unsent_at": "2026-03-02T07:58:13.412Z", "pending": 3},
    }
    report = HealthReport(now=now, history=[], broker="connected")
    monkeypatch.setattr(PreviewClient, "health", lambda _, **__: report)
    told = diagnostics._health(load(kiosk.config, {}))
    text = json.dumps(told, ensure_ascii=False)
    assert found_in(canaries, text.encode()) == []
    assert "10.77" not in text
    assert "fd00" not in text
    assert [problem["what"] for problem in told["now"]["problems"]] == [
        "(…) no answer",
        "(…):1883 at (…) or (…)(…) nothing listens there",
        "(…): no space left",
    ]
    assert told["now"]["at"] == told["now"]["outbox"]["oldest_unsent_at"] == "2026-03-02T07:58:13.412Z"


def test_numbers_stay_as_they_are() -> None:
    assert _without_places({"a": [1, None, 0.5], "b": "12 events wait"}, []) == {
        "a": [1, None, 0.5],
        "b": "12 events wait",
    }


def test_without_a_store_the_rest_is_there(kiosk: Kiosk, capsys: pytest.CaptureFixture[str]) -> None:
    kiosk.configure(camera={"source": str(kiosk.folder / "none.avi")})
    file = kiosk.folder / "help.zip"
    assert run_in_process("diagnostics", str(file), "--json", "--config", str(kiosk.config)) == 0
    answer = json.loads(capsys.readouterr().out)
    documents, _ = read(file)
    assert answer["documents"] == documents
    assert documents["store.json"] == {"error": "UnavailableError"}
    assert documents["health.json"] == {"error": UnavailableError.__name__}


@pytest.mark.parametrize(("name", "code"), [("help.txt", 64), ("there.zip", 74), ("no/folder/x.zip", 74)])
def test_where_it_cannot_be_written(
    kiosk: Kiosk, name: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "examine", lambda _: [])
    (kiosk.folder / "there.zip").write_text("mine")
    assert run_in_process("diagnostics", str(kiosk.folder / name), "--config", str(kiosk.config)) == code
    assert name in assert_one_line_error(capsys.readouterr().err)
    assert (kiosk.folder / "there.zip").read_text() == "mine"
