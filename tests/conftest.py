"""What all tests and the processes that they start have in common."""

from __future__ import annotations

import signal

from mcurl.cli import wait_calmly

# Before PyTorch is imported: threads that wait for each other sleep soon, as in the commands, or the tests beside another busy process take for ever.
wait_calmly()
# Under nohup it is ignored, and would be by the commands whose answer to it is tested.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
