"""Processes of their own sessions."""

from __future__ import annotations

import os
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
    for key in "abc":
        pool.start(key, ["60"], print)
    levels = [""]
    for _ in range(100):
        levels = [Path(f"/proc/{{each.pid}}/autogroup").read_text().split()[-1] for each in pool._processes.values()]
        if set(levels) == {{"{expected}"}}:
            break
        time.sleep(0.1)
    print(all(os.getsid(each.pid) == each.pid for each in pool._processes.values()), *levels)
"""


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="needs Linux's autogroups")
@pytest.mark.parametrize("nice", [0, 7])
def test_a_process_is_as_nice_as_its_pool_although_it_has_its_own_session(nice: int) -> None:
    expected = str(min(os.nice(0) + nice, 19))
    code = POOL.format(nice=nice, expected=expected)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.split() == ["True", *[expected] * 3]
