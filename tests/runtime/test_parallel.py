"""Processes of their own sessions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
POOL = """
import os, time
from pathlib import Path
from mcurl.runtime import parallel

parallel.module_command = lambda: ["sleep"]  # in the place of mcurl
os.nice({nice})
with parallel.ProcessPool() as pool:
    pool.start("a", ["60"], print)
    pid = pool._processes["a"].pid
    print(os.getsid(pid) == pid, Path(f"/proc/{{pid}}/autogroup").read_text().split()[-1])
"""


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="needs Linux's autogroups")
@pytest.mark.parametrize("nice", [0, 7])
def test_a_process_is_as_nice_as_its_pool_although_it_has_its_own_session(nice: int) -> None:
    code = POOL.format(nice=nice)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.split() == ["True", str(nice)]
