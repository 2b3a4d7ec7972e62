"""Run the command line: ``python -m mcurl``."""

import contextlib
import os
import sys

if __name__ == "__main__":
    # Python searches the current folder first, where files of a stranger may have the names of installed modules.
    # The command line adds it again for modules that the user names.
    with contextlib.suppress(OSError):
        if not sys.flags.safe_path and sys.path[0] == os.getcwd():
            del sys.path[0]
    from mcurl.cli import main

    sys.exit(main())
