"""Two people at the controls: what the checks of an enrollment found still holds when it is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from kiosk.biometrics import SubjectId
from kiosk.commands.enroll import Enroller
from kiosk.config import Config
from kiosk.errors import InputError
from kiosk.pipeline import Pipeline, build_pipeline
from kiosk.store import Consent, Store

pytestmark = pytest.mark.stories

X, Y = SubjectId("X"), SubjectId("Y")
CONSENT = Consent("R1", "2026-01-01")


class Overtaken(Store):
    """Between the checks and the commit somebody else does something: the worst moment there is."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def enroll(self, *arguments: Any, **options: Any) -> bool:
        self.meanwhile()
        return super().enroll(*arguments, **options)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return build_pipeline(Config())


@pytest.fixture
def ours(path: Path) -> Iterator[Overtaken]:
    with Overtaken.open(path) as store:
        yield store


@pytest.fixture
def theirs(ours: Overtaken) -> Iterator[Store]:
    with Store.open(ours.path) as store:
        yield store


def test_who_is_erased_meanwhile_does_not_come_back(
    ours: Overtaken, theirs: Store, pipeline: Pipeline, samples: Path
) -> None:
    Enroller(pipeline, ours, force=False, consent=CONSENT).enroll(X, [samples / "obama.jpg"], name="N")
    ours.meanwhile = lambda: theirs.remove_subject(X)
    with pytest.raises(InputError, match="X: removed by somebody else meanwhile; nothing was stored"):
        Enroller(pipeline, ours, force=False).enroll(X, [samples / "obama2.jpg"], name=None)
    assert theirs.subjects() == []
    assert [row.action for row in theirs.audit_rows()][-1] == "remove"


def test_nor_who_is_erased_while_the_photos_are_looked_at(
    ours: Overtaken, theirs: Store, pipeline: Pipeline, samples: Path
) -> None:
    Enroller(pipeline, ours, force=False).enroll(X, [samples / "obama.jpg"], name="N")

    def paths() -> Iterator[Path]:
        theirs.remove_subject(X)
        yield samples / "obama2.jpg"

    with pytest.raises(InputError, match="X: removed by somebody else meanwhile"):
        Enroller(pipeline, ours, force=True, consent=CONSENT, consent_needed_on=date(2026, 1, 2)).enroll(
            X, paths(), name=None
        )
    assert theirs.subjects() == []


def test_two_people_do_not_share_an_id(ours: Overtaken, theirs: Store, pipeline: Pipeline, samples: Path) -> None:
    def meanwhile() -> None:
        Enroller(pipeline, theirs, force=False).enroll(X, [samples / "biden.jpg"], name="Biden")

    ours.meanwhile = meanwhile
    with pytest.raises(InputError, match="X: enrolled by somebody else meanwhile"):
        Enroller(pipeline, ours, force=False).enroll(X, [samples / "obama.jpg"], name="Obama")
    (subject,) = theirs.subjects()
    assert (subject.name, subject.templates) == ("Biden", 1)


def test_nor_does_one_who_is_known_get_anothers_templates(
    ours: Overtaken, theirs: Store, pipeline: Pipeline, samples: Path
) -> None:
    Enroller(pipeline, ours, force=False).enroll(X, [], name="empty so far")

    def meanwhile() -> None:
        Enroller(pipeline, theirs, force=False).enroll(X, [samples / "biden.jpg"], name=None)

    ours.meanwhile = meanwhile
    with pytest.raises(InputError, match="does not look like the same person"):
        Enroller(pipeline, ours, force=False).enroll(X, [samples / "obama.jpg"], name=None)
    assert theirs.subjects()[0].templates == 1


def test_one_face_does_not_get_two_ids(ours: Overtaken, theirs: Store, pipeline: Pipeline, samples: Path) -> None:
    def meanwhile() -> None:
        Enroller(pipeline, theirs, force=False).enroll(Y, [samples / "obama.jpg"], name=None)

    ours.meanwhile = meanwhile
    with pytest.raises(InputError, match="already enrolled as Y"):
        Enroller(pipeline, ours, force=False).enroll(X, [samples / "obama2.jpg"], name=None)
    assert [subject.id for subject in theirs.subjects()] == [Y]


def test_who_does_not_matter_is_not_in_the_way(
    ours: Overtaken, theirs: Store, pipeline: Pipeline, samples: Path
) -> None:
    def meanwhile() -> None:
        Enroller(pipeline, theirs, force=False).enroll(Y, [samples / "biden.jpg"], name=None)

    ours.meanwhile = meanwhile
    Enroller(pipeline, ours, force=False).enroll(X, [samples / "obama.jpg"], name=None)
    assert [subject.id for subject in theirs.subjects()] == [X, Y]
