#!/opt/kiosk/venv/bin/python3
"""/usr/bin/kiosk."""

from kiosk.cli import main

main()
