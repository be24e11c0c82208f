"""Wall time and peak memory of the whole demo, children included, in an empty home and an empty workspace."""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from measure import Row, table

MOST_SECONDS, MOST_GIB = 60, 2
EVERY = 0.05  # seconds between two looks at the memory


def resident(process: psutil.Process) -> int:
    """Bytes that the process and all its descendants hold now; pages that they share count for each, so this is an upper bound."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def measure() -> list[Row]:
    """Two rows: time and memory of one demo."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        environment = {k: v for k, v in os.environ.items() if k not in ("GPT_TRADER_HOME", "XDG_CONFIG_HOME")} | {"HOME": str(home)}
        command = [str(Path(sys.executable).with_name("gpt-trader")), "--workspace", str(Path(folder) / "desk"), "demo"]
        start, peak = time.perf_counter(), 0
        with (Path(folder) / "printed").open("w+") as printed:
            demo = subprocess.Popen(command, env=environment, cwd=folder, stdout=printed, stderr=subprocess.STDOUT)
            watched = psutil.Process(demo.pid)
            while demo.poll() is None:
                try:
                    peak = max(peak, resident(watched))
                except psutil.NoSuchProcess:
                    break
                time.sleep(EVERY)
            code, took = demo.wait(), time.perf_counter() - start
            printed.seek(0)
            if code:
                raise SystemExit(f"the demo ended with {code}:\n{printed.read()[-4000:]}")
    gib = peak / 2**30
    return [
        Row("`gpt-trader demo`, wall time", f"{took:.1f} s", f"{MOST_SECONDS} s", f"{took / MOST_SECONDS:.2f}", "below 1",
            took < MOST_SECONDS),
        Row("`gpt-trader demo`, peak memory of all processes", f"{gib:.2f} GiB", f"{MOST_GIB} GiB", f"{gib / MOST_GIB:.2f}",
            "below 1", gib < MOST_GIB),
    ]


if __name__ == "__main__":
    print(table(measure()))
