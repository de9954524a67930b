"""`python -m contractc` is the command `contractc`."""

import sys

from contractc.cli import main

if __name__ == "__main__":
    sys.exit(main())
