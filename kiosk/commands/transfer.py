"""``kiosk subjects export`` and ``import``: a gallery taken from one kiosk to another, as one encrypted file."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiosk import __version__
from kiosk.biometrics import parse_subject_id
from kiosk.clock import SystemClock
from kiosk.commands.options import PATH, common_options, count, json_option, load, print_json, some
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.credentials import warn_if_open
from kiosk.errors import InputError, ModelError, OutputError, PermissionDeniedError, UsageError

if TYPE_CHECKING:
    from kiosk.biometrics import ModelId, SubjectId
    from kiosk.bundle import Bundle
    from kiosk.gallery_file import Header, PortablePerson
    from kiosk.gallery_import import Mode, Plan
    from kiosk.store import Store

_LEAST_PASSWORD = 12
_MOST_PASSWORD_BYTES = 4096

_password_option = click.option(
    "--password-file",
    type=PATH,
    metavar="FILE",
    help="File whose content is the password. Without it the password is asked for at the terminal.",
)


@dataclass(frozen=True, slots=True)
class _Selection:
    """Who is exported, and in words: who is not, or not whole, and why."""

    people: list[PortablePerson]
    left_out: list[str]


@click.command("export")
@click.argument("file", type=PATH)
@click.argument("subject_ids", nargs=-1, metavar="[ID...]")
@_password_option
@json_option
@common_options
def export_command(
    *,
    file: Path,
    subject_ids: tuple[str, ...],
    password_file: Path | None,
    as_json: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Write people and their templates into one encrypted file, for another kiosk.

    Everybody, or those named. In the file: id, name, consent, and the templates of the model in use with their quality,
    their dates and the hash of their photos. No photo, no PIN or badge, no events.

    FILE must not be there yet. `kiosk subjects import` reads it, with the same password and the same model. It is a
    copy that no erasure reaches: delete it when it has been imported.
    """
    from kiosk.gallery_file import Origin, seal_gallery
    from kiosk.pipeline import model_id_of, open_bundle

    config = load(config_path, verbose)
    wanted = [parse_subject_id(one) for one in subject_ids]
    if file.exists():
        raise OutputError(f"{file}: is there already; an export is not written over a file")
    bundle = open_bundle(config)
    model_id = model_id_of(config, bundle)
    with open_store(config) as reader:
        selection = _select(reader, config, model_id, wanted)
    people = selection.people
    password = _read_password(password_file, new=True)
    clock = SystemClock()
    origin = Origin(
        exported_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        clock_synchronized=clock.synchronized(),
        site=config.device.site,
        device=config.device.id,
        kiosk=__version__,
    )
    content = seal_gallery(people, model_id, bundle.manifest.embedding_dim, origin, password)
    details: dict[str, Any] = {
        "people": len(people),
        "templates": sum(len(person.templates) for person in people),
        "model": model_id,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    with open_store(config, writable=True) as store:
        _write(store, file, content, [person.id for person in people], details)
    if as_json:
        print_json({"file": str(file), **details, "bytes": len(content), "left_out": selection.left_out})
        return
    for note in selection.left_out:
        click.echo(f"note: left out: {note}", err=True)
    templates = count(details["templates"], "template")
    click.echo(f"{count(len(people), 'subject')} with {templates} of {model_id} written to {file}")
    click.echo(f"note: no erasure reaches {file}: delete it once it has been imported", err=True)


@click.command("import")
@click.argument("file", type=PATH)
@_password_option
@click.option(
    "--merge", is_flag=True, help="Who is here already gets the file's templates, too; name and consent stay."
)
@click.option(
    "--replace", is_flag=True, help="Who is here already gets the file's templates instead, name and consent."
)
@click.option(
    "--leave-out", "left_out", multiple=True, metavar="ID", help="Do not import this person; once for each of several."
)
@click.option(
    "--force",
    is_flag=True,
    help="Import although a face is enrolled under another id, or is not that of who is here under its id.",
)
@click.option("--bring-back", is_flag=True, help="Import also who was erased here and has agreed anew.")
@json_option
@common_options
def import_command(
    *,
    file: Path,
    password_file: Path | None,
    merge: bool,
    replace: bool,
    left_out: tuple[str, ...],
    force: bool,
    bring_back: bool,
    as_json: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Take in people from a file that `kiosk subjects export` wrote: all of them, or nobody.

    Refused, with the ids, are people who are here already with other templates, faces that are enrolled here under
    another id, people who were erased here, and consents that have ended or that privacy.require_consent misses.
    Templates of another model than the one in use are of no use here and refused, too.

    A running kiosk recognizes the people within a second. PINs and badges are given anew: `kiosk subjects code`.
    """
    from kiosk.gallery_file import open_gallery, read_header
    from kiosk.gallery_import import Mode, leave_out
    from kiosk.pipeline import open_bundle

    if merge and replace:
        raise UsageError("subjects import: --merge and --replace exclude each other")
    mode = Mode.MERGE if merge else Mode.REPLACE if replace else Mode.REFUSE
    without = {parse_subject_id(one) for one in left_out}
    config = load(config_path, verbose)
    content = _read(file)
    header = read_header(str(file), content)
    bundle = open_bundle(config)
    _check_model(config, bundle, header, file)
    header, people = open_gallery(str(file), content, _read_password(password_file, new=False))
    people = leave_out(people, without)
    details: dict[str, Any] = {
        "model": header.model,
        "sha256": hashlib.sha256(content).hexdigest(),
        "exported_at": header.exported_at,
        "from": f"{header.site}/{header.device}",
        "mode": mode.value,
        "force": force,
        "bring_back": bring_back,
    }
    with open_store(config, writable=True) as store:
        plan = _import(
            store, config, bundle, header, people, mode=mode, force=force, bring_back=bring_back, details=details
        )
        fault = store.purge_fault
    _tell_import(plan, file, fault, as_json=as_json)


def _select(store: Store, config: Config, model_id: ModelId, wanted: Sequence[SubjectId]) -> _Selection:
    """
    Raises:
        InputError: somebody who is named cannot be exported, or nobody can.
        KeyFileError: the key of the templates cannot be had.
    """
    today = SystemClock().trusted_date(config.device.timezone)
    lapsed = frozenset() if today is None else store.lapsed(today)
    models = store.subject_models()
    people = {person.id: person for person in store.portable_people(model_id)}
    unknown = [one for one in wanted if one not in people]
    if unknown:
        raise InputError(f"{some(unknown)}: nobody is enrolled under this id; see `kiosk subjects list`")
    chosen, left_out, parts = [], [], []
    for person in (people[one] for one in dict.fromkeys(wanted or people)):
        lost = models.get(person.id, {}).get(model_id, 0) - len(person.templates)
        told = f"{person.id}: {count(lost, 'template')} cannot be read (`kiosk subjects audit`)"
        if person.id in lapsed:
            left_out.append(f"{person.id}: the consent has ended")
        elif models.get(person.id) and not person.templates:
            left_out.append(told if lost else f"{person.id}: has no template of the model in use, {model_id}")
        else:
            chosen.append(person)
            parts += [told] if lost else []
    if left_out and (wanted or not chosen):
        raise InputError(f"nothing was exported: {some(left_out, 3)}")
    if not chosen:
        raise InputError("nobody is enrolled; nothing was exported")
    return _Selection(chosen, left_out + parts)


def _write(store: Store, file: Path, content: bytes, subject_ids: Sequence[SubjectId], details: dict[str, Any]) -> None:
    """Beside its place first, on the disk, and moved there with the row in the audit log: neither without the other."""
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    moved = False
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        try:
            with store.log_export(subject_ids, details):
                unfinished.rename(file)
                moved = True
                _sync_folder(file)
        except BaseException:
            if moved:
                file.unlink(missing_ok=True)
            raise
    except PermissionError as error:
        raise PermissionDeniedError(f"{error.filename or file}: may not be written by this user") from None
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _sync_folder(file: Path) -> None:
    fd = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _import(
    store: Store,
    config: Config,
    bundle: Bundle,
    header: Header,
    people: Sequence[PortablePerson],
    *,
    mode: Mode,
    force: bool,
    bring_back: bool,
    details: dict[str, Any],
) -> Plan:
    """Judge, and take in everybody or nobody.

    Raises:
        InputError: somebody is not to be taken in.
    """
    from kiosk.commands.enroll import site_today
    from kiosk.gallery import Gallery
    from kiosk.gallery_import import check_consents, check_erased, check_faces, plan_import
    from kiosk.pipeline import build_yardstick, model_id_of

    residents, erasures = store.residents(), store.erasures()
    plan = plan_import(people, residents, mode)
    if not bring_back:
        check_erased(plan, header, erasures)
    check_consents(plan, residents, site_today(config), needed=config.privacy.require_consent)
    if not force:
        here = Gallery(
            model_id_of(config, bundle), [row for resident in residents.values() for row in resident.templates]
        )
        yardstick = build_yardstick(config, bundle)
        check_faces(plan, here, yardstick.duplicate_rule(here), yardstick.same_face_score)
    if plan.arrivals:
        counts = {
            "people": len(plan.arrivals),
            "templates": sum(len(arrival.templates) for arrival in plan.arrivals),
        }
        store.import_people(plan.arrivals, details | counts, erasures)
        if any(arrival.replace for arrival in plan.arrivals):
            store.purge()
    return plan


def _check_model(config: Config, bundle: Bundle, header: Header, file: Path) -> None:
    """
    Raises:
        ModelError: the templates are of a model that is not in use; says how to get it.
    """
    from kiosk.bundle import find_bundles
    from kiosk.pipeline import model_id_of, models_folder

    in_use = model_id_of(config, bundle)
    if header.model == in_use and header.embedding_dim == bundle.manifest.embedding_dim:
        return
    base, _, crop = header.model.partition("+")
    name = base.partition("@")[0]
    try:
        installed = next((one for one in find_bundles(models_folder(config)) if one.model_id == base), None)
    except ModelError:
        installed = None
    detector = "haar" if crop else "blazeface"
    steps = []
    if installed is None:
        steps.append(
            f"copy the folder of bundle {name} from the kiosk that exported it (`kiosk model list` there) and "
            "`kiosk model install FOLDER`"
        )
    if installed != bundle:
        steps.append(f"set model.bundle: {name}")
    if config.face.detector != detector:
        steps.append(f"set face.detector: {detector}")
    raise ModelError(
        f"{file}: its templates were made with {header.model}, and this kiosk recognizes with {in_use}, which cannot "
        f"compare them; nothing was imported: {', '.join(steps) or 'install that very bundle'}, then import again"
    )


def _read(file: Path) -> bytes:
    from kiosk.gallery_file import MOST_BYTES

    try:
        with file.open("rb") as source:
            return source.read(MOST_BYTES + 1)
    except PermissionError:
        raise PermissionDeniedError(f"{file}: may not be read by this user") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {(error.strerror or str(error)).lower()}") from error


def _read_password(file: Path | None, *, new: bool) -> str:
    """
    Raises:
        UsageError: there is neither a file nor a terminal, or a new password is too short.
        InputError: the file cannot be read, or holds no password.
    """
    if file is None:
        if not sys.stdin.isatty():
            raise UsageError("say where the password is: --password-file FILE (at a terminal it is asked for)")
        password = click.prompt("Password", hide_input=True, confirmation_prompt=new, err=True)
    else:
        password = _password_in(file)
    if new and len(password) < _LEAST_PASSWORD:
        raise UsageError(
            f"the password needs {_LEAST_PASSWORD} characters or more, for whoever has the file can try as many as they"
            " like: `openssl rand -base64 24` makes one"
        )
    return str(password)


def _password_in(file: Path) -> str:
    try:
        with file.open("rb") as source:
            content = source.read(_MOST_PASSWORD_BYTES + 1)
        warn_if_open(file)
        password = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{file}: holds no password: it is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{file}: the password cannot be read: {(error.strerror or str(error)).lower()}") from error
    if not password or len(content) > _MOST_PASSWORD_BYTES:
        raise InputError(f"{file}: holds no password: 1 to {_MOST_PASSWORD_BYTES} bytes are expected")
    return password


def _tell_import(plan: Plan, file: Path, fault: str | None, *, as_json: bool) -> None:
    arrivals = plan.arrivals
    new = [arrival for arrival in arrivals if arrival.resident_ids is None]
    templates = sum(len(arrival.templates) for arrival in arrivals)
    if fault is not None:
        click.echo(f"note: what was replaced is NOT YET gone from everywhere: {fault}", err=True)
    if as_json:
        print_json(
            {
                "file": str(file),
                "imported": [arrival.id for arrival in arrivals],
                "new": [arrival.id for arrival in new],
                "replaced": [arrival.id for arrival in arrivals if arrival.replace],
                "unchanged": list(plan.unchanged),
                "templates": templates,
            }
        )
        return
    known = f"; {len(plan.unchanged)} were here with all of it already" if plan.unchanged else ""
    if not arrivals:
        click.echo(f"nothing to import{known}")
        return
    click.echo(
        f"{count(len(arrivals), 'subject')} imported with {count(templates, 'template')}, {len(new)} of them new{known}"
    )
    click.echo(f"note: delete {file} if no other kiosk needs it: no erasure reaches it", err=True)
