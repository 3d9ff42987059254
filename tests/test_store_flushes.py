"""What is flushed to the disk before a call returns, as the system saw it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = r"""
import os, sys
sys.path[:0] = sys.argv[2:]
from test_store import ANA, check_in
from kiosk.store import Store
with Store.open(sys.argv[1]) as store:
    store.enroll(ANA, [])
    for number in range(20):
        os.write(2, b"commit\n")
        seq = check_in(store).seq
        os.write(2, b"mark\n")
        store.mark_sent([seq])
        store.mark_failed(seq, "refused")
    os.write(2, b"end\n")
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_check_ins_are_flushed_and_marks_wait_for_them(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    command = ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-o", str(log), sys.executable, "-c", _PROGRAM]
    subprocess.run([*command, str(tmp_path / "kiosk.db"), *sys.path], check=True, capture_output=True)
    text = log.read_text(errors="replace")
    commits = re.findall(r'"commit\\n".*?(?="mark\\n")', text, flags=re.DOTALL)
    marks = re.findall(r'"mark\\n".*?(?="commit\\n"|"end\\n")', text, flags=re.DOTALL)
    assert (len(commits), len(marks)) == (20, 20)
    assert all("sync(" in commit for commit in commits)
    assert sum(mark.count("sync(") for mark in marks) == 0
