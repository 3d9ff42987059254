"""``kiosk privacy report``: everything there is, and one person's data without anybody else's."""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from command_line import Kiosk
from runner import assert_one_line_error
from test_store import MODEL, NOW_MS, check_in, embedding, moment, reject, template

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.store import Consent, Store

pytestmark = pytest.mark.stories


@pytest.fixture
def filled(kiosk: Kiosk) -> Kiosk:
    """Ana with consent and visits, Bo who looks like her, Cy who was erased after a visit."""
    with Store.open(kiosk.store) as store:
        consent = Consent("HR-17", "2026-01-02", "v3", "2099-12-31")
        store.enroll(SubjectId("ana"), [template(1), template(2)], name="Canary Ana", consent=consent)
        store.enroll(SubjectId("other"), [template(3)], name="Canary Bo")
        store.enroll(SubjectId("cy"), [template(4)], name="Canary Cy")
        for subject in ("ana", "ana", "other", "cy"):
            check_in(store, subject, moment(NOW_MS))
        reject(store, "ana", "other")
        store.set_badge(SubjectId("ana"), salt=b"salt", digest=b"hash", now_ms=NOW_MS)
        store.remove_subject("cy")
    return kiosk


def report(kiosk: Kiosk, *options: str) -> tuple[dict[str, Any], str]:
    result = kiosk("privacy", "report", "--json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout), result.stdout


def test_every_table_has_its_purpose_and_its_time(filled: Kiosk) -> None:
    document, text = report(filled)
    holdings = {holding["name"]: holding for holding in document["holdings"]}
    with closing(sqlite3.connect(filled.store)) as db:
        for table in integrity.COLUMNS:
            # These two are about no person: figures of the whole gallery, numbering, wishes of the backend.
            if table in {"calibrations", "marks", "replays"}:
                continue
            (rows,) = db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()  # noqa: S608 - our own names
            assert holdings[table]["count"] == rows > 0
    assert all(holding[key] for holding in holdings.values() for key in ("what", "purpose", "kept"))
    assert holdings["attendance"]["kept"].startswith("365 days")
    assert [subject["subject_id"] for subject in document["subjects"]] == ["ana", "other"]
    ana, other = document["subjects"]
    assert (ana["events"], ana["last_seen_at"], ana["due"]) == (2, "2026-03-02T07:58:13.412Z", None)
    assert ana["consent"] == {"reference": "HR-17", "given_at": "2026-01-02", "version": "v3", "until": "2099-12-31"}
    assert (other["consent"], other["due"], other["unseen_days"]) == (None, None, 0)
    assert [receipt["subject_id"] for receipt in document["erased"]] == ["cy"]
    assert "Canary Cy" not in text


@pytest.mark.parametrize("until", ["9999-12-31", "2100-02-28"])
def test_a_consent_may_last_for_ever(filled: Kiosk, until: str) -> None:
    assert filled("subjects", "consent", "ana", "HR-18", "--until", until).returncode == 0
    assert report(filled)[0]["subjects"][0]["consent"]["until"] == until
    for command in (("privacy", "report"), ("privacy", "report", "--subject", "ana")):
        result = filled(*command)
        assert result.returncode == 0
        assert f"until {until}" in result.stdout


def test_one_persons_data_and_nobody_elses(filled: Kiosk) -> None:
    document, text = report(filled, "--subject", "ana")
    assert document["enrolled"]["name"] == "Canary Ana"
    assert [event["event_type"] for event in document["events"]] == ["check_in", "check_in"]
    assert document["events"][0]["match"]["score"] == 0.81
    assert len(document["templates"]) == 2
    assert document["resembled"] == 1
    assert [change["action"] for change in document["changes"]] == ["enroll", "code"]
    assert [(code["kind"], code["failures"]) for code in document["codes"]] == [("badge", 0)]
    kept = {purpose["name"]: (purpose["purpose"], purpose["kept"]) for purpose in document["purposes"]}
    assert kept["rejections"] == ("to explain refusals (`kiosk why`)", "7 days, the newest 10,000")
    for word in ("other", "Canary Bo", "Canary Cy", "cy", "login", "uid", "embedding"):
        assert f'"{word}' not in text, word


def test_names_in_events_are_counted_whatever_the_setting_is_today(filled: Kiosk) -> None:
    with Store.open(filled.store) as store:
        check_in(store, "ana", include_name=True)
    (outbox,) = [holding for holding in report(filled)[0]["holdings"] if holding["name"] == "outbox"]
    assert (outbox["count"], outbox["what"]) == (5, "the events, 1 of them with the name")
    exported = filled("events", "export")
    assert (exported.returncode, len(exported.stdout.splitlines())) == (0, 5)
    assert "Canary Ana" not in exported.stdout
    filled.configure(mqtt={"include_names": True})
    assert filled("events", "export").stdout.count("Canary Ana") == 1


def test_templates_only_where_they_are_asked_for(filled: Kiosk) -> None:
    templates = report(filled, "--subject", "ana", "--templates")[0]["templates"]
    found = [np.frombuffer(base64.b64decode(one["embedding_base64"]), "<f4") for one in templates]
    assert [one["model"] for one in templates] == [MODEL, MODEL]
    assert all(np.array_equal(one, embedding(seed)) for one, seed in zip(found, (1, 2), strict=True))
    assert filled("privacy", "report", "--templates").returncode == 64


def test_what_is_left_of_somebody_erased(filled: Kiosk) -> None:
    document, _ = report(filled, "--subject", "cy")
    assert (document["enrolled"], document["templates"], len(document["events"])) == (None, [], 1)
    assert [change["action"] for change in document["changes"]] == ["enroll", "remove"]
    assert [receipt["complete"] for receipt in document["erased"]] == [True]


def test_in_words(filled: Kiosk) -> None:
    everybody = filled("privacy", "report")
    assert (everybody.returncode, everybody.stderr) == (0, "")
    assert "templates: 3\n" in everybody.stdout
    assert "until 2099-12-31" in everybody.stdout
    one = filled("privacy", "report", "--subject", "ana")
    assert "consent: HR-17, version v3, given 2026-01-02, until 2099-12-31\n" in one.stdout
    assert "events: 2\n" in one.stdout
    assert "cy: not enrolled (any more)" in filled("privacy", "report", "--subject", "cy").stdout


def test_nobody_of_that_id(filled: Kiosk) -> None:
    result = filled("privacy", "report", "--subject", "nobody")
    assert result.returncode == 65
    assert "nothing is stored about anybody of this id" in assert_one_line_error(result.stderr)
    assert filled("privacy").returncode == 64
