"""The encrypted file a gallery travels in: what it holds comes back, and no file that was touched is opened."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kiosk import gallery_file
from kiosk.biometrics import ModelId, Quality, StoredTemplate, SubjectId
from kiosk.errors import InputError, UnavailableError
from kiosk.gallery_file import (
    MOST_BYTES,
    Origin,
    PortableConsent,
    PortablePerson,
    Scrypt,
    open_gallery,
    read_header,
    seal_gallery,
)

MODEL = ModelId("test-int8@abcdef")
DIM = 8
PASSWORD = "correct horse battery"  # noqa: S105
REAL_SCRYPT_N = gallery_file._SCRYPT_N
AT = "2026-03-02T07:58:13.412Z"
ORIGIN = Origin(AT, clock_synchronized=True, site="hq", device="door-1", kiosk="0.1.0")
QUALITY = Quality(120.0, 61.5, 130.0, -0.05, None, 50.3, 40.2, 0.001, 0.12, 0.95)
CONSENT = PortableConsent(reference="HR-17", given_at="2026-01-02", text_version="v3", until="2027-12-31")


@pytest.fixture(scope="module", autouse=True)
def _cheap_keys() -> object:
    """The least that a file may ask of scrypt, and no key derived twice: hundreds of files are opened here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_file, "_SCRYPT_N", 1 << 14)
        patch.setattr(gallery_file, "_derive", functools.cache(gallery_file._derive))
        yield


def person(one: str = "E1", templates: int = 2, seed: int = 0, **changes: object) -> PortablePerson:
    rows = np.random.default_rng(seed).standard_normal((templates, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = tuple(
        StoredTemplate(SubjectId(one), MODEL, row, None, QUALITY if number else None, "ab" * 32 if number else None, AT)
        for number, row in enumerate(rows)
    )
    return replace(PortablePerson(SubjectId(one), "안나 Ö.", AT, CONSENT, made), **changes)  # type: ignore[arg-type]


def sealed(*people: PortablePerson) -> bytes:
    return seal_gallery(people, MODEL, DIM, ORIGIN, PASSWORD)


@pytest.fixture(scope="module")
def file(_cheap_keys: None) -> bytes:
    return sealed(person("E2", 1, 1, name=None, consent=None), person())


def refused(content: bytes, password: str = PASSWORD) -> str:
    with pytest.raises(InputError) as caught:
        open_gallery("out.gallery", content, password)
    line = str(caught.value)
    assert line.startswith("out.gallery: ")
    assert "\n" not in line
    return line


def lines(content: bytes) -> tuple[dict[str, object], bytes]:
    _, header, rest = content.split(b"\n", 2)
    return json.loads(header), rest


def with_header(content: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    header, rest = lines(content)
    change(header)
    return b"kiosk gallery 1\n" + json.dumps(header, separators=(",", ":")).encode() + b"\n" + rest


def test_all_of_it_comes_back(file: bytes) -> None:
    header, people = open_gallery("out.gallery", file, PASSWORD)
    assert [one.id for one in people] == ["E1", "E2"]
    for found, expected in zip(people, (person(), person("E2", 1, 1, name=None, consent=None)), strict=True):
        assert (found.name, found.created_at, found.consent) == (expected.name, expected.created_at, expected.consent)
        for one, other in zip(found.templates, expected.templates, strict=True):
            assert one.embedding.dtype == np.float32
            assert np.array_equal(one.embedding, other.embedding)
            assert replace(one, embedding=0) == replace(other, embedding=0)  # type: ignore[arg-type]
    assert header == read_header("out.gallery", file)
    assert (header.model, header.people, header.templates, header.embedding_dim) == (MODEL, 2, 3, DIM)


def test_anybody_may_read_version_and_model_and_nothing_of_people(file: bytes) -> None:
    first, second, rest = file.split(b"\n", 2)
    assert first == b"kiosk gallery 1"
    assert json.loads(second)["model"] == MODEL
    assert json.loads(second)["scrypt"] == {"n": 1 << 14, "r": 8, "p": 1, "salt": json.loads(second)["scrypt"]["salt"]}
    assert b"E1" not in second
    for secret in ("안나".encode(), b"HR-17", b"ab" * 32, b"templates", person().templates[0].embedding.tobytes()[:12]):
        assert secret not in rest


def test_no_two_files_share_key_or_nonce() -> None:
    headers = [lines(sealed(person()))[0] for _ in range(2)]
    assert headers[0]["nonce"] != headers[1]["nonce"]
    assert headers[0]["scrypt"] != headers[1]["scrypt"]


def test_what_protects_a_real_file_costs_an_attacker() -> None:
    # 128 MiB and half a second for each password that is tried.
    assert REAL_SCRYPT_N * 8 * 128 == 128 << 20
    assert Scrypt(n=REAL_SCRYPT_N, r=8, p=1, salt="00" * 16)


def test_a_wrong_password_is_told_as_that(file: bytes) -> None:
    assert "the password is wrong" in refused(file, "correct horse batterx")
    assert "the password is wrong" in refused(file, "")


def test_the_same_letters_are_the_same_password() -> None:
    composed, decomposed = "Äpfel und Birnen", "A\u0308pfel und Birnen"
    content = seal_gallery([person()], MODEL, DIM, ORIGIN, composed)
    assert open_gallery("x", content, decomposed)[1][0].id == "E1"


# --- altered


def test_no_file_with_one_bit_changed_is_opened(file: bytes) -> None:
    salt = file.index(b'"salt":"') + 8
    # Each salt that is one is a key to derive: every eighth of its digits will do.
    skipped = {salt + at for at in range(32) if at % 8}
    for at in range(len(file)):
        for bit in range(8) if at not in skipped else ():
            changed = bytearray(file)
            changed[at] ^= 1 << bit
            refused(bytes(changed))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_file_that_was_cut_spliced_or_filled_in_is_opened(file: bytes, data: st.DataObject) -> None:
    low = data.draw(st.integers(0, len(file)), label="from")
    high = data.draw(st.integers(low, min(low + 64, len(file))), label="to")
    put = data.draw(st.binary(max_size=64), label="put there")
    changed = file[:low] + put + file[high:]
    if changed != file and file.find(b'"salt":"') + 40 not in range(low, high + 1):
        refused(changed)


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=400))
@example(b"")
@example(b"kiosk gallery 1")
@example(b"kiosk gallery 1\n")
@example(b"kiosk gallery 1\n{}\n")
@example(b"kiosk gallery 1\n" + b"[" * 3000 + b"\n")
@example(b"kiosk gallery 01\n{}\n")
@example(b"kiosk gallery \xff\n{}\n")
def test_what_is_no_export_is_refused(content: bytes) -> None:
    refused(content)
    refused(b"kiosk gallery 1\n" + content)


def test_every_way_of_being_no_good_has_its_own_line(file: bytes) -> None:
    assert "not an export of a gallery" in refused(b"\xff\xd8\xff\xe0 a photo")
    assert "newer version of the kiosk (form 2, this one knows 1)" in refused(b"kiosk gallery 2\n" + file[16:])
    assert "header is cut off" in refused(file[:100])
    size = len(lines(file)[1])
    assert f"cut off, {size - 1} of {size} bytes are there" in refused(file[:-1])
    assert "behind its end" in refused(file + b"\0")
    assert "altered or damaged" in refused(file[:-1] + bytes([file[-1] ^ 1]))
    # In the header, and still a header.
    assert "altered or damaged" in refused(file.replace(b'"site":"hq"', b'"site":"hx"'))
    assert "header is damaged" in refused(with_header(file, lambda header: header.pop("model")))
    big = file + bytes(MOST_BYTES)
    assert "larger than any export (128 MiB)" in refused(big)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 1 << 30), ("n", 3 << 14), ("n", 1 << 13), ("n", "16384"), ("r", 1 << 20), ("p", 1 << 20), ("p", 0)],
)
def test_a_file_cannot_ask_for_the_machines_memory(file: bytes, name: str, value: object) -> None:
    def ask(header: dict[str, object]) -> None:
        header["scrypt"][name] = value  # type: ignore[index]

    assert "header is damaged" in refused(with_header(file, ask))


def test_too_little_memory_is_told(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(gallery_file, "_derive", gallery_file._derive.__wrapped__)  # type: ignore[attr-defined]
    monkeypatch.setattr("cryptography.hazmat.primitives.kdf.scrypt.Scrypt.derive", fail, raising=True)
    with pytest.raises(UnavailableError, match="takes 16 MiB of memory"):
        open_gallery("x", file, PASSWORD)


# --- written by somebody who knows the password, and means ill


def forged(file: bytes, text: bytes, **changes: object) -> bytes:
    """The file with other content under the right key."""
    header, _ = lines(file)
    header |= changes | {"content_bytes": len(text) + 16}
    scrypt = Scrypt(**header["scrypt"])  # type: ignore[arg-type]
    key, _ = gallery_file._derive(PASSWORD, scrypt)
    top = b"kiosk gallery 1\n" + json.dumps(header, separators=(",", ":")).encode() + b"\n"
    return top + ChaCha20Poly1305(key).encrypt(bytes.fromhex(str(header["nonce"])), text, top)


def described(**changes: object) -> dict[str, object]:
    one: dict[str, object] = {"id": "E1", "name": "A", "created_at": AT, "consent": None, "templates": []}
    return one | changes


TEMPLATE: dict[str, object] = {"created_at": AT, "quality": None, "source_sha256": None}
UNIT = np.eye(1, DIM, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("people", "numbers", "templates", "why"),
    [
        ([described(id="../x")], b"", 0, "people.0.id"),
        ([described(name="")], b"", 0, "people.0.name"),
        ([described(name="x" * 201)], b"", 0, "people.0.name"),
        ([described(photo="x")], b"", 0, "people.0.photo"),
        ([described(created_at="soon")], b"", 0, "people.0.created_at"),
        ([described(consent={"reference": "R"})], b"", 0, "people.0.consent"),
        ([described(), described()], b"", 0, "one id stands there twice"),
        ([described(templates=[TEMPLATE])], UNIT, 2, "as many people and templates"),
        ([described(templates=[TEMPLATE])], UNIT[:-4], 1, "as many numbers"),
        ([described(templates=[TEMPLATE])], UNIT + UNIT, 1, "as many numbers"),
        ([described(templates=[TEMPLATE])], bytes(len(UNIT)), 1, "no embedding"),
        ([described(templates=[TEMPLATE])], np.full(DIM, np.nan, "<f4").tobytes(), 1, "no embedding"),
        ([described(templates=[TEMPLATE | {"quality": {"size_px": 1}}])], UNIT, 1, "quality"),
        ([described(templates=[TEMPLATE | {"source_sha256": "AB" * 32}])], UNIT, 1, "source_sha256"),
    ],
)
def test_what_no_kiosk_writes_is_refused(
    file: bytes, people: list[object], numbers: bytes, templates: int, why: str
) -> None:
    text = json.dumps({"people": people}).encode() + b"\n" + numbers
    line = refused(forged(file, text, people=len(people), templates=templates))
    assert "holds what no kiosk writes" in line
    assert why in line


@pytest.mark.parametrize("text", [b"", b"\n", b"{}\n", b"null\n", b'{"people": []}\n', b"\xff\n", b"[" * 9999 + b"\n"])
def test_content_that_is_none_is_refused(file: bytes, text: bytes) -> None:
    assert "holds what no kiosk writes" in refused(forged(file, text))


def test_the_forger_of_these_tests_can_forge(file: bytes) -> None:
    text = json.dumps({"people": [described(templates=[TEMPLATE])]}).encode() + b"\n" + UNIT
    _, people = open_gallery("x", forged(file, text, people=1, templates=1), PASSWORD)
    assert [one.id for one in people] == ["E1"]


def test_who_cannot_be_read_again_is_not_exported() -> None:
    bad = PortableConsent.model_construct(reference="", given_at="2026-01-01", text_version=None, until=None)
    with pytest.raises(InputError, match=r"E1: cannot be exported, consent\.reference"):
        sealed(person(consent=bad))
    with pytest.raises(InputError, match="E1: cannot be exported, created_at"):
        sealed(person(created_at="long ago"))


def test_more_than_a_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_file, "MOST_BYTES", 9000)
    with pytest.raises(InputError, match="export in parts"):
        sealed(*(person(f"E{number}", 4) for number in range(20)))
