"""Numbers in an address."""

from __future__ import annotations

import re

from starlette.requests import Request

from kiosk.errors import UsageError
from kiosk.web.requests import query


def number(request: Request, name: str, meaning: str) -> int | None:
    """A parameter that is a whole number of up to 18 digits; an empty one counts as none.

    Raises:
        UsageError: it is none.
    """
    text = query(request, name)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise UsageError(f"{name}: {meaning}")
    return int(text)
