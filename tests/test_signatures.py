"""Signed events: what other programs can verify, what stays verifiable, and that whatever is done to them shows."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from broker import Subscriber, listening, wait_for
from command_line import Kiosk
from hypothesis import given
from hypothesis import strategies as st
from runner import assert_one_line_error, copy_store, enroll_people, run_in_process

from kiosk.biometrics import Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.codes import Kind
from kiosk.commands.signatures import _Intake
from kiosk.demo import write_scenes
from kiosk.errors import ConfigError, InputError
from kiosk.events import AttendanceEvent, EventType, Moment, Origin, RejectedEvent, TimeCorrection
from kiosk.signatures import EventSigner, EventVerifier, PublicKeys, Trouble, canonical, digest, parse_event
from kiosk.store import Store

ANA = SubjectId("E1042")
ORIGIN = Origin("hq", "door-1", "Asia/Seoul")
MARCH_MS = 1_772_438_293_412
DAY_MS = 86_400_000
SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"
SIGNER = EventSigner.generate()
Event = dict[str, Any]


@pytest.fixture(scope="module")
def public_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "door-1.pub"
    path.write_bytes(SIGNER.public_pem())
    return path


@pytest.fixture(scope="module")
def keys(public_key: Path) -> PublicKeys:
    return PublicKeys.load([public_key])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "kiosk.db") as store:
        store.enroll(ANA, [], name="Ana 아나")
        store.signer = SIGNER
        yield store


def check_in(
    store: Store, count: int = 1, *, at_ms: int = MARCH_MS, synchronized: bool = True, include_name: bool = False
) -> None:
    for number in range(count):
        score = 0.75 if number % 2 else 1.0  # the second is a whole number to JSON
        event = store.record_check_in(
            Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, (Candidate(ANA, score),), frames=5),
            event_type=EventType.CHECK_IN,
            moment=Moment(at_ms + number, synchronized, 1000 + number, "boot-1"),
            origin=ORIGIN,
            model_id=ModelId("test-int8@abcdef"),
            gallery_size=1,
            include_name=include_name,
        )
        assert event is not None


def enter_code(store: Store, kind: Kind, *, at_ms: int = MARCH_MS, synchronized: bool = True) -> None:
    moment = Moment(at_ms, synchronized, 5000, "boot-1")
    assert store.record_code_check_in(ANA, kind, event_type=EventType.CHECK_OUT, moment=moment, origin=ORIGIN)


def damage(path: Path, seqs: list[int]) -> None:
    """What the events say, not what their digests say."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        for seq in seqs:
            db.execute("UPDATE outbox SET payload = replace(payload, 'door-1', 'door-2') WHERE seq = ?", [seq])
        db.commit()


def events(store: Store) -> list[Event]:
    return list(store.event_payloads())


def troubles(keys: PublicKeys, received: list[Event]) -> list[tuple[int | None, Trouble]]:
    verifier = EventVerifier(keys)
    for line, event in enumerate(received, 1):
        verifier.take(line, event)
    return [(finding.seq, finding.trouble) for finding in verifier.findings()]


# --- the form


def test_the_signed_text_is_the_documented_one() -> None:
    event = {
        "seq": 7,
        "replayed": True,
        "subject": {"name": "Ana", "id": "E1"},
        "match": {"score": 1.0, "margin": 0.0001, "threshold": -0.0, "model": None},
        "clock": {"corrected_by_ms": 9007199254740991, "ok": False},
        "tz": 'a"\\\n\u001f/é아\u007f',
        "previous": None,
        "signature": "x",
    }
    assert (
        canonical(event)
        == (
            '{"clock":{"corrected_by_ms":9007199254740991,"ok":false},'
            '"match":{"margin":0.0001,"model":null,"score":1,"threshold":0},'
            '"previous":null,"seq":7,"subject":{"id":"E1"},"tz":"a\\"\\\\\\n\\u001f/é아\u007f"}'
        ).encode()
    )


@given(st.integers(-20_000, 20_000))
def test_no_number_of_an_event_needs_an_exponent(ten_thousandths: int) -> None:
    """Only from 1e-5 on do Python and JavaScript differ."""
    text = canonical({"score": round(ten_thousandths / 10_000, 4)})
    assert b"e" not in text.partition(b":")[2]
    assert not text.endswith(b".0}")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_javascript_verifies_as_documented(store: Store, public_key: Path) -> None:
    check_in(store, 4, include_name=True)
    page = (SCHEMAS.parent / "signatures.md").read_text(encoding="utf-8")
    snippet = page.split("```js\n")[1].split("```")[0]
    program = f"""
        const crypto = require("crypto"), fs = require("fs")
        const publicKey = crypto.createPublicKey(fs.readFileSync({json.dumps(str(public_key))}))
        const canonicalize = value => Array.isArray(value) ? `[${{value.map(canonicalize)}}]`
            : value && typeof value == "object"
            ? `{{${{Object.keys(value).sort().map(name => JSON.stringify(name) + ":" + canonicalize(value[name]))}}}}`
            : JSON.stringify(value)
        for (const payload of fs.readFileSync(0, "utf8").trim().split("\\n")) {{
            {snippet}
            console.log(good, hash)
        }}
    """
    lines = "\n".join(json.dumps(event) for event in events(store))
    told = subprocess.run(["node", "-e", program], input=lines, capture_output=True, text=True, check=True).stdout
    assert told.split() == [part for event in events(store) for part in ("true", digest(event))]


def test_openssl_verifies(store: Store, public_key: Path, tmp_path: Path) -> None:
    check_in(store)
    (event,) = events(store)
    (tmp_path / "text").write_bytes(canonical(event))
    (tmp_path / "signature").write_bytes(base64.b64decode(event["signature"]))
    arguments = ["-pubin", "-inkey", public_key, "-rawin", "-in", tmp_path / "text", "-sigfile", tmp_path / "signature"]
    told = subprocess.run(["openssl", "pkeyutl", "-verify", *arguments], capture_output=True, text=True, check=False)
    assert "Verified Successfully" in told.stdout + told.stderr


def test_signed_and_unsigned_events_are_valid_and_stay_as_they_are(store: Store) -> None:
    store.signer = None
    check_in(store)
    store.signer = SIGNER
    check_in(store)
    unsigned, signed = events(store)
    assert not {"previous", "signature"} & set(unsigned)
    assert list(signed)[-2:] == ["previous", "signature"]
    schema = json.loads((SCHEMAS / "attendance.schema.json").read_text(encoding="utf-8"))
    for event in (unsigned, signed):
        jsonschema.validate(event, schema)
        assert AttendanceEvent.model_validate(event).payload() == event


# --- what happens to events on the device


def test_a_chain_from_the_first_event_on(store: Store, keys: PublicKeys) -> None:
    check_in(store, 5)
    signed = events(store)
    assert [event["previous"] for event in signed] == [None, *(digest(event) for event in signed[:-1])]
    assert troubles(keys, signed) == []


def test_whoever_comes_by_a_code_is_signed_like_a_face(store: Store, keys: PublicKeys) -> None:
    check_in(store)
    enter_code(store, Kind.PIN)
    enter_code(store, Kind.BADGE)
    check_in(store)
    signed = events(store)
    assert [event["method"] for event in signed] == ["face", "code", "code", "face"]
    assert troubles(keys, signed) == []
    assert troubles(keys, [signed[0], {**signed[1], "method": "face"}, *signed[2:]])[0] == (2, Trouble.FORGED)


def test_what_is_sent_again_verifies_the_same(tmp_path: Path, keys: PublicKeys) -> None:
    from test_publisher import Kiosk as Sender
    from test_publisher import ask

    from kiosk.mqtt import BrokerSettings

    with listening(tmp_path, "kiosk/v1/+/+/event/attendance") as (mosquitto, subscriber):
        sender = Sender(tmp_path / "kiosk.db", BrokerSettings("127.0.0.1", mosquitto.port))
        sender.store.signer = SIGNER
        sender.start()
        try:
            sender.check_in(3)
            subscriber.wait_for("attendance", 3)
            ask(subscriber, "again", 1, 3)
            received = [message.json() for message in subscriber.wait_for("attendance", 6)]
        finally:
            sender.stop()
    assert [event["replayed"] for event in received] == [False] * 3 + [True] * 3
    assert [event["signature"] for event in received[:3]] == [event["signature"] for event in received[3:]]
    verifier = EventVerifier(keys)
    for line, event in enumerate(received, 1):
        verifier.take(line, event)
    assert verifier.findings() == []
    assert (verifier.verified, verifier.repeats, verifier.seqs) == (6, 3, (1, 3))


def test_times_corrected_before_and_after_sending_keep_the_chain(store: Store, keys: PublicKeys) -> None:
    check_in(store, 3, at_ms=0, synchronized=False)
    lent = [row.seq for row in store.lend_pending(2)]
    before = events(store)
    corrected = store.correct_times(Moment(MARCH_MS, synchronized=True, boottime_ms=90_000, boot_id="boot-1"), ORIGIN)
    assert (lent, corrected.unsent, corrected.sent) == ([1, 2], 1, 2)
    check_in(store)
    signed = events(store)
    assert signed[:2] == before[:2], "what a broker may know stays as it was said"
    assert signed[2]["occurred_at"] != before[2]["occurred_at"]
    assert [event["event_type"] for event in signed[3:]] == ["time_correction"] * 2 + ["check_in"]
    assert troubles(keys, signed) == []
    assert TimeCorrection.model_validate(signed[3]).payload() == signed[3]


def test_the_chain_outlives_retention(store: Store, keys: PublicKeys) -> None:
    check_in(store, 3)
    first = events(store)
    store.mark_sent([1, 2, 3])
    assert store.prune(1, now_ms=MARCH_MS + 3 * DAY_MS) == 3
    assert events(store) == []
    check_in(store)
    assert troubles(keys, [*first, *events(store)]) == []


def test_a_damaged_event_costs_no_check_in_and_shows(store: Store, keys: PublicKeys, tmp_path: Path) -> None:
    check_in(store, 2)
    good = events(store)
    with contextlib.closing(sqlite3.connect(tmp_path / "kiosk.db")) as db:
        db.execute("UPDATE outbox SET payload = 'damaged' WHERE seq = 2")
        db.commit()
    check_in(store)
    with contextlib.closing(sqlite3.connect(tmp_path / "kiosk.db")) as db:
        (payload,) = db.execute("SELECT payload FROM outbox WHERE seq = 3").fetchone()
    assert troubles(keys, [*good, json.loads(payload)]) == [(3, Trouble.BROKEN)]


def test_what_a_restore_makes_anew_is_signed_as_it_was(store: Store, keys: PublicKeys, tmp_path: Path) -> None:
    check_in(store)
    with store.backups.alone():
        store.backups.take()
    check_in(store, 2, at_ms=0, synchronized=False, include_name=True)
    assert [row.seq for row in store.lend_pending(2)] == [1, 2]
    enter_code(store, Kind.BADGE, at_ms=0, synchronized=False)
    moment = Moment(MARCH_MS, synchronized=True, boottime_ms=90_000, boot_id="boot-1")
    corrected = store.correct_times(moment, ORIGIN)
    assert (corrected.sent, corrected.unsent) == (1, 2)
    check_in(store)
    before = events(store)
    store.close()
    lost = [2, 3, 4, 5]
    damage(tmp_path / "kiosk.db", lost)
    with Store.open(tmp_path / "kiosk.db", verified=True, signer=SIGNER) as again:
        assert again.restored is not None
        check_in(again)
        after = events(again)
    assert [event["event_type"] for event in before] == ["check_in"] * 3 + ["check_out", "time_correction", "check_in"]
    assert [event["signature"] for event in after[:-1]] == [event["signature"] for event in before]
    assert troubles(keys, [*before, *after]) == []


def test_a_damaged_event_is_not_sealed_as_if_it_were_sound(store: Store, keys: PublicKeys, tmp_path: Path) -> None:
    """Neither where its time is corrected nor where its name is erased: the restore makes it anew."""
    with store.backups.alone():
        store.backups.take()
    check_in(store, 3, at_ms=0, synchronized=False, include_name=True)
    damage(tmp_path / "kiosk.db", [2])
    store.correct_times(Moment(MARCH_MS, synchronized=True, boottime_ms=90_000, boot_id="boot-1"), ORIGIN)
    store.remove_subject(ANA)
    assert store.integrity_problem() == "row 2 of outbox differs from what was written"
    with contextlib.closing(sqlite3.connect(tmp_path / "kiosk.db")) as db:
        assert not db.execute("SELECT COUNT(*) FROM outbox WHERE payload LIKE '%Ana%'").fetchone()[0]
    store.close()
    with Store.open(tmp_path / "kiosk.db", verified=True, signer=SIGNER) as again:
        restored = events(again)
    assert [event["device"] for event in restored] == ["door-1"] * 3
    assert [event["occurred_at"][:4] for event in restored] == ["2026"] * 3
    # The third was signed again while the second could not be read.
    assert troubles(keys, restored) == [(3, Trouble.BROKEN)]


def test_an_erased_name_leaves_the_signature_good(store: Store, keys: PublicKeys) -> None:
    check_in(store, 2, include_name=True)
    told = events(store)
    store.remove_subject(ANA)
    left = events(store)
    assert told[0]["subject"]["name"] == "Ana 아나"
    assert "name" not in left[0]["subject"]
    assert troubles(keys, [*told, *left]) == []


def test_the_event_that_follows_vouches_for_an_unsigned_one(store: Store, keys: PublicKeys) -> None:
    """Turning signing on."""
    store.signer = None
    check_in(store, 2)
    store.signer = SIGNER
    check_in(store, 2)
    received = events(store)
    assert troubles(keys, received) == [(1, Trouble.UNSIGNED)]
    received[1]["subject"]["id"] = "mallory"
    assert troubles(keys, received)[1] == (2, Trouble.UNSIGNED)
    # It vouches for one, not for those before it.
    gap = [*events(store)[1:2], *events(store)[2:]]
    assert troubles(keys, gap) == []


def test_an_unsigned_event_hides_no_gap(store: Store, keys: PublicKeys) -> None:
    check_in(store, 3)
    store.signer = None
    check_in(store)
    store.signer = SIGNER
    check_in(store)
    received = events(store)
    assert troubles(keys, received) == []
    assert troubles(keys, [received[0], *received[3:]]) == [(4, Trouble.MISSING)]


# --- what is done to them on the way


def _members(event: Event, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in event.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from _members(value, (*path, name))


def _altered(event: Event, path: tuple[str, ...], how: Literal["changed", "deleted"]) -> Event:
    event = copy.deepcopy(event)
    place = event
    for name in path[:-1]:
        place = place[name]
    value = place.pop(path[-1])
    if how == "changed":
        place[path[-1]] = (not value) if isinstance(value, bool) else "0" if value is None else [value]
    return event


def test_whatever_is_altered_shows(store: Store, keys: PublicKeys) -> None:
    check_in(store, 2, include_name=True)
    first, second = events(store)
    seen = set()
    for how in ("changed", "deleted"):
        for path in _members(second):
            found = {trouble for _, trouble in troubles(keys, [first, _altered(second, path, how)])}  # type: ignore[arg-type]
            if not found:
                seen.add(".".join(path))
            elif path == ("signature",) and how == "deleted":
                assert found == {Trouble.UNSIGNED}
            else:
                assert found == {Trouble.FORGED}, (path, how)
    assert seen == {"replayed", "subject.name"}
    assert troubles(keys, [first, {**second, "door": "open"}]) == [(2, Trouble.FORGED)]
    other = EventSigner.generate().sign(second)
    assert troubles(keys, [first, other]) == [(2, Trouble.FORGED)]


@pytest.mark.parametrize(
    "seq", ["2.0", "2e0", "20e-1", "0.2E+1", "-0", "null", '"2"', "true", "[2]", "9" * 400, "\\u0032"]
)
@pytest.mark.parametrize("signed", [True, False])
def test_a_number_written_otherwise_takes_no_event_out_of_the_chain(
    store: Store, keys: PublicKeys, seq: str, *, signed: bool
) -> None:
    check_in(store, 3)
    one, two, three = events(store)
    text = json.dumps(two if signed else {name: two[name] for name in two if name != "signature"})
    altered = text.replace('"seq": 2,', f'"seq": {seq},')
    assert altered != text
    try:
        received = [one, parse_event(altered), three]
    except ValueError:
        assert seq.startswith("\\")
        return
    verifier = EventVerifier(keys)
    for line, event in enumerate(received, 1):
        verifier.take(line, event)
    assert (2, Trouble.FORGED) in [(finding.line, finding.trouble) for finding in verifier.findings()]
    assert (verifier.verified, verifier.without_number) == (2, 0)


def test_numbers_that_json_knows_in_several_forms_are_the_same(store: Store, keys: PublicKeys) -> None:
    """As they are to a consumer in JavaScript: nothing is altered."""
    check_in(store, 1)
    (event,) = events(store)
    text = json.dumps(event)
    for ours, theirs in (('"frames": 5', '"frames": 5.0'), ("0.62", "62e-2"), ('"seq"', '"s\\u0065q"')):
        assert text.count(ours)
        assert troubles(keys, [parse_event(text.replace(ours, theirs))]) == []
    for ours, theirs in (('"checked": false', '"checked": 0'), ('"frames": 5', '"frames": true')):
        assert text.count(ours)
        assert troubles(keys, [parse_event(text.replace(ours, theirs))]) == [(1, Trouble.FORGED)]


def test_a_file_that_fails_while_it_is_read_is_named(public_key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # It opens, and its first page cannot be read.
    assert run_in_process("events", "verify", "--public-key", str(public_key), "/proc/self/mem") == 65
    assert "/proc/self/mem: cannot be read" in assert_one_line_error(capsys.readouterr().err)


def test_events_of_others_are_told_in_short(keys: PublicKeys) -> None:
    def refusal(*names: object) -> str:
        intake = _Intake(keys, None, 0)
        for name in names:
            intake.take(json.dumps({"site": "hq", "device": name}).encode())
        with pytest.raises(InputError) as refused:
            intake.only()
        return str(refused.value)

    assert (
        refusal("door-1", "d" * 64) == f"these are events of 2 kiosks (hq/{'d' * 64}, hq/door-1); name one by --device"
    )
    assert len(refusal(*(f"{number}{'d' * 60}" for number in range(100)))) < 5 * 82 + 100
    # No kiosk is called so.
    for name in ("d" * 65, 7, None, "a/b", "\n", "\x1b[2J"):
        assert refusal(name) == "there are no events to verify"


def test_whatever_is_withheld_shows(store: Store, keys: PublicKeys) -> None:
    check_in(store, 6)
    signed = events(store)
    for first in range(1, 5):
        for last in range(first, 5):
            received = signed[:first] + signed[last + 1 :]
            assert troubles(keys, received) == [(last + 2, Trouble.MISSING)], (first, last)
    # Neither end shows: a file may begin anywhere, and what is last the events do not tell.
    assert troubles(keys, signed[2:5]) == []


@pytest.mark.parametrize(("last_seq", "told"), [(6, "6"), (9, "6 to 9")])
def test_a_cut_end_shows_to_who_knows_the_last_number(store: Store, keys: PublicKeys, last_seq: int, told: str) -> None:
    check_in(store, 5)
    verifier = EventVerifier(keys)
    assert [finding.message for finding in verifier.findings(last_seq=1)] == ["behind it events are missing: 1"]
    for line, event in enumerate(events(store), 1):
        verifier.take(line, event)
    assert verifier.last_occurred_at == events(store)[-1]["occurred_at"]
    assert verifier.findings(last_seq=5) == verifier.findings(last_seq=4) == verifier.findings() == []
    (finding,) = verifier.findings(last_seq=last_seq)
    assert (finding.line, finding.seq, finding.trouble) == (5, 5, Trouble.MISSING)
    assert finding.message == f"behind it events are missing: {told}"


def test_what_comes_out_of_order_shows_unless_it_says_so(store: Store, keys: PublicKeys) -> None:
    check_in(store, 3)
    one, two, three = events(store)
    assert troubles(keys, [one, three, two]) == [(2, Trouble.ORDER)]
    assert troubles(keys, [one, three, {**two, "replayed": True}]) == []
    assert troubles(keys, [one, two, three, one, two]) == []


def test_a_copied_store_shows(store: Store, keys: PublicKeys, tmp_path: Path) -> None:
    check_in(store, 2)
    store.close()
    shutil.copy(tmp_path / "kiosk.db", tmp_path / "copy.db")
    for extra in tmp_path.glob("kiosk.db.*"):
        shutil.copy(extra, tmp_path / extra.name.replace("kiosk.db", "copy.db"))
    both = []
    for name, at_ms in (("kiosk.db", MARCH_MS + 1000), ("copy.db", MARCH_MS + 2000)):
        with Store.open(tmp_path / name) as again:
            again.signer = SIGNER
            check_in(again, 2, at_ms=at_ms)
            both.append(events(again))
    ours, theirs = both
    assert troubles(keys, [*ours, *theirs]) == [(3, Trouble.CONFLICT), (4, Trouble.CONFLICT)]
    assert troubles(keys, [*ours[:3], theirs[3]]) == [(4, Trouble.BROKEN)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
)
NAMES = st.sampled_from(["seq", "signature", "previous", "subject", "replayed", "site"])


@given(st.dictionaries(NAMES | st.text(max_size=4), JSON, max_size=6))
def test_nothing_received_passes_or_breaks_the_verifier(document: Event) -> None:
    keys = PublicKeys((SIGNER._key.public_key(),))
    verifier = EventVerifier(keys)
    verifier.take(1, document)
    verifier.take(2, document)
    assert verifier.findings()
    assert verifier.verified == 0


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_nothing_received_breaks_the_parser(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_event(text), dict)


@pytest.mark.parametrize(
    "text",
    [
        '{"seq":1,"seq":2}',
        '{"seq":1,"s\\u0065q":2}',
        '{"subject":{"id":"a","id":"b"}}',
        "[]",
        '{"seq":NaN}',
        '{"a":' * 100_000,
        '{"seq":1}'.encode("utf-16"),
        '{"seq":1}'.encode("utf-8-sig"),
        b'{"site":"\xed\xa0\xbd"}',
    ],
)
def test_ambiguous_documents_are_no_events(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any
        parse_event(text)


# --- keys and commands


def test_keygen_writes_a_private_key_and_no_second_one(kiosk: Kiosk, tmp_path: Path) -> None:
    key = tmp_path / "key"
    made = kiosk("events", "keygen", key)
    assert made.returncode == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert EventSigner.load(key).public_pem().decode() == made.stdout
    assert "PRIVATE" not in made.stdout + made.stderr
    again = kiosk("events", "keygen", key)
    assert again.returncode == 74
    assert "is there already" in assert_one_line_error(again.stderr)
    assert EventSigner.load(key).public_pem().decode() == made.stdout
    assert kiosk("events", "keygen", tmp_path / "none" / "key").returncode == 74


def test_keys_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for content in (b"", b"\xff" * 100, SIGNER.public_pem(), _other_key("rsa"), _other_key("x25519")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="no Ed25519 key"):
            EventSigner.load(path)
    path.write_bytes(SIGNER.private_pem())
    with pytest.raises(InputError, match="no Ed25519 public key"):
        PublicKeys.load([path])
    with pytest.raises(InputError, match="No such file"):
        PublicKeys.load([tmp_path / "none"])
    with pytest.raises(ConfigError, match="No such file"):
        EventSigner.load(tmp_path / "none")


def _other_key(kind: str) -> bytes:
    command = ["openssl", "genpkey", "-algorithm", kind]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_a_key_of_openssl_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(_other_key("ed25519"))
    event = EventSigner.load(tmp_path / "key").sign({"seq": 1})
    (tmp_path / "pub").write_bytes(EventSigner.load(tmp_path / "key").public_pem())
    assert PublicKeys.load([tmp_path / "pub"]).verify(event)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, samples: Path) -> Kiosk:
    return enroll_people(Kiosk(tmp_path_factory.mktemp("home"), request.config.getoption("--runtime")), samples)


@pytest.mark.stories
def test_from_the_door_to_the_consumer(kiosk: Kiosk, enrolled: Kiosk, tmp_path: Path) -> None:
    copy_store(enrolled, kiosk)
    clip, key, public = tmp_path / "demo.avi", tmp_path / "key", tmp_path / "pub"
    write_scenes(clip)
    public.write_text(kiosk("events", "keygen", key).stdout)
    with listening(tmp_path, "kiosk/v1/+/+/#") as (mosquitto, subscriber):
        kiosk.configure(
            camera={"source": str(clip), "pace": "fast"},
            match={"refractory_s": 5},
            mqtt={"enabled": True, "host": "127.0.0.1", "port": mosquitto.port, "rejected_events": True},
        )
        kiosk.configure(mqtt={"sign_key_file": str(key)})
        assert "events are signed" in kiosk("check").stdout
        assert kiosk("run").returncode == 0
        received = _received(subscriber)
        assert "signatures" in subscriber.wait_for("/info")[0].json()["capabilities"]
    rejected = [json.loads(line) for line in received if b'"reason"' in line]
    assert rejected
    for event in rejected:
        jsonschema.validate(event, json.loads((SCHEMAS / "rejected.schema.json").read_text(encoding="utf-8")))
        assert RejectedEvent.model_validate(event).payload() == event

    def verify(lines: list[bytes], *options: str | Path) -> tuple[int, str, str]:
        path = tmp_path / "received"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        told = kiosk("events", "verify", "--public-key", public, *options, path)
        return told.returncode, told.stdout, told.stderr

    code, text, _ = verify(received)
    told, _, end = text.partition("; the last is 4, of ")
    assert (code, told) == (
        0,
        f"{len(received)} events with a good signature, numbers 1 to 4, {len(rejected)} of them rejected",
    )
    assert end.strip() in {json.loads(line)["occurred_at"] for line in received if b'"seq":4' in line}
    code, text, problem = verify([*received[:-1], received[-1].replace(b'"replayed":false', b'"replayed":true')])
    assert code == 0
    code, text, problem = verify([line.replace(b'"hq"', b'"h2"') for line in received])
    assert code == 65
    assert text.count("forged") == len(received)
    assert_one_line_error(problem)
    code, text, _ = verify([line for line in received if b'"seq":2' not in line], "--json")
    document = json.loads(text)
    assert (code, document["ok"]) == (65, False)
    assert [(finding["seq"], finding["trouble"]) for finding in document["findings"]] == [(3, "missing")]
    code, text, _ = verify([*received, b"x" * 100_000, b"", b'{"seq":1,"seq":2}', b"online"])
    assert code == 65
    assert [line.split(": ")[1] for line in text.splitlines()[:-1]] == ["unreadable"] * 3
    other = received[0].replace(b'"device":"door-1"', b'"device":"door-2"')
    code, _, problem = verify([*received, other])
    assert code == 65
    assert "--device" in assert_one_line_error(problem)
    assert verify([*received, other], "--device", "hq/door-1")[0] == 0
    assert verify([])[0] == 65
    assert verify(received, "--device", "door-1")[0] == 64

    exported = kiosk("events", "export").stdout
    told = kiosk("events", "verify", "--public-key", public, stdin=exported)
    assert (told.returncode, told.stdout) == (
        0,
        f"4 events with a good signature, numbers 1 to 4; the last is 4, of {end}",
    )
    assert kiosk("events", "--json").returncode == 0


def test_without_a_usable_key_the_kiosk_does_not_start(kiosk: Kiosk, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("no key")
    kiosk.configure(mqtt={"enabled": True, "host": "127.0.0.1", "sign_key_file": str(key)})
    refused = kiosk("run")
    assert refused.returncode == 78
    assert "mqtt.sign_key_file" in assert_one_line_error(refused.stderr)
    assert "mqtt.sign_key_file" in kiosk("check").stdout


@pytest.mark.stories
def test_the_last_number_is_told_and_can_be_given(kiosk: Kiosk, public_key: Path) -> None:
    with Store.open(kiosk.store, signer=SIGNER) as store:
        store.enroll(ANA, [])
        check_in(store, 3)
    exported = kiosk("events", "export").stdout
    cut = "".join(exported.splitlines(keepends=True)[:2])

    def verify(lines: str, *options: str) -> tuple[int, str]:
        told = kiosk("events", "verify", "--public-key", public_key, *options, stdin=lines)
        return told.returncode, told.stdout

    good = "2 events with a good signature, numbers 1 to 2; the last is 2, of 2026-03-02T07:58:13.413Z\n"
    assert verify(cut) == (0, good)
    assert verify(cut, "--last-seq", "3") == (65, f"line 2: event 2: missing: behind it events are missing: 3\n{good}")
    assert verify(exported, "--last-seq", "3")[0] == 0
    assert verify(exported, "--last-seq", "0")[0] == 64
    assert json.loads(verify(cut, "--json")[1])["last_occurred_at"] == "2026-03-02T07:58:13.413Z"


def test_verifying_begins_where_signing_was_turned_on(kiosk: Kiosk, public_key: Path) -> None:
    with Store.open(kiosk.store) as store:
        store.enroll(ANA, [])
        check_in(store, 3)
    with Store.open(kiosk.store, signer=SIGNER) as store:
        check_in(store, 3)
    rejected = json.dumps({"event_type": "unknown", "site": "hq", "device": "door-1", "reason": "no_match"}) + "\n"
    exported = rejected + kiosk("events", "export").stdout

    def verify(lines: str, *options: str) -> tuple[int, dict[str, Any]]:
        told = kiosk("events", "verify", "--json", "--public-key", public_key, *options, stdin=lines)
        return told.returncode, json.loads(told.stdout)

    code, document = verify(exported)
    assert (code, {finding["trouble"] for finding in document["findings"]}) == (65, {"unsigned"})
    code, document = verify(exported, "--from-seq", "4")
    assert (code, document["verified"], document["first_seq"]) == (0, 3, 4)
    # Later than that, what is not signed counts.
    unsigned = [json.loads(line) for line in exported.splitlines()[5:]]
    del unsigned[-1]["signature"]
    assert verify("\n".join(map(json.dumps, unsigned)), "--from-seq", "4")[0] == 65


def _received(subscriber: Subscriber) -> list[bytes]:
    wait_for(lambda: len(subscriber.on("/event/attendance")) >= 4)
    return [message.payload for message in subscriber.messages if "/event/" in message.topic]


def test_the_credential_turns_it_on(kiosk: Kiosk, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "event-signing-key").write_text("no key")
    with listening(tmp_path) as (mosquitto, _):
        kiosk.configure(mqtt={"enabled": True, "host": "127.0.0.1", "port": mosquitto.port})
        refused = kiosk("run", env={"CREDENTIALS_DIRECTORY": str(credentials)})
    assert refused.returncode == 78
    assert "event-signing-key" in assert_one_line_error(refused.stderr)
