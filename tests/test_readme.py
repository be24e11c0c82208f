"""README tells the truth: each of its commands is run as it stands, each file that it names is there."""
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
SERVERS = ("dashboard", "lab")
# `make test` would run this very test, and `make lab` and `make docs` have tests of their own: of these, the recipe is resolved, not run.
RESOLVED = ("test", "lab", "docs", "sync", "check", "bench", "test-slow")


def blocks(language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """Every command line of the bash blocks, without its comment, in order."""
    lines = [re.sub(r"\s+#\s.*$", "", line).strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def is_server(line: str) -> bool:
    return line.split()[:1] == ["gpt-trader"] and line.split()[1] in SERVERS


# ---------------------------------------------------------------- what it names
def test_there_are_commands() -> None:
    assert len(commands()) > 20 and len(blocks("python")) == 1 and len(blocks("cron")) == 1


def test_each_file_that_it_names_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith(("http", "docs/images/"))]
    named = re.findall(r"`((?:tests|nbs|docs|benchmarks)/[\w/.-]+)`", README)
    absent = [path for path in {*links, *named} if not (ROOT / path).exists() and "docs/_build" not in path]
    assert not absent, f"README names {absent}"


def test_each_make_target_that_it_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M))
    assert named and named <= targets, named - targets


def test_the_place_of_the_benchmarks_is_marked_once() -> None:
    assert README.count("<!-- benchmarks -->\n") == README.count("<!-- /benchmarks -->\n") == 1


def test_the_three_sentences() -> None:
    """The opening is what people read: a line and three sentences, before the first heading."""
    opening = README.split("## ")[0].split("\n\n", 2)[2]
    assert len(re.findall(r"[.!?](?:\s|$)", opening)) == 3


# ---------------------------------------------------------------- what it says to type
@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's home with a folder of prices."""
    from gpt_trader.dataflow.providers import EmbeddedProvider

    folder = tmp_path_factory.mktemp("somebody")
    (folder / "prices").mkdir()
    for symbol in ("AAPL", "IBM"):
        bars = EmbeddedProvider().bars(symbol)
        bars.drop(columns="symbol").rename(columns={"session": "date"}).to_csv(folder / "prices" / f"{symbol}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GPT_TRADER_", "XDG_", "JUPYTER_"))}
    return kept | {"HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def typed(line: str, where: Path, environment: dict[str, str], timeout: float = 900) -> tuple[int, str]:
    """A line as bash runs it; its exit code and what it said."""
    done = subprocess.run(["bash", "-c", line], cwd=where, env=environment, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout + done.stderr


def make(words: str, where: Path, environment: dict[str, str], *more: str) -> tuple[int, str]:
    """`make WORDS` with the checkout's Makefile and the environment that runs this test, taken as made."""
    stamps = [f"-o{sys.prefix}/{name}" for name in (".made", ".base", ".dev", ".lab")]
    line = ["make", *more, "-f", str(ROOT / "Makefile"), f"VENV={sys.prefix}", *stamps, *words.split()]
    return typed(shlex.join(line), where, environment)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder in which `make demo` was typed."""
    folder = tmp_path_factory.mktemp("demo")
    code, said = make("demo", folder, environment)
    assert code == 0, said[-3000:]
    assert "reports" in said and (folder / "reports" / "index.html").is_file()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_runs(demo: Path, home: Path, environment: dict[str, str]) -> None:
    """In order: the two commands, one's own desk, then operations in the demo's workspace."""
    where = demo
    for line in commands():
        words = line.split()
        if words[0] == "make":
            if words[1] != "demo":  # the fixture typed it
                assert words[1] in RESOLVED
                code, said = make(words[1], ROOT, environment, "-n")
                assert code == 0, f"{line}: {said}"
            continue
        if is_server(line):
            continue
        if line.startswith("gpt-trader list"):
            where = demo
        code, said = typed(f"{line} && pwd > {shlex.quote(str(home / 'pwd'))} || exit $?", where, environment)
        assert code in (0, 1, 2, 3), f"{line}: exit code {code}\n{said[-3000:]}"
        assert "Traceback" not in said, f"{line}\n{said[-3000:]}"
        if code == 0 and " cd " in line:
            where = Path((home / "pwd").read_text(encoding="utf-8").strip())
            assert where == home / "desk"
    assert (home / "desk" / ".gpt-trader" / "workspace.json").is_file()
    assert not (demo / ".gpt-trader" / "trading.permit").exists(), "it was halted, and only asked what resuming would do"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_python_runs(demo: Path, home: Path, environment: dict[str, str]) -> None:
    own = home / "python" / "desk"
    for line in (f"gpt-trader init {own}", f"gpt-trader --workspace {own} ingest {home / 'prices'}"):
        code, said = typed(line, home, environment)
        assert code in (0, 1), said
    [text] = blocks("python")
    done = subprocess.run([sys.executable, "-c", text + "\nws.close()"], env=environment | {"HOME": str(own.parent)}, cwd=home,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_line_of_the_crontab_runs(demo: Path, environment: dict[str, str]) -> None:
    [line] = blocks("cron")
    schedule, command = re.fullmatch(r"((?:\S+ ){4}\S+) +(\S.*)", line.strip()).groups()
    assert schedule == "15 17 * * 1-5", "as the text says: at 17:15 on weekdays"
    command = re.sub(r"/srv/\S*/gpt-trader", "gpt-trader", command).replace("/srv/desk", str(demo))
    code, said = typed(command, demo, environment)
    assert code in (0, 1, 2, 3), said
    assert '"status"' in (demo / "daily-report.log").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", [line for line in commands() if is_server(line)], ids=lambda line: line.split()[1])
def test_what_serves_answers_and_stops(line: str, demo: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """It prints an address of this machine, answers there, and ends when it is interrupted."""
    printed = tmp_path / "printed"
    command = line + (" --port 0" if "dashboard" in line else "")
    with printed.open("w") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=demo, env=environment, stdout=out, stderr=subprocess.STDOUT,
                                   start_new_session=True)
    try:
        found = None
        for _ in range(1200):
            found = re.search(r"http://(?:127\.0\.0\.1|localhost):\d+\S*", printed.read_text())
            if found or process.poll() is not None:
                break
            time.sleep(0.25)
        assert found, f"{line} printed no address:\n{printed.read_text()[-3000:]}"
        for _ in range(240):
            try:
                status = urlopen(found[0], timeout=60).status
                break
            except HTTPError as error:
                status = error.code
                break
            except OSError:
                time.sleep(0.5)
        assert status in (200, 302, 403)
        for _ in range(3):  # JupyterLab asks whether one is sure; a second interrupt is a yes
            if process.poll() is None:
                process.send_signal(signal.SIGINT if "dashboard" in line else signal.SIGTERM)
                time.sleep(2)
        assert process.wait(90) is not None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
