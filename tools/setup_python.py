"""Create .venv, or say which Python is missing; any Python from 3.6 on can say so."""

import os
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)

version = sys.version_info[:2]
if not OLDEST <= version <= NEWEST:
    sys.exit(
        f"contractc needs Python 3.11, 3.12 or 3.13, but {sys.executable} is {version[0]}.{version[1]}.\n"
        "Name another one, for example: make PYTHON=python3.12 test"
    )
if not os.path.exists(".venv/bin/pip"):
    print(f"creating .venv with Python {version[0]}.{version[1]}", flush=True)
    sys.exit(subprocess.call([sys.executable, "-m", "venv", ".venv"]))
