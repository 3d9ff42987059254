"""What an import would do, and why not: whom a file brings, held against who is here. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np

from kiosk.biometrics import Candidate, Reason, StoredTemplate, SubjectId
from kiosk.decision import DecisionRule
from kiosk.errors import InputError
from kiosk.gallery import Gallery, fuse
from kiosk.gallery_file import Header, PortableConsent, PortablePerson

_SHOWN = 10


class Mode(StrEnum):
    """What becomes of somebody who is here already, with other templates."""

    REFUSE = "refuse"
    MERGE = "merge"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Resident:
    """A subject who is here. ``template_ids``: of all templates, also those that cannot be read, ascending."""

    name: str | None
    consent_reference: str | None
    consent_until: str | None
    template_ids: tuple[int, ...]
    templates: tuple[StoredTemplate, ...]


@dataclass(frozen=True, slots=True)
class Erasure:
    """That somebody was erased here, and when last; ``certain``: the clock is known to have been right."""

    at: str
    certain: bool


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is to be done with one person.

    ``templates``: to be added. ``resident_ids``: the templates that were here when this was planned; None: there was no
    such subject. ``replace``: they go. ``name``, ``consent``: to be written; None: what is here stays.
    """

    id: SubjectId
    created_at: str
    name: str | None
    consent: PortableConsent | None
    templates: tuple[StoredTemplate, ...]
    resident_ids: tuple[int, ...] | None
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """``unchanged``: who is here with all of these templates already."""

    arrivals: tuple[Arrival, ...]
    unchanged: tuple[SubjectId, ...]


def plan_import(people: Sequence[PortablePerson], residents: Mapping[SubjectId, Resident], mode: Mode) -> Plan:
    """
    Raises:
        InputError: somebody is here with other templates, and ``mode`` does not say what then.
    """
    arrivals, unchanged, conflicts = [], [], []
    for person in people:
        resident = residents.get(person.id)
        if resident is None:
            arrivals.append(Arrival(person.id, person.created_at, person.name, person.consent, person.templates, None))
            continue
        missing = _missing(person, resident)
        surplus = mode is Mode.REPLACE and len(person.templates) < len(resident.template_ids)
        if not missing and not (surplus and person.templates):
            unchanged.append(person.id)
        elif mode is Mode.REFUSE:
            conflicts.append(person.id)
        else:
            arrivals.append(_meeting(person, resident, missing, mode))
    if conflicts:
        raise InputError(
            f"{_some(conflicts)} {_are(conflicts)} here already with other templates; nothing was imported: --merge "
            "adds the file's, --replace puts them in the place of those here, --leave-out ID leaves somebody out"
        )
    return Plan(tuple(arrivals), tuple(unchanged))


def check_erased(plan: Plan, header: Header, erasures: Mapping[SubjectId, Erasure]) -> None:
    """Nobody who was erased here comes back by a file from before.

    Who was enrolled after that erasure, or consented on a later day, agreed anew. Where a clock is not known to have
    been right nobody can tell which came first, and it counts as before.

    Raises:
        InputError: naming who would.
    """
    found = [
        arrival.id
        for arrival in plan.arrivals
        if (erasure := erasures.get(arrival.id)) is not None
        and not (header.clock_synchronized and erasure.certain and _agreed_after(arrival, erasure.at))
    ]
    if found:
        last = max(erasures[one].at for one in found)
        raise InputError(
            f"{_some(found)} {'was' if len(found) == 1 else 'were'} erased here (last at {last}), and nothing in the "
            "file shows that they agreed anew since; nothing was imported: --leave-out ID leaves somebody out, "
            "--bring-back imports all the same, once they have agreed"
        )


def check_consents(plan: Plan, residents: Mapping[SubjectId, Resident], today: date, *, needed: bool) -> None:
    """As at enrollment: nobody whose consent has ended; where it is ``needed`` nobody without.

    Raises:
        InputError: naming whose does not hold.
    """
    ended, without = [], []
    for arrival in plan.arrivals:
        if not arrival.templates:
            continue
        reference, until = _consent_after(arrival, residents.get(arrival.id))
        if until is not None and until < today.isoformat():
            ended.append(f"{arrival.id} (on {until})")
        elif needed and reference is None:
            without.append(arrival.id)
    if ended:
        raise InputError(
            f"the consent of {_some(ended)} has ended; nothing was imported: --leave-out ID leaves somebody out, or "
            "renew it where the file comes from (`kiosk subjects consent`) and export again"
        )
    if without:
        raise InputError(
            f"no consent of {_some(without)} is in the file (privacy.require_consent); nothing was imported: "
            "--leave-out ID leaves somebody out, or record it where the file comes from (`kiosk subjects consent`) and "
            "export again"
        )


def check_faces(plan: Plan, here: Gallery, rule: DecisionRule, same_face_score: float) -> None:
    """As at enrollment: a face is not enrolled under two ids, and who gets more templates is the same person.

    ``here``: everybody who is here, by the model of the file; ``rule``: by it a face counts as enrolled there.

    Raises:
        InputError: naming who is who.
    """
    arriving = [arrival for arrival in plan.arrivals if arrival.templates]
    if not arriving or not len(here):
        return
    probes = np.stack([fuse([template.embedding for template in arrival.templates]) for arrival in arriving])
    column = {subject: index for index, subject in enumerate(here.subjects)}
    own = np.array([column.get(arrival.id, -1) for arrival in arriving], np.intp)
    strangers = [
        f"{arrival.id} (score {score:.2f})"
        for arrival, probe, mine in zip(arriving, probes, own.tolist(), strict=True)
        if mine >= 0 and (score := float(here.matrix[mine] @ probe)) < same_face_score
    ]
    if strangers:
        raise InputError(
            f"in the file {_some(strangers)} {_are(strangers)} not the same person as here ({same_face_score:.2f} "
            "needed); nothing was imported: --leave-out ID leaves somebody out, --force imports all the same"
        )
    scores, columns = here.search_many(probes, own)
    doubles = []
    for arrival, row, found in zip(arriving, scores.tolist(), columns.tolist(), strict=True):
        candidates = tuple(
            Candidate(here.subjects[index], score) for score, index in zip(row, found, strict=True) if score > -np.inf
        )
        if candidates and rule.decide(candidates).reason in {Reason.MATCH, Reason.AMBIGUOUS}:
            doubles.append(f"{arrival.id} as {candidates[0].subject_id} (score {candidates[0].score:.2f})")
    if doubles:
        raise InputError(
            f"the face is enrolled here under another id: {_some(doubles)}; nothing was imported: --leave-out ID "
            "leaves somebody out, --force imports all the same"
        )


def leave_out(people: Sequence[PortablePerson], ids: Collection[SubjectId]) -> list[PortablePerson]:
    """
    Raises:
        InputError: there is nobody of that id.
    """
    unknown = sorted(set(ids) - {person.id for person in people})
    if unknown:
        raise InputError(f"nobody in the file is called {_some(unknown)}; nothing was imported")
    return [person for person in people if person.id not in ids]


def _missing(person: PortablePerson, resident: Resident) -> tuple[StoredTemplate, ...]:
    """What the file has and is not here: neither the numbers nor, of the same model, a template of the same photo."""
    models = {template.model_id for template in person.templates}
    here = [template for template in resident.templates if template.model_id in models]
    numbers = {template.embedding.tobytes() for template in here}
    photos = {template.source_sha256 for template in here} - {None}
    return tuple(
        template
        for template in person.templates
        if template.embedding.tobytes() not in numbers and template.source_sha256 not in photos
    )


def _meeting(person: PortablePerson, resident: Resident, missing: tuple[StoredTemplate, ...], mode: Mode) -> Arrival:
    if mode is Mode.REPLACE:
        return Arrival(
            person.id,
            person.created_at,
            person.name,
            person.consent,
            person.templates,
            resident.template_ids,
            replace=True,
        )
    return Arrival(
        person.id,
        person.created_at,
        None if resident.name is not None else person.name,
        None if resident.consent_reference is not None else person.consent,
        missing,
        resident.template_ids,
    )


def _consent_after(arrival: Arrival, resident: Resident | None) -> tuple[str | None, str | None]:
    if arrival.consent is not None:
        return arrival.consent.reference, arrival.consent.until
    return (None, None) if resident is None else (resident.consent_reference, resident.consent_until)


def _agreed_after(arrival: Arrival, at: str) -> bool:
    enrolled = max([arrival.created_at, *(template.created_at for template in arrival.templates)])
    consented = "" if arrival.consent is None else arrival.consent.given_at
    # To the second, and a consent by its day.
    return enrolled[:19] > at[:19] or consented[:10] > at[:10]


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
