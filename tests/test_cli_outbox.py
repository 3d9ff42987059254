"""``kiosk outbox``: what waits, and another try."""

from __future__ import annotations

import json

import pytest
from command_line import Kiosk
from runner import assert_one_line_error
from test_cli_events import NOON, _record

from kiosk.biometrics import SubjectId
from kiosk.store import Store


@pytest.fixture
def waiting(kiosk: Kiosk) -> Kiosk:
    """Four events: the first was sent, the second and third are set aside, the fourth waits."""
    with Store.open(kiosk.store) as store:
        store.enroll(SubjectId("a"), [])
        for _ in range(4):
            _record(store, "a", NOON)
        store.mark_sent([1])
        store.mark_failed(2, "larger than the 700 bytes the broker takes", park=True)
        store.mark_failed(3, "broke the connection", park=True)
    return kiosk


def test_list(waiting: Kiosk) -> None:
    lines = waiting("outbox", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["seq", "2", "3", "4", "1"]
    assert "parked" in lines[1]
    assert "larger than the 700 bytes" in lines[1]
    assert lines[-1] == "1 pending, 2 parked, 1 sent"
    document = json.loads(waiting("outbox", "list", "--json").stdout)
    assert [(event["seq"], event["state"]) for event in document["events"]] == [
        (2, "parked"),
        (3, "parked"),
        (4, "pending"),
    ]
    assert document["counts"] == {"pending": 1, "parked": 2, "sent": 1, "kept_from_seq": 1, "last_seq": 4}


def test_retry_of_one_and_of_all(waiting: Kiosk) -> None:
    assert json.loads(waiting("outbox", "retry", "3", "--json").stdout) == {"retried": [3]}
    assert waiting("outbox", "retry").stdout == "1 event back in the queue\n"
    assert waiting("outbox", "list").stdout.splitlines()[-1] == "3 pending, 0 parked, 1 sent"


def test_what_is_not_parked_cannot_be_retried(waiting: Kiosk) -> None:
    result = waiting("outbox", "retry", "2", "4")
    assert result.returncode == 65
    assert "event 4 is not parked" in assert_one_line_error(result.stderr)
    assert waiting("outbox", "list").stdout.splitlines()[-1] == "1 pending, 2 parked, 1 sent"


@pytest.mark.parametrize("command", ["list", "retry"])
def test_without_a_store(kiosk: Kiosk, command: str) -> None:
    if command == "list":
        result = kiosk("outbox", command)
        assert result.returncode == 69
        assert_one_line_error(result.stderr)
    else:
        assert kiosk("outbox", command).stdout == "0 events back in the queue\n"
