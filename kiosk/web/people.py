"""Who is enrolled: list, details, another name, erasure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request

from kiosk.biometrics import ModelId
from kiosk.bundle import Bundle
from kiosk.commands.erasure import describe_receipt
from kiosk.commands.gallery_audit import audit_document, look
from kiosk.commands.stores import open_store
from kiosk.commands.subjects import find_subject, full_document, lapsed_subjects, subject_documents
from kiosk.config import Config
from kiosk.errors import InputError, ModelError
from kiosk.pipeline import model_id_of, open_bundle
from kiosk.web.exports import ONE_AT_A_TIME
from kiosk.web.requests import Wish, beside, read_wish

_MAX_SHOWN = 500


class _Rename(Wish):
    name: str


class _Removal(Wish):
    confirmed: str
    """The id once more, typed by whoever erases."""


class People:
    def __init__(self, config: Config) -> None:
        self._config = config

    async def search(self, request: Request) -> object:
        """Everybody, or whose id or name holds ``search``; at most 500, ``total`` says of how many."""
        return await beside(self._search, request.query_params.get("search", ""))

    async def audit(self, _: Request) -> object:
        """What is wrong with the gallery, and what to do about it."""
        async with ONE_AT_A_TIME:
            return await beside(self._audit)

    async def show(self, request: Request) -> object:
        return await beside(self._show, request.path_params["subject_id"])

    async def rename(self, request: Request) -> object:
        wish = await read_wish(request, _Rename)
        return await beside(self._rename, request.path_params["subject_id"], wish.name)

    async def remove(self, request: Request) -> object:
        wish = await read_wish(request, _Removal)
        return await beside(self._remove, request.path_params["subject_id"], wish.confirmed)

    def _search(self, search: str) -> dict[str, Any]:
        wanted = search.strip().casefold()
        with open_store(self._config) as store:
            documents, presences = subject_documents(store, self._config, self._model_in_use()), store.presences()
        found = [
            {**document, "last_at": getattr(presences.get(document["subject_id"]), "last_at", None)}
            for document in documents
            if wanted in document["subject_id"].casefold() or wanted in (document["name"] or "").casefold()
        ]
        return {"subjects": found[:_MAX_SHOWN], "found": len(found), "total": len(documents)}

    def _audit(self) -> dict[str, Any]:
        with open_store(self._config) as store:
            return audit_document(look(self._config, store))

    def _show(self, subject_id: str) -> dict[str, Any]:
        with open_store(self._config) as store:
            return full_document(
                store, find_subject(store, subject_id), self._model_in_use(), lapsed_subjects(store, self._config)
            )

    def _rename(self, subject_id: str, name: str) -> dict[str, Any]:
        if not name.strip():
            raise InputError("a name needs at least one character")
        with open_store(self._config, writable=True) as store:
            store.rename_subject(find_subject(store, subject_id).id, name.strip())
        return self._show(subject_id)

    def _remove(self, subject_id: str, confirmed: str) -> dict[str, Any]:
        if confirmed.strip() != subject_id:
            raise InputError(f"type the id to confirm: {subject_id}")
        with open_store(self._config, writable=True) as store:
            receipt, fault = store.remove_subject(find_subject(store, subject_id).id), store.purge_fault
        return {**asdict(receipt), "text": describe_receipt(receipt, fault)}

    def _model_in_use(self) -> ModelId | None:
        try:
            bundle: Bundle = open_bundle(self._config)
            return model_id_of(self._config, bundle)
        except ModelError:
            return None
