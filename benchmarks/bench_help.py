"""How long `gpt-trader --help` takes, against an interpreter that imports papermill, each in a new process, in turn."""
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import Row, spread, table

ROUNDS = 15
COMMANDS = {
    "help": [str(Path(sys.executable).with_name("gpt-trader")), "--help"],
    "papermill": [sys.executable, "-c", "import papermill"],
    "nothing": [sys.executable, "-c", "pass"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure() -> list[Row]:
    """One row: the help against papermill."""
    for command in COMMANDS.values():  # once unmeasured, so that compiled files and the disk's cache are there for all
        seconds(command)
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            took[name].append(seconds(command))
    ratios = [a / b for a, b in zip(took["help"], took["papermill"], strict=True)]

    def form(x: float) -> str:
        return f"{x:.2f} s"

    bare = statistics.median(took["nothing"])
    return [Row(f"`gpt-trader --help`, wall time ({ROUNDS} rounds; an empty interpreter: {bare:.2f} s)", spread(took["help"], form),
                f"`import papermill`: {spread(took['papermill'], form)}", spread(ratios, lambda x: f"{x:.2f}"), "below 0.5",
                statistics.median(ratios) < 0.5)]


if __name__ == "__main__":
    print(table(measure()))
