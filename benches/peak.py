"""Runs a command and says how long it took and how much memory it had at most; shared by the scripts in this folder."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# nightcap finds the ONNX Runtime of this Python's environment, also where that was not activated
os.environ.setdefault("VIRTUAL_ENV", sys.prefix)

# Seconds between looks at a family of processes; one look takes some 10 ms for each GB.
FAMILY_EVERY = 2


def high_water_mb(pid: int) -> float:
    """Peak RSS so far. (`ru_maxrss` would count this script's own memory, inherited over the fork.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def descendants(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []
    return children + [each for child in children for each in descendants(child)]


def shared_out_mb(pid: int) -> float:
    """Memory now, of which pages that n processes have count as the n-th part: sums of it count each page once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def run(command: list, family: bool = False, **options) -> tuple[float, float]:
    """Seconds and peak MB of `command`, which must succeed; with `family` the processes that it starts count too."""
    with tempfile.TemporaryFile() as stderr:
        start = time.monotonic()
        process = subprocess.Popen(command, **{"stderr": stderr} | options)
        peak_mb, look = 0, start
        while process.poll() is None:
            peak_mb = max(peak_mb, high_water_mb(process.pid))
            if family and time.monotonic() >= look:
                members = descendants(process.pid)
                if members:
                    peak_mb = max(peak_mb, sum(map(shared_out_mb, [process.pid, *members])))
                    look = time.monotonic() + FAMILY_EVERY
            time.sleep(0.02)
        seconds = time.monotonic() - start
        if process.returncode != 0:
            stderr.seek(0)
            said = stderr.read().decode(errors="replace")
            raise SystemExit(f"{command} ended with status {process.returncode}:\n{said}")
        return seconds, peak_mb
