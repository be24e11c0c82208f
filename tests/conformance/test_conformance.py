"""The same notebook, plain papermill on a fresh kernel and the warm engine on a forked one: equal outputs, or an explained difference.

Before comparing, what differs between any two runs is taken out: times, process ids, addresses, folders. What then still differs must
stand in `DIFFERENCES`, with the reason and with what is compared instead.
"""
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance_cases import CASES, Case

SPREAD = True  # conftest: each case may go to another worker
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def unrepeated(told: Any) -> Any:
    """What is compared instead: the same, each frame of a traceback once."""
    def once(output: dict[str, Any]) -> dict[str, Any]:
        frames = str(output.get("traceback", "")).split("Cell")
        return output | {"traceback": [f for i, f in enumerate(frames) if f not in frames[:i]]}

    return told | {"cells": [cell | {"outputs": [once(o) for o in cell["outputs"]]} for cell in told["cells"]]}


def uncounted(told: Any) -> Any:
    """What is compared instead: the same without the cells' execution counts."""
    return told | {"cells": [cell | {"count": None} for cell in told["cells"]]}


# case -> (why the two may differ, what is compared instead). A difference that depends on timing need not show in each run.
DIFFERENCES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "deep_recursion": ("a forked kernel's main loop lies nine frames deeper, which a notebook that sets its own limit can tell",
                       unrepeated),
    "kernel_kills_itself": ("what a process says in the moment in which it is killed (here: that it took up the cell) may be lost with it",
                            uncounted),
    "kernel_segfaults": ("the same", uncounted),
    "kernel_exits_at_once": ("the same", uncounted),
    "shown_warnings": ("the filters that libraries add on import are there beforehand, for those that the fork server has imported; "
                       "which warnings are shown is the same", lambda told: told | {"cells": told["cells"][:2]}),
}


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """A fork server of this process's own, in a private folder; without one this test would compare a kernel with itself."""
    from gpt_trader.runbook import rendezvous

    if not rendezvous.supported():
        pytest.skip("there is no fork server on this system")
    with tempfile.TemporaryDirectory(prefix="gt-") as folder, pytest.MonkeyPatch.context() as patch:
        os.chmod(folder, 0o700)
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.setenv("CONFORMANCE", "seen by both")
        patch.setenv("CONFORMANCE_PYTHON", sys.executable)
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        found = rendezvous.start(idle_minutes=10, wait=200)
        assert found is not None, "the fork server did not start"
        yield
        assert rendezvous.stop() == 1


def notebook(made: Case) -> Any:
    """The case's notebook."""
    from nbformat.v4 import new_code_cell, new_notebook

    cells = [c if isinstance(c, tuple) else (c, ()) for c in made.make()]
    made_cells = [new_code_cell(source, id=f"cell-{i}", metadata={"tags": list(tags)} if tags else {})
                  for i, (source, tags) in enumerate(cells)]
    return new_notebook(cells=made_cells, metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}})


def run(made: Case, warm: bool, folder: Path) -> dict[str, Any]:
    """What became of the notebook: its cells' outputs and how the run ended."""
    import papermill

    from gpt_trader.runbook.warm import Control, KernelWish, Limits

    folder.mkdir(parents=True)
    os.environ.pop("PYTEST_CURRENT_TEST", None)  # under which ipykernel does not take what child processes print
    target, control = folder / "out.ipynb", Control(Limits(made.cell_seconds, made.run_seconds, made.memory_mb))
    ours = warm or made.run_seconds is not None or made.memory_mb is not None
    how: dict[str, Any] = {"execution_timeout": int(made.cell_seconds) if made.cell_seconds else None}
    ended = "whole"
    with tempfile.TemporaryDirectory(prefix="gt-") as scratch:
        if ours:
            wish = KernelWish(scratch, dict(os.environ), warm=warm, own=False, memory_mb=made.memory_mb)
            how = {"engine_name": "gpt_trader", "control": control, "wish": wish, "kernel_cwd": str(folder)}
        try:
            papermill.execute_notebook(notebook(made), str(target), parameters=made.parameters, kernel_name="python3", progress_bar=False,
                                       cwd=str(folder), start_timeout=120, **how)
        except Exception as e:  # noqa: BLE001 - how a run ends is what is compared
            ended = f"{type(e).__name__}: {getattr(e, 'ename', '')}"
    assert not warm or control.engine == "warm", f"it ran in a {control.engine!r} kernel: nothing would be compared"
    cells = json.loads(target.read_text(encoding="utf-8"))["cells"] if target.exists() else []
    files = sorted(p.name for p in folder.iterdir() if p.name != "out.ipynb" and not p.name.startswith("."))
    return {"ended": ended, "files": files, "cells": [normal(c, made, folder) for c in cells if c["cell_type"] == "code"]}


VARYING = (  # what differs between any two runs
    (re.compile(r"/tmp/ipykernel_\d+/\d+\.py"), "<cell>"), (re.compile(r"\bipykernel_\d+/\d+\.py"), "<cell>"),
    (re.compile(r"0x[0-9a-f]{6,16}"), "<address>"), (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"), (re.compile(r"\bpid[= ]\d+"), "<pid>"),
    (re.compile(r"[\d.]+ (?:ns|[µμu]s|ms|s)(?![\w])"), "<time>"), (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"Thread-\d+|ThreadPoolExecutor-\d+_\d+"), "<thread>"))


def plain(text: str, folder: Path) -> str:
    """The text without what varies."""
    text = text.replace(str(folder), "<folder>")
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text


def normal(cell: dict[str, Any], made: Case, folder: Path) -> dict[str, Any]:
    """A cell's outputs in a form that can be compared."""
    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return plain(value, folder)
        if isinstance(value, dict):
            return {plain(k, folder): clean(v) for k, v in value.items()}
        if isinstance(value, list):  # a text that is saved line by line, or really a list
            return clean("".join(value)) if value and all(isinstance(v, str) for v in value) else [clean(v) for v in value]
        return value

    outputs: list[dict[str, Any]] = []
    for output in (clean(o) for o in cell["outputs"]):
        before = outputs[-1] if outputs else {}
        if output["output_type"] == "stream":  # how many pieces a stream comes in depends on when it is flushed
            if made.streams_apart:
                before = next((o for o in outputs if o.get("name") == output["name"]), {})
            if before.get("name") == output["name"] and before.get("output_type") == "stream":
                before["text"] += output["text"]
                continue
        outputs.append(output)
    if made.streams_apart:
        outputs.sort(key=lambda o: (o["output_type"], str(o.get("name"))))
    told = cell["metadata"].get("papermill", {})
    return {"source": clean(cell["source"]), "count": cell["execution_count"], "outputs": outputs,
            "status": told.get("status"), "exception": told.get("exception")}


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Where two normalised runs differ, and how."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}, key=str):
            yield from differences(a.get(key, "<nothing>"), b.get(key, "<nothing>"), f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}[{i}]")
    elif a != b or type(a) is not type(b):
        yield f"{where}: plain {str(a)[:600]!r}, warm {str(b)[:600]!r}"


# One of each kind for every change; all of them in the soak.
ALWAYS = {"interleaved", "rich_displays", "plotly_figure", "pandas_tables", "display_updates", "widgets_state", "chained_errors",
          "system_exit", "raises_exception_tag", "typed_parameters", "surroundings", "randomness_is_fresh", "magics", "top_level_await",
          "printing_threads", "multiprocessing_pools", "kernel_kills_itself", "cell_takes_too_long", "too_much_memory",
          "lightgbm_training", "blas_matmul", "the_librarys_own"}


@pytest.mark.parametrize("name", [n if n in ALWAYS else pytest.param(n, marks=pytest.mark.soak) for n in sorted(CASES)])
def test_both_engines_say_the_same(name: str, tmp_path: Path) -> None:
    made = CASES[name]
    if made.needs and importlib.util.find_spec(made.needs) is None:
        pytest.skip(f"{made.needs} is not installed")
    usual, warm = (run(made, warm, tmp_path / word / "folder") for warm, word in ((False, "plain"), (True, "warm")))
    found = list(differences(usual, warm))
    if name in DIFFERENCES:
        _, compared = DIFFERENCES[name]
        found = list(differences(compared(usual), compared(warm)))
    assert found == [], "\n".join(found[:12])
    assert made.dies or any(c["outputs"] for c in usual["cells"]), "a case without output shows nothing"


def test_the_corpus_is_whole() -> None:
    assert len(CASES) >= 60 and set(DIFFERENCES) | ALWAYS <= set(CASES)
