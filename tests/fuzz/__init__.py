"""Bad input at scale: mutated files, made-up texts, hostile peers, against the kiosk's own code.

Each surface (`surfaces.py`) is a way for foreign bytes into the kiosk. A worker process (`worker.py`) feeds it inputs
that follow from a seed; its parent (`harness.py`) notices when it dies or hangs. The short form is part of the normal
tests (`test_fuzz.py`); the long one is `benchmarks/fuzz.py`; `guided.py` lets coverage lead.
"""
