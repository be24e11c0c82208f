"""A procedure on the warm engine against papermill on the same notebook: within a process, as a whole process, cold, and in memory."""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from measure import Row, spread, table

ROUNDS = 7
GOAL = 20
PROCEDURE = ("alert_playbooks", "list_positions")
BIN = Path(sys.executable).parent
NOTEBOOKS = Path(__file__).resolve().parents[1] / "nbs" / "procedures"

IN_PROCESS = """
import json, sys, time
from papermill import execute_notebook
from papermill.engines import papermill_engines
from gpt_trader.runbook.warm import WarmEngine
papermill_engines.register("gpt_trader", WarmEngine)
notebook, workspace, out, engine, rounds = sys.argv[1:]
took = []
for _ in range(int(rounds)):
    start = time.perf_counter()
    execute_notebook(notebook, out, {"workspace": workspace}, engine_name=engine or None, progress_bar=False)
    took.append(time.perf_counter() - start)
    time.sleep(0.5)
print(json.dumps(took))
"""


def seconds(command: list[str], **kw) -> float:
    """Wall time of one whole process; its failure is ours."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kw)
    took = time.perf_counter() - start
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return took


def peak_of_children(command: list[str], env: dict[str, str], roots: list[int]) -> tuple[float, float]:
    """(PSS, USS) in MB: the most that the command and what it made held at once; `roots`: other processes whose children are its."""
    most = (0.0, 0.0)
    known = {c.pid for r in roots for c in psutil.Process(r).children()}
    run = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None:
        pss = uss = 0.0
        try:
            members = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
            members += [c for r in roots for c in psutil.Process(r).children(recursive=True) if c.pid not in known]
            for member in members:
                held = member.memory_full_info()
                pss, uss = pss + held.pss, uss + held.uss
        except psutil.Error:
            continue
        most = (max(most[0], pss / 1e6), max(most[1], uss / 1e6))
        time.sleep(0.02)
    return most


def measure() -> list[Row]:
    """Five rows: in process, whole process, cold, memory of a run, memory of the server."""
    with tempfile.TemporaryDirectory() as folder:
        env = {k: v for k, v in os.environ.items() if k not in ("GPT_TRADER_HOME", "GPT_TRADER_ENGINE")} | {"XDG_RUNTIME_DIR": folder}
        desk, out = Path(folder) / "desk", str(Path(folder) / "out.ipynb")
        seconds([str(BIN / "gpt-trader"), "--engine", "plain", "--workspace", str(desk), "demo"], env=env, cwd=folder)
        notebook = str(NOTEBOOKS.joinpath(*PROCEDURE).with_suffix(".ipynb"))
        ours = [str(BIN / "gpt-trader"), "--workspace", str(desk), PROCEDURE[1].replace("_", "-")]
        theirs = [str(BIN / "papermill"), "--no-progress-bar", "-p", "workspace", str(desk), notebook, out]
        took: dict[str, list[float]] = {"cold": [], "papermill": [], "warm": []}
        for _ in range(ROUNDS):
            took["papermill"].append(seconds(theirs, env=env, cwd=folder))
            with tempfile.TemporaryDirectory() as nobody:  # no server there: what the first run of all finds
                lone = env | {"XDG_RUNTIME_DIR": nobody}
                took["cold"].append(seconds(ours, env=lone, cwd=folder))
                seconds([str(BIN / "gpt-trader"), "engine", "stop"], env=lone)
        seconds([str(BIN / "gpt-trader"), "--workspace", str(desk), "engine", "start"], env=env)
        try:
            for _ in range(3):  # what the first runs came to import, the server has imported by now
                seconds(ours, env=env, cwd=folder)
                time.sleep(3)
            asked = subprocess.run([str(BIN / "gpt-trader"), "engine", "status", "--json"], env=env, capture_output=True, check=True)
            status = json.loads(asked.stdout)
            for _ in range(ROUNDS):
                took["warm"].append(seconds(ours, env=env, cwd=folder))
                time.sleep(1)
            inside = {}
            for engine in ("gpt_trader", ""):
                words = [sys.executable, "-c", IN_PROCESS, notebook, str(desk), out, engine, str(ROUNDS)]
                inside[engine] = json.loads(subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout)
            held = peak_of_children(ours, env, [status["pid"]])
            plain = peak_of_children(theirs, env, [])
            server = psutil.Process(status["pid"]).memory_full_info()
        finally:
            seconds([str(BIN / "gpt-trader"), "engine", "stop"], env=env)

    def form(x: float) -> str:
        return f"{x:.2f} s"

    def faster(what: str, ours: list[float], theirs: list[float], against: str, goal: float) -> Row:
        ratio = statistics.median(theirs) / statistics.median(ours)
        return Row(what, spread(ours, form), f"{against}: {spread(theirs, form)}", f"{ratio:.1f} times faster",
                   f"{goal:g} times faster" if goal > 1 else "not slower", ratio >= goal)

    name = f"`{PROCEDURE[1]}`"
    return [
        faster(f"{name}, notebook executed within a process, warm", inside["gpt_trader"], inside[""], "papermill's own engine", GOAL),
        faster(f"{name}, whole command with report, warm", took["warm"], took["papermill"], "the `papermill` command", GOAL),
        faster(f"{name}, whole command with report, cold", took["cold"], took["papermill"], "the `papermill` command", 1),
        Row(f"{name}, most memory of a run's processes, PSS (USS)", f"{held[0]:.0f} ({held[1]:.0f}) MB",
            f"the `papermill` command: {plain[0]:.0f} ({plain[1]:.0f}) MB", f"{held[0] / plain[0]:.2f}", "below 1", held[0] < plain[0]),
        Row("the fork server itself, idle, PSS (USS)", f"{server.pss / 1e6:.0f} ({server.uss / 1e6:.0f}) MB", "", "", "said", True),
    ]


if __name__ == "__main__":
    print(table(measure()))
