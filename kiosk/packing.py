"""Evidence as it lies in the store: compressed JSON, a quarter of its size. A card wears by every byte written.

One byte tells the form, so that another one can come: ``1``, then a zlib stream (RFC 1950: its checksum tells damage)
of compact UTF-8 JSON that starts from a dictionary of what every document has.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from kiosk.errors import StoreError
from kiosk.events import encode

_MAX_BYTES = 1 << 20
"""Of a document: thirty frames with a dozen candidates each take a hundredth of it."""
_DEFLATED = b"1"
# Part of the form: to change a letter of it is to lose every document packed before. Most frequent last.
_DICTIONARY = (
    b'"failure":"too_small""reason":"unknown","decision":"unknown","reason":"ambiguous","decision":"rejected",'
    b'"margin":null,"quality":null,"frame_evidence":[],"candidates":[],"pad":{"checked":true,"passed":true,"score":0.9'
    b'{"match":{"score":0.8,"threshold":0.6,"margin":0.2,"frames":3,"gallery_size":50,"model":"facenet512-int8@'
    b'"dlib-resnet29-int8@"},"decision":"identified","reason":"match","margin_needed":0.05,"threshold_source":'
    b'"threshold 0.6 and 0.5 of the mean score of the next 5 (FPIR 0.001 with 50 subjects of 1 to 3 templates)",'
    b'"candidates":[{"subject_id":"E1","score":0.8},{"subject_id":"E2","score":0.4}],"frame_evidence":['
    b'],"pad":{"checked":false,"passed":null,"score":null}}'
    b'{"offset_s":0.0,"weight":0.3,"candidates":[{"subject_id":"E1","score":0.7},{"subject_id":"E2","score":0.3}],'
    b'"quality":{"size_px":120.5,"sharpness":60.1,"brightness":130.2,"yaw":-0.05,"failure":null,"eye_distance_px":50.3,'
    b'"contrast":40.2,"clipped":0.001,"pitch":0.12,"detector_score":0.95}},{"offset_s":0.1,"weight":0.3,'
    b'"candidates":[{"subject_id":"'
)


def pack(document: dict[str, Any]) -> bytes:
    """A JSON document as the store keeps it."""
    packer = zlib.compressobj(level=9, zdict=_DICTIONARY)
    return _DEFLATED + packer.compress(encode(document)) + packer.flush()


def unpack(packed: bytes) -> dict[str, Any]:
    """The way back.

    Raises:
        StoreError: it is damaged, or packed by another version.
    """
    try:
        document = json.loads(unpack_text(packed))
    except (ValueError, RecursionError):
        raise _damaged() from None
    if not isinstance(document, dict):
        raise _damaged()
    return document


def unpack_text(packed: bytes) -> str:
    """The packed JSON itself; see :func:`unpack`."""
    unpacker = zlib.decompressobj(zdict=_DICTIONARY)
    try:
        # A kilobyte may unfold to a megabyte, and whoever writes the file writes what they like.
        text = unpacker.decompress(packed[1:], _MAX_BYTES)
        if packed[:1] == _DEFLATED and unpacker.eof and not unpacker.unused_data:
            return text.decode()
    except (zlib.error, UnicodeDecodeError):
        pass
    raise _damaged()


def _damaged() -> StoreError:
    return StoreError("the evidence of an event is damaged, or of another version; see `kiosk check`")
