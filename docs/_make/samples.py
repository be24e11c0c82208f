"""Each procedure once, in the demo's desk, so that its page shows what it really prints."""
from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import nbformat
import notebooks
from source import NBS, ROOT

# What a procedure needs to have something to show; parameters that have defaults keep them.
GIVEN: dict[str, dict[str, str]] = {
    "send_alert": {"priority": "low", "message": "A trial of the way to people"},
    "restore_backup": {"date": "2013-03-01"},
    "list_positions": {"sort_by": "risk"},
    "health_check": {"full": "true"},
}
RUN = """
import json, sys
from gpt_trader.core.workspace import Workspace
from gpt_trader.ops.backup import create_backup
from gpt_trader.runbook.engine import run_procedure
root, given, out = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
with Workspace.open(root) as ws:
    create_backup(ws)
for name in out:
    with Workspace.open(root) as ws:
        try:
            run = run_procedure(ws, name, given.get(name, {}), text=True)
            print(json.dumps({"name": name, "notebook": str(run.notebook), "exit_code": run.exit_code}), flush=True)
        except Exception as error:
            print(json.dumps({"name": name, "error": str(error)}), flush=True)
"""


def _names() -> list[str]:
    import pages

    return [e.name for e in pages.entries()]


def _key() -> str:
    from gpt_trader.cli import demo

    text = Path(demo.__file__).read_text(encoding="utf-8") + "\nfrom gpt_trader.runbook import engine, playbook, responder\n"
    modules = notebooks.rests_on(text.replace("from ..", "from gpt_trader."))
    paths = {m.name: m.path for m in notebooks.source.modules()}
    parts = [notebooks._surroundings(), json.dumps(GIVEN), RUN, text, *(f"{n} {notebooks._digest(paths[n])}" for n in modules),
             *(f"{p.relative_to(NBS)} {notebooks._digest(p)}" for folder in ("procedures", "playbooks", "reports")
               for p in sorted((NBS / folder).rglob("*.ipynb")))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _command(name: str) -> str:
    words = ["gpt-trader", name.replace("_", "-")]
    for key, value in GIVEN.get(name, {}).items():
        flag = "--" + key.replace("_", "-")
        words += [flag] if value == "true" else [flag, f'"{value}"' if " " in value else value]
    return " ".join(words)


def _read(folder: Path) -> dict[str, Any]:
    return {p.stem: {"notebook": nbformat.read(p, as_version=4), "command": _command(p.stem)} for p in sorted(folder.glob("*.ipynb"))}


def cached(cache: Path) -> dict[str, Any]:
    """The samples that match, else the newest ones there are."""
    folders = sorted(cache.glob("procedures-*"), key=lambda p: p.stat().st_mtime)
    exact = cache / f"procedures-{_key()}"
    return _read(exact) if exact.is_dir() else _read(folders[-1]) if folders else {}


def executed(cache: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Every procedure's executed notebook. One that cannot run there has none, and that is said."""
    folder = cache / f"procedures-{_key()}"
    if folder.is_dir():
        return _read(folder)
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="tmp") as home:
        desk = Path(home) / "desk"
        desk.mkdir()
        environment = notebooks.environment(Path(home))
        subprocess.run([sys.executable, "-c", "from gpt_trader.cli.main import main; main()", "--workspace", str(desk), "demo"],
                       cwd=home, env=environment, check=False, capture_output=True, text=True)
        say(f"  the demo's desk, {perf_counter() - started:.1f} s")
        done = subprocess.run([sys.executable, "-c", RUN, str(desk), json.dumps(GIVEN), json.dumps(_names())], cwd=home, env=environment,
                              check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the procedures could not be run in the demo's desk:\n{done.stderr[-4000:]}")
        part = Path(home) / "made"
        part.mkdir()
        for line in done.stdout.splitlines():
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("exit_code", 99) <= 3:
                ran = nbformat.read(told["notebook"], as_version=4)
                text = nbformat.writes(ran).replace(str(desk), "/srv/desk").replace(str(ROOT), "gpt_trader")
                (part / f"{told['name']}.ipynb").write_text(text, encoding="utf-8")
            elif told:
                say(f"  {told['name']} shows no outputs: {told.get('error', 'exit code ' + str(told.get('exit_code')))}")
        for old in cache.glob("procedures-*"):
            shutil.rmtree(old)
        shutil.copytree(part, folder)
    say(f"  executed the procedures in {perf_counter() - started:.1f} s")
    return _read(folder)
