"""Coverage leads: ``python -m fuzz.guided SURFACE FOLDER -runs=20000 -seed=1`` (Atheris, on libFuzzer).

For the surfaces whose reading is done in Python; the branches of the kiosk's own modules are what is covered. The first
input that shows a defect ends the run: exit code 77, and the input lies in ``FOLDER/crash-*``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

from fuzz.surfaces import SURFACES

GUIDED = ("config", "manifest", "replay", "evidence", "photo")


def main(arguments: list[str]) -> None:
    name, folder, *options = arguments
    home, corpus = Path(folder), Path(folder) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    # The kiosk's modules are imported where they are first used: here.
    with atheris.instrument_imports(include=["kiosk"], enable_loader_override=False):
        surface = SURFACES[name](home)
        seeds = surface.seeds()
        for data in seeds:
            surface.check(data)
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    limits = ["-timeout=2", "-rss_limit_mb=1024", "-max_len=65536", f"-artifact_prefix={home}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *options], surface.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
