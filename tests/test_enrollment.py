import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.biometrics import (
    Box,
    Embedding,
    Face,
    Image,
    ModelId,
    Quality,
    Reason,
    SubjectId,
    Template,
    parse_subject_id,
)
from kiosk.decision import DecisionRule
from kiosk.enrollment import (
    EnrolledPhoto,
    check_not_enrolled,
    check_same_person,
    embed_photo,
    find_near_copies,
)
from kiosk.errors import InputError
from kiosk.gallery import Gallery

MODEL = ModelId("m@000001")
ALICE, BOB = np.eye(2, 8, dtype=np.float32)
GOOD = Quality(100, 100, 120, 0)
PIXELS = np.zeros((1, 1, 3), np.uint8)


class Photo:
    """Detector, embedder and gate that see the given faces."""

    model_id = MODEL

    def __init__(self, *boxes: Box, quality: Quality = GOOD) -> None:
        self.boxes, self.quality = boxes, quality

    def detect(self, image: Image) -> list[Face]:  # noqa: ARG002
        return [Face(box, 0.9) for box in self.boxes]

    def assess(self, image: Image, face: Face) -> Quality:  # noqa: ARG002
        return self.quality

    def embed(self, image: Image, face: Face) -> Embedding:  # noqa: ARG002
        return ALICE if face.box.w >= 100 else BOB


def read(photo: Photo) -> EnrolledPhoto:
    return embed_photo("a.jpg", PIXELS, detector=photo, embedder=photo, gate=photo)


@pytest.mark.parametrize("subject_id", ["E1042", "a", "a.b-c_d", "_x", "-a", ".a", "0" * 64])
def test_good_subject_ids(subject_id: str) -> None:
    assert parse_subject_id(subject_id) == subject_id


@pytest.mark.parametrize(
    "subject_id",
    [
        "",
        " ",
        "a b",
        "a/b",
        "../../x",
        ".",
        "..",
        "+",
        "#",
        "$SYS",
        "a\0b",
        "a\n",
        "'; DROP TABLE",
        "x" * 65,
        "x" * 300,
        "홍길동",
        "é",
        "😀",
        "\u202ea",
    ],
)
def test_bad_subject_ids_are_one_line(subject_id: str) -> None:
    with pytest.raises(InputError, match="subject id") as caught:
        parse_subject_id(subject_id)
    assert str(caught.value).isprintable()


@given(st.text())
def test_any_text_is_an_id_or_an_input_error(text: str) -> None:
    try:
        assert parse_subject_id(text) == text
    except InputError as error:  # the other acceptable outcome
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right


def test_one_face_is_embedded() -> None:
    assert np.array_equal(read(Photo(Box(0, 0, 100, 100))).embedding, ALICE)


def test_no_face_and_two_faces_are_refused() -> None:
    with pytest.raises(InputError, match=r"a\.jpg: no face"):
        read(Photo())
    with pytest.raises(InputError, match=r"a\.jpg: 2 faces"):
        read(Photo(Box(0, 0, 100, 100), Box(200, 0, 80, 80)))


def test_a_bystander_far_behind_is_no_second_face() -> None:
    assert np.array_equal(read(Photo(Box(200, 0, 30, 30), Box(0, 0, 100, 100))).embedding, ALICE)


def test_a_photo_below_the_limits_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"^a\.jpg: the face is blurred \(sharpness 5\); hold still"):
        read(Photo(Box(0, 0, 100, 100), quality=Quality(30, 5, 10, 0, Reason.BLURRED)))


def photo(source: str, embedding: Embedding) -> EnrolledPhoto:
    return EnrolledPhoto(source, GOOD, embedding)


def test_photos_of_two_people_are_refused_by_name() -> None:
    photos = [photo("1.jpg", ALICE), photo("2.jpg", ALICE), photo("wrong.jpg", BOB)]
    with pytest.raises(InputError, match=r"wrong\.jpg"):
        check_same_person(photos, [], 0.5)
    check_same_person(photos[:2], [], 0.5)
    check_same_person(photos[:1], [], 0.5)


def test_new_photos_must_agree_with_the_templates_known() -> None:
    with pytest.raises(InputError, match=r"wrong\.jpg"):
        check_same_person([photo("wrong.jpg", BOB)], [ALICE], 0.5)
    check_same_person([photo("1.jpg", ALICE)], [ALICE], 0.5)


def test_the_same_face_under_a_second_id_names_the_first() -> None:
    gallery = Gallery(MODEL, [Template(SubjectId("first"), MODEL, ALICE)])
    rule = DecisionRule(0.6, margin=0.0)
    with pytest.raises(InputError, match="already enrolled as first"):
        check_not_enrolled(SubjectId("second"), [photo("1.jpg", ALICE)], gallery, rule)
    check_not_enrolled(SubjectId("second"), [photo("1.jpg", BOB)], gallery, rule)


def test_a_face_that_two_subjects_share_is_enrolled_already() -> None:
    rule = DecisionRule(0.6, margin=0.1)
    gallery = Gallery(MODEL, [Template(SubjectId(name), MODEL, ALICE) for name in ("first", "twin")])
    with pytest.raises(InputError, match="already enrolled as"):
        check_not_enrolled(SubjectId("third"), [photo("1.jpg", ALICE)], gallery, rule)


def at_score(score: float) -> Embedding:
    """An embedding that has this score with Alice's."""
    return (score * ALICE + np.sqrt(1 - score**2) * BOB).astype(np.float32)


def test_photos_that_show_nearly_the_same_are_noted_by_number_and_name() -> None:
    photos = [photo("1.jpg", BOB), photo("2.jpg", ALICE), photo("3.jpg", at_score(0.95))]
    (note,) = find_near_copies(photos, 0.92)
    assert note.startswith("photos 2 and 3 are nearly the same picture (2.jpg, 3.jpg); add one from another angle")
    assert find_near_copies(photos, 0.96) == []
    assert find_near_copies(photos[:1], 0.92) == []
    assert find_near_copies([], 0.92) == []


def test_a_burst_is_one_note_and_two_bursts_are_two() -> None:
    burst = [photo(f"{i}.jpg", at_score(1 - i / 100)) for i in range(3)]
    other = [photo("x.jpg", BOB), photo("y.jpg", BOB)]
    first, second = find_near_copies([*burst, *other], 0.9)
    assert first.startswith("photos 1, 2 and 3 ")
    assert second.startswith("photos 4 and 5 ")
