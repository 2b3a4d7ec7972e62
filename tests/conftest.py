"""Before PyTorch is imported: threads that wait for each other sleep soon, as in the commands, or the tests beside another busy process take for ever."""

from __future__ import annotations

from mcurl.cli import wait_calmly

wait_calmly()
