"""What is built holds what an installed gpt-trader needs: no checkout stands behind it."""
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("procedures", "playbooks", "reports", "dashboards", "research")
pytestmark = pytest.mark.slow


def files(*folders: str) -> set[str]:
    """Paths of all files of these folders, relative to the checkout."""
    return {p.relative_to(ROOT).as_posix() for f in folders for p in (ROOT / f).rglob("*")
            if p.is_file() and not {"__pycache__", ".ipynb_checkpoints", "_notebooks"} & set(p.parts)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel and a source distribution, built from a copy of the sources (building leaves files beside them)."""
    copy, out = tmp_path_factory.mktemp("source") / "gpt_trader", tmp_path_factory.mktemp("dist")
    copy.mkdir()
    for name in ("gpt_trader", "nbs", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_notebooks"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    made = {}
    for kind in ("sdist", "wheel"):
        command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(copy)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        made[kind] = next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))
    return made


def test_the_wheel_holds_modules_data_and_notebooks(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())
    expected = files("gpt_trader") | {f"gpt_trader/_notebooks/{n.removeprefix('nbs/')}" for f in SHIPPED for n in files(f"nbs/{f}")}
    assert sorted(expected - names) == []
    assert sorted(n for n in names - expected if ".dist-info/" not in n) == []
    for ending in ("py.typed", ".yaml", ".sql", ".parquet"):
        assert [n for n in names if n.endswith(ending)], f"no {ending} in the wheel"
    assert [n for n in names if n.startswith("gpt_trader/_notebooks/procedures/")], "no procedure in the wheel"


def test_the_sdist_builds_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        top = {m.name.partition("/")[2] for m in sdist.getmembers() if m.isfile()}
    shutil.unpack_archive(built["sdist"], tmp_path)
    assert sorted(files("gpt_trader", "nbs", "tests") - top) == []
    source = next(tmp_path.iterdir())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "out"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(built["wheel"]) as one, zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))) as other:
        assert {n: one.read(n) for n in one.namelist() if "dist-info/RECORD" not in n} == {
            n: other.read(n) for n in other.namelist() if "dist-info/RECORD" not in n}


def test_installed_outside_any_checkout(built: dict[str, Path], tmp_path: Path) -> None:
    """The wheel, unpacked alone into a folder, answers `--help` and lists the procedures, with no checkout in sight."""
    site = tmp_path / "site"
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(site)
    program = (f"import sys; sys.path.insert(0, {str(site)!r}); import gpt_trader; assert gpt_trader.__file__.startswith({str(site)!r}); "
               "from gpt_trader.cli.main import main; sys.exit(main())")

    def gpt_trader(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert gpt_trader("--help").returncode == 0
    assert gpt_trader("init", "desk").returncode == 0
    listed = gpt_trader("--workspace", "desk", "list")
    assert listed.returncode == 0, listed.stderr
    procedures = {Path(n).stem for n in files("nbs/procedures")}
    missing = [p for p in sorted(procedures) if p not in listed.stdout and p.replace("_", "-") not in listed.stdout]
    assert missing == []
