"""Faults on purpose: killed processes, cut power, a broken network, a forgetful broker; and what a consumer then has.

Everything here is real: ``kiosk run`` as a process, mosquitto, the SQLite file, ext4. The tests judge from outside, by
what the consumer received and what the file holds. The short form is part of the normal tests. The long form:

    just faults-long
    python -m pytest tests/faults --faults long [--kills N] [--power-cuts N] [--network-minutes M]
                                  [--fault-seed S] [--fault-results FOLDER]

A figure given counts in either form. ``--fault-results`` writes what was measured as one JSON document a test.
"""
