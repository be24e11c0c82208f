"""Parameter cells: what is read, what is refused, and in which words."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_trader.core.outcome import ConfigError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.runbook.catalogue import catalogue, find
from gpt_trader.runbook.parameters import Parameter, coerce, parse_parameters, read_declaration
from gpt_trader.runbook.procedure import given

CELL = """
from typing import Literal

workspace: str = ""  # folder
last_hours: float = 24  # window, hours
priority: Literal["low", "high", "critical"] = "high"  # how loud
symbols: list[str] = ["AAPL", "IBM"]  # which
date: str | None = None  # a day
full: bool = False  # everything
message: str  # what to say
"""


def write(folder: Path, name: str, parameters: str = CELL, *code: str) -> Path:
    cells = [("markdown", f"# {name}\n\n> Subtitle\n", []), ("code", parameters, ["parameters"])]
    cells += [("code", text, []) for text in code or (f"p = open_procedure('{name}', globals())",)]
    nb = {"metadata": {}, "nbformat": 4, "nbformat_minor": 4,
          "cells": [{"cell_type": k, "metadata": {"tags": t} if t else {}, "source": s,
                     **({"outputs": [], "execution_count": None} if k == "code" else {})}
                    for k, s, t in cells]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(nb))
    return path


def test_every_shipped_notebook_declares_itself_and_documents_each_parameter():
    for entry in catalogue().values():
        d = entry.declaration
        assert d.subtitle, f"{entry.name} has no subtitle"
        assert d.parameter("workspace") is not None, f"{entry.name} takes no workspace"
        assert all(p.help for p in d.parameters), f"{entry.name}: a parameter without a help comment"
        assert not d.mutates or d.parameter("execute") is not None and d.parameter("execute").default is False


def test_texts_become_values_and_all_problems_come_in_one_message(tmp_path):
    d = read_declaration(write(tmp_path, "send"))
    typed = {"last_hours": "6", "priority": "CRITICAL", "symbols": "MSFT,GOOG", "date": "2013-03-01", "full": "yes", "message": "x"}
    assert d.validate(typed, text=True) == {"workspace": "", "last_hours": 6.0, "priority": "critical", "symbols": ["MSFT", "GOOG"],
                                            "date": "2013-03-01", "full": True, "message": "x"}
    with pytest.raises(UsageError) as e:
        d.validate({"last_hour": "6", "priority": "critcal", "full": "perhaps"}, text=True)
    for part in ("did you mean 'last_hours'?", "did you mean 'critical'?", "'perhaps' is not true or false",
                 "message: a value is required"):
        assert part in str(e.value)
    assert e.value.exit_code == 64


@pytest.mark.parametrize("params", [{"last_hours": "24"}, {"full": 1}, {"symbols": "AAPL"}, {"message": 5}, {"last_hours": float("inf")},
                                    {"date": 3}, {"priority": "loud"}])
def test_python_values_are_enforced(tmp_path, params):
    d = read_declaration(write(tmp_path, "send"))
    with pytest.raises(UsageError):
        d.validate({"message": "x", **params})


@pytest.mark.parametrize("cell", ["n = 1", "n: int = 'a'", "n: dict = {}", "n: int = f()", "api_token: str = ''",
                                  "broker_password: str = ''", "json: bool = False", "n: int = "])
def test_a_bad_parameter_cell_is_a_configuration_error_that_names_the_file(tmp_path, cell):
    path = write(tmp_path, "send", cell)
    with pytest.raises(ConfigError) as e:
        read_declaration(path)
    assert str(path) in str(e.value) and e.value.exit_code == 78


def test_reading_executes_nothing(tmp_path):
    cell = "n: int = 1\nimport gpt_trader_does_not_exist\n"
    assert read_declaration(write(tmp_path, "send", cell, "raise SystemExit\np = open_procedure('send', globals())")).defaults == {"n": 1}


def test_none_and_choice_round_trip():
    [p] = parse_parameters("x: int | None = None  # h")
    assert coerce(p, "none", text=True) is None and coerce(p, "7", text=True) == 7
    with pytest.raises(ValueError, match="did you mean 'high'"):
        coerce(Parameter("p", "choice", choices=("low", "high")), "hihg", text=True)


def test_unknown_names_are_found_in_what_papermill_injected_and_in_plain_scripts(tmp_path):
    d = read_declaration(write(tmp_path, "send", "last_hours: float = 24  # h", "rows = 3", "p = open_procedure('send', globals())"))
    injected = {"In": ["", "# Parameters\nlast_hour = 3\nlast_hours = 4"], "last_hour": 3, "last_hours": 4, "rows": 3, "other": 5}
    assert given(injected, d) == {"last_hour": 3, "last_hours": 4}
    assert given({"last_hour": 3, "rows": 3, "json": json, "_x": 1}, d) == {"last_hour": 3}


def test_a_workspace_overrides_but_never_an_emergency(tmp_path):
    ws = Workspace.create(tmp_path)
    packaged = find("validate_data_quality")
    write(ws.root / "procedures", "validate_data_quality")
    mine = find("validate-data-quality", ws.root)
    assert mine.source == "workspace" and mine.overrides == packaged.path and mine.declaration.sha256[:12] in mine.notice
    write(ws.root / "procedures", "generate_incident_report")
    with pytest.raises(ConfigError, match="takes no override"):
        find("validate_data_quality", ws.root)
    ws.close()


def test_looking_through_the_catalogue_imports_nothing_heavy():
    code = ("import sys; from gpt_trader.runbook.catalogue import catalogue; [e.declaration for e in catalogue().values()];"
            "print([m for m in ('nbformat','papermill','pandas','numpy','jupyter_client','sqlite_utils','IPython') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
