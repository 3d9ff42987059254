"""``kiosk privacy rekey``: another key for the templates, another secret for the key file."""

from __future__ import annotations

from pathlib import Path

import click

from kiosk.commands.options import PATH, common_options, count, load
from kiosk.commands.stores import open_store
from kiosk.errors import InputError, StoreError, UsageError


@click.command("rekey")
@click.option(
    "--master", type=PATH, metavar="FILE", help="Seal the key file with this secret instead: 32 random bytes or more."
)
@click.option("--unsealed", is_flag=True, help="Seal it with nothing: who has the whole card can then use it.")
@common_options
def rekey(*, master: Path | None, unsealed: bool, config_path: Path | None, verbose: int) -> None:
    """Encrypt all templates with a new key, as an erasure does; seal the key file with another secret.

    All backups are replaced by a fresh one. Copies of the key file and of the store that were made elsewhere before go
    together, and with nothing newer.

    The secret that the key file is sealed with now is needed. Afterwards give the new one to everybody: set
    store.master_key_file, or replace the credential store-key and restart the kiosk.
    """
    if master is not None and unsealed:
        raise UsageError("privacy rekey: --master or --unsealed, not both")
    config = load(config_path, verbose)
    with open_store(config, writable=True) as store:
        before = store.keys.master_file
        if store.key_ring() is None:
            raise InputError(f"{store.keys.path}: there is no key yet; it is made with the first template")
        after = None if unsealed else before if master is None else master.absolute()
        complete = store.rekey(after)
        templates = sum(store.template_models().values())
        path, fault = store.keys.path, store.purge_fault
    sealed = "not sealed" if after is None else f"sealed with {after}"
    click.echo(f"{count(templates, 'template')} with a new key; {path} is {sealed}")
    if after != before:
        click.echo(f"note: {_what_to_set(before, after)}", err=True)
    click.echo(f"note: copy {path} again if you keep a copy", err=True)
    if not complete:
        raise StoreError(f"the old key is NOT YET gone from everywhere: {fault} (a running kiosk sees to the rest)")


def _what_to_set(before: Path | None, after: Path | None) -> str:
    if after is not None:
        return (
            f"from now on {after} opens the key file: set store.master_key_file to it, or replace the credential "
            "store-key, and restart the kiosk"
        )
    return f"take {before} out of store.master_key_file or of the credentials, or the next start seals it again"
