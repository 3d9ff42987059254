from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.errors import StoreError
from kiosk.packing import pack, unpack

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1, 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FRAME = {
    "offset_s": 0.1,
    "weight": 0.3331,
    "candidates": [{"subject_id": "E1042", "score": 0.8121}, {"subject_id": "E7", "score": 0.3007}],
    "quality": {"size_px": 131.2, "sharpness": 77.1, "brightness": 121.9, "yaw": 0.013, "failure": None},
}
# Packed by the first version of the form: whatever else changes, this must stay readable.
FIRST = (
    "3178f9f3d44f17c39a590c6bb1441d3e3b8c8d0d09458481094a585b181a19624687394a74181898e38c116343505821c588"
    "b939468c1819ea59426304189686c66831525b1b5b0b0036d34fda"
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_what_is_packed_comes_back(document: dict[str, Any]) -> None:
    assert unpack(pack(document)) == document


def test_it_is_a_quarter_of_the_size_or_less() -> None:
    document = {"match": {"score": 0.8, "threshold": 0.6}, "frame_evidence": [FRAME] * 3}
    assert len(pack(document)) < len(json.dumps(document)) / 4


def test_the_form_stays_readable() -> None:
    assert unpack(bytes.fromhex(FIRST)) == {"match": {"score": 0.81}, "frame_evidence": [FRAME]}


def test_no_single_flipped_bit_goes_unnoticed() -> None:
    packed = pack({"match": {"score": 0.81}, "frame_evidence": [FRAME]})
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            document = unpack(bytes(damaged))
        except StoreError:
            continue
        # A few bits of the stream mean nothing.
        assert document == unpack(packed)


@pytest.mark.parametrize("change", ["flip", "cut", "more", "form", "empty"])
def test_damage_is_told(change: str) -> None:
    packed = bytearray(pack({"frame_evidence": [FRAME, FRAME]}))
    match change:
        case "flip":
            packed[1] ^= 0x07
        case "cut":
            del packed[-3:]
        case "more":
            packed += b"x"
        case "form":
            packed[0] = ord("2")
        case "empty":
            packed.clear()
    with pytest.raises(StoreError, match="damaged"):
        unpack(bytes(packed))


@pytest.mark.parametrize("document", [[1], "text", None])
def test_only_documents_are_evidence(document: Any) -> None:
    with pytest.raises(StoreError, match="damaged"):
        unpack(pack(document))


def test_a_bomb_does_not_unfold() -> None:
    packed = pack({"a": "b" * (64 << 20)})
    assert len(packed) < 100_000
    with pytest.raises(StoreError, match="damaged"):
        unpack(packed)
