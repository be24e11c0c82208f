"""What a new user gets wrong, tried at the command line: one clear message, the right exit code, nothing lost."""
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

GPT_TRADER = str(Path(sys.executable).with_name("gpt-trader"))
DAYS = ["2013-02-25", "2013-02-26", "2013-02-27", "2013-02-28", "2013-03-01"]
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, PR_CAPBSET_DROP = 1, 2, 3, 24


def run(*words: object, cwd: Path | None = None, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GPT_TRADER, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=240, **more)


def refused(answer: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """The one line that was said, with the words in it."""
    said = answer.stderr.strip()
    assert answer.returncode == code, (answer.returncode, answer.stdout, said)
    assert "Traceback" not in answer.stdout + said
    assert len(said.splitlines()) == 1, said
    for word in words:
        assert word in said, (word, said)
    return said


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file that holds something of the user's, by its content's hash (locks, logs and SQLite's side files apart)."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*"))
            if p.is_file() and not {"locks", "logs", "quarantine"} & set(p.parts) and not p.name.endswith(("-wal", "-shm"))}


def csv_rows(**changes: str) -> list[str]:
    """Five days of bars, made up for this test; `changes` replaces a day's line."""
    rows = {day: f"{day},{100 + i},{102 + i},{99 + i},{101 + i},{1000 + i},{101 + i}" for i, day in enumerate(DAYS)} | changes
    return ["date,open,high,low,close,volume,adj_close", *(line for line in rows.values() if line)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with five generated days of AAPL, ingested through the command line."""
    root = tmp_path_factory.mktemp("made") / "desk"
    assert run("init", root).returncode == 0
    folder = root.parent / "good"
    folder.mkdir()
    (folder / "AAPL.csv").write_text("\n".join(csv_rows()) + "\n")
    answer = run("--workspace", root, "ingest", folder)
    assert answer.returncode == 0, answer.stderr
    return root


@pytest.fixture
def ws(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "desk"))


def ingest(ws: Path, name: str, lines: list[str]) -> subprocess.CompletedProcess[str]:
    folder = ws.parent / "incoming"
    folder.mkdir()
    (folder / name).write_text("".join(line + "\n" for line in lines))
    return run("--workspace", ws, "ingest", folder)


@pytest.mark.parametrize(("name", "lines", "code", "words"), [
    ("AAPL.csv", [], 65, ("AAPL.csv", "empty")),
    ("AAPL.csv", ["date,open,high,low,close,volume"], 65, ("AAPL.csv",)),
    ("AAPL.csv", csv_rows(**{DAYS[2]: f"{DAYS[2]},100,102,-99,101,1000,101"}), 65, ("AAPL.csv", "-99", DAYS[2])),
    ("AAPL.csv", [*csv_rows(), f"{DAYS[4]},100,102,99,101,1000,101"], 65, ("AAPL.csv", DAYS[4])),
    ("AAPL.csv", csv_rows(**{DAYS[2]: f"{DAYS[2]},100,102,99,abc,1000,101"}), 65, ("AAPL.csv", "line 4", "abc", "close")),
    ("AAPL.csv", [line.rsplit(",", 3)[0] for line in csv_rows()], 65, ("AAPL.csv", "close")),
], ids=["empty", "header only", "negative price", "duplicated day", "not a number", "missing columns"])
def test_a_bad_file_is_refused_whole(ws: Path, name: str, lines: list[str], code: int, words: tuple[str, ...]) -> None:
    before = fingerprint(ws)
    refused(ingest(ws, name, lines), code, *words)
    assert fingerprint(ws) == before


def test_a_hole_is_named_and_kept(ws: Path) -> None:
    answer = ingest(ws, "IBM.csv", csv_rows(**{DAYS[2]: ""}))
    assert answer.returncode == 0, answer.stderr  # it is in; whether it is good enough is validate-data-quality's to say
    assert "WARNING" in answer.stdout and DAYS[2] in answer.stdout and "IBM" in answer.stdout
    bars = pd.concat(pd.read_parquet(p) for p in (ws / ".gpt-trader" / "data").rglob("*.parquet") if "IBM" in p.name)
    assert len(bars) == 4


def test_an_unknown_symbol(ws: Path) -> None:
    refused(run("--workspace", ws, "validate-data-quality", "--symbol", "APPL"), 64, "APPL", "AAPL")


def test_a_typo_in_a_yaml_key(ws: Path) -> None:
    (ws / "config" / "risk.yaml").write_text("limits:\n  max_vra: 40000\n")
    refused(run("--workspace", ws, "config", "show"), 78, "risk.yaml:2", "max_vra", "max_var")


def test_a_bad_value_in_yaml(ws: Path) -> None:
    (ws / "config" / "risk.yaml").write_text("limits:\n  max_var: plenty\n")
    refused(run("--workspace", ws, "config", "show"), 78, "risk.yaml:2", "max_var", "plenty")


def test_an_unknown_procedure(ws: Path) -> None:
    refused(run("--workspace", ws, "run", "helth_check"), 64, "helth_check", "health_check")
    refused(run("--workspace", ws, "helth-check"), 64, "helth-check", "health-check")


def test_a_wrong_parameter(ws: Path) -> None:
    refused(run("--workspace", ws, "check-model-performance", "--last-hours", "soon"), 64, "last", "soon")
    refused(run("--workspace", ws, "check-model-performance", "--last-hour", "3"), 64, "--last-hours")
    refused(run("--workspace", ws, "run", "check_model_performance", "-p", "last_hour=3"), 64, "last_hour", "last_hours")


def test_no_workspace(tmp_path: Path) -> None:
    refused(run("--workspace", tmp_path / "none", "config", "show"), 64, "gpt-trader init")
    refused(run("config", "show", cwd=tmp_path), 64, "gpt-trader init")


def test_a_workspace_made_by_a_newer_version(ws: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(ws / ".gpt-trader" / "state.db")
    connection.execute("PRAGMA user_version=999")
    connection.close()
    before = fingerprint(ws)
    refused(run("--workspace", ws, "journal", "verify"), 74, "newer gpt_trader", "Upgrade")
    assert fingerprint(ws) == before
    marker = ws / ".gpt-trader" / "workspace.json"
    marker.write_text(marker.read_text().replace('"layout": 1', '"layout": 99'))
    refused(run("--workspace", ws, "journal", "verify"), 74, "newer gpt_trader", "Upgrade")


def _as_a_mere_user() -> None:
    """Let the permission bits count also where the tests run as root: give up the capabilities that override them."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER):
        ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_a_read_only_workspace(ws: Path) -> None:
    before = fingerprint(ws)
    incoming = ws.parent / "incoming"
    incoming.mkdir()
    (incoming / "IBM.csv").write_text("\n".join(csv_rows()) + "\n")
    folders = [ws, *(p for p in ws.rglob("*") if p.is_dir())]
    files = [p for p in ws.rglob("*") if p.is_file()]
    try:
        for p in files:
            p.chmod(0o444)
        for p in folders:
            p.chmod(0o555)
        for words in (("backup",), ("ingest", incoming), ("check-backups",)):
            refused(run("--workspace", ws, *words, preexec_fn=_as_a_mere_user), 74, str(ws))
    finally:
        for p in folders:
            p.chmod(0o755)
        for p in files:
            p.chmod(0o644)
    assert fingerprint(ws) == before


def _mountable() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0 if shutil.which("unshare") else False


@pytest.mark.skipif(not _mountable(), reason="no right to mount a small file system here")
@pytest.mark.parametrize("words", [("backup",), ("ingest", "{incoming}"), ("check-backups",)], ids=["backup", "ingest", "procedure"])
def test_a_full_disk(ws: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """In a name space of its own: a file system of 3 MB, the workspace on it, and what is left filled up."""
    disk, incoming, kept = tmp_path / "disk", tmp_path / "incoming", tmp_path / "kept"
    disk.mkdir()
    incoming.mkdir()
    (incoming / "IBM.csv").write_text("\n".join(csv_rows()) + "\n")
    script = ('mount -t tmpfs -o size=3m tmpfs "$1" && cp -r "$2" "$1/desk" && { cat /dev/zero > "$1/filler" 2>/dev/null; true; } && '
              'shift 2 && '
              'd="$1" && k="$2" && shift 2 && { "$@"; code=$?; rm "$d/filler"; cp -r "$d/desk" "$k"; exit $code; }')
    command = [GPT_TRADER, "--workspace", str(disk / "desk"), *(w.format(incoming=incoming) for w in words)]
    before = fingerprint(ws)
    answer = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", str(disk), str(ws), str(disk), str(kept), *command],
                            capture_output=True, text=True, timeout=240, env={**os.environ, "TMPDIR": str(tmp_path)})
    refused(answer, 74, "full" if "backup" != words[0] else "", str(disk))
    after = fingerprint(kept)
    assert {k: v for k, v in after.items() if not k.endswith(".db")} == {k: v for k, v in before.items() if not k.endswith(".db")}
    assert run("--workspace", kept, "journal", "verify").returncode == 0


def test_a_corrupted_backup(ws: Path) -> None:
    assert run("--workspace", ws, "backup").returncode == 0
    backup = max((p for p in (ws / ".gpt-trader" / "backups").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 0xFF
    backup.write_bytes(data)
    before = fingerprint(ws / ".gpt-trader" / "data") | fingerprint(ws / "config")
    answer = run("--workspace", ws, "restore-backup", "--date", "2099-01-01", "--yes")
    refused(answer, 74, backup.name.split(".")[0])
    assert fingerprint(ws / ".gpt-trader" / "data") | fingerprint(ws / "config") == before
    assert run("--workspace", ws, "journal", "verify").returncode == 0
