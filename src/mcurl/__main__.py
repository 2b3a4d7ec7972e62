"""Run the command line: ``python -m mcurl``."""

import sys

from mcurl.cli import main

if __name__ == "__main__":
    sys.exit(main())
