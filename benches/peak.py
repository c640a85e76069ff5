"""Runs a command and says how long it took and how much memory it had at most; shared by the scripts in this folder."""

import subprocess
import tempfile
import time
from pathlib import Path


def high_water_mb(pid: int) -> float:
    """Peak RSS so far. (`ru_maxrss` would count this script's own memory, inherited over the fork.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def run(command: list, **options) -> tuple[float, float]:
    """Seconds and peak MB of `command`, which must succeed."""
    with tempfile.TemporaryFile() as stderr:
        start = time.monotonic()
        process = subprocess.Popen(command, **{"stderr": stderr} | options)
        peak_mb = 0
        while process.poll() is None:
            peak_mb = max(peak_mb, high_water_mb(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - start
        if process.returncode != 0:
            stderr.seek(0)
            said = stderr.read().decode(errors="replace")
            raise SystemExit(f"{command} ended with status {process.returncode}:\n{said}")
        return seconds, peak_mb
