"""README tells the truth: each of its commands is run as it stands, each file that it names is there."""
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
SERVERS = ("dashboard", "lab")


def blocks(language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """Every command line of the bash blocks, without its comment, in order."""
    lines = [re.sub(r"\s+#\s.*$", "", line).strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def own_desk() -> list[str]:
    """The commands that make a desk of one's own, and what is asked of it."""
    lines = commands()
    first, last = (next(i for i, line in enumerate(lines) if line.startswith(start)) for start in ("gpt-trader init", "gpt-trader list"))
    return lines[first:last]


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
def environment(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Somebody's environment: nothing of whoever runs the tests, and a fork server that ends with them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GPT_TRADER_", "XDG_", "JUPYTER_"))}
    runtime = tmp_path_factory.mktemp("run")
    made = kept | {"HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1",
                   "XDG_RUNTIME_DIR": str(runtime)}
    yield made
    typed("gpt-trader engine stop", home, made)


def typed(line: str, where: Path, environment: dict[str, str], seconds: float = 180) -> tuple[int, str]:
    """A line as bash runs it; its exit code and what it said. One that does not end in time is stopped, with all that it started."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:  # no pipe, which a server that it starts could hold open
        process = subprocess.Popen(["bash", "-c", line], cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=said,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            in_time = process.poll() is not None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
        said.seek(0)
        if not in_time:
            pytest.fail(f"{line}: has not ended after {seconds:g} s\n{said.read()[-3000:]}", pytrace=False)
        return process.returncode, said.read()


def make(words: str, where: Path, environment: dict[str, str], *more: str, seconds: float = 60) -> tuple[int, str]:
    """`make WORDS` with the checkout's Makefile and the environment that runs this test, taken as made."""
    stamps = [f"-o{sys.prefix}/{name}" for name in (".made", ".base", ".dev", ".lab")]
    line = ["make", *more, "-f", str(ROOT / "Makefile"), f"VENV={sys.prefix}", *stamps, *words.split()]
    return typed(shlex.join(line), where, environment, seconds)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder in which `make demo` was typed, once for all tests; or a copy of the one that $GPT_TRADER_TEST_DESK names."""
    folder, ready = tmp_path_factory.mktemp("demo"), os.environ.get("GPT_TRADER_TEST_DESK")
    if ready:
        shutil.copytree(ready, folder, symlinks=True, dirs_exist_ok=True)
    else:
        code, said = make("demo", folder, environment, seconds=300)
        assert code == 0, said[-3000:]
        assert "reports" in said
    assert (folder / "reports" / "index.html").is_file()
    return folder


@pytest.fixture(scope="module")
def desk(home: Path, environment: dict[str, str]) -> Path:
    """The desk of somebody's own, by the README's first two lines on it."""
    line = " && ".join(own_desk()[:2])  # typed one after the other: the first goes to the desk
    code, said = typed(line, home, environment)
    assert code in (0, 1), f"{line}: {said}"
    assert (home / "desk" / ".gpt-trader" / "workspace.json").is_file()
    return home / "desk"


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_each_make_command_has_a_recipe(line: str, environment: dict[str, str]) -> None:
    code, said = make(line.removeprefix("make "), ROOT, environment, "-n")
    assert code == 0 and str(BIN) in said, said


def ran(line: str, where: Path, environment: dict[str, str]) -> None:
    """A line that must end as a monitoring plugin does, and without a traceback."""
    code, said = typed(line, where, environment)
    assert code in (0, 1, 2, 3), f"{line}: exit code {code}\n{said[-3000:]}"
    assert "Traceback" not in said, f"{line}\n{said[-3000:]}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_ones_own_desk_runs(desk: Path, environment: dict[str, str]) -> None:
    assert own_desk()[0].endswith("cd ~/desk") and own_desk()[1].startswith("gpt-trader ingest")  # the fixture typed these
    for line in own_desk()[2:]:
        ran(line, desk, environment)


@pytest.mark.soak  # a demo, then each operation on its desk: minutes
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_operations_runs(demo: Path, environment: dict[str, str]) -> None:
    """In order, in the demo's workspace."""
    lines = [line for line in commands() if not line.startswith("make ") and line not in own_desk() and not is_server(line)]
    assert len(lines) > 15
    for line in lines:
        ran(line, demo, environment)
    assert not (demo / ".gpt-trader" / "trading.permit").exists(), "it was halted, and only asked what resuming would do"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_runs(desk: Path, home: Path, environment: dict[str, str]) -> None:
    [text] = blocks("python")
    done = subprocess.run([sys.executable, "-c", text + "\nws.close()"], env=environment, cwd=home, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_line_of_the_crontab_runs(demo: Path, environment: dict[str, str]) -> None:
    [line] = blocks("cron")
    schedule, command = re.fullmatch(r"((?:\S+ ){4}\S+) +(\S.*)", line.strip()).groups()
    assert schedule == "15 17 * * 1-5", "as the text says: at 17:15 on weekdays"
    command = re.sub(r"/srv/\S*/gpt-trader", "gpt-trader", command).replace("/srv/desk", str(demo))
    code, said = typed(command, demo, environment)
    assert code in (0, 1, 2, 3), said
    assert '"status"' in (demo / "daily-report.log").read_text(encoding="utf-8")


def answered(address: str, seconds: float) -> int | None:
    """The HTTP status that a browser gets at an address, once something answers: it keeps the cookie that a token is exchanged for."""
    browser = build_opener(HTTPCookieProcessor())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with browser.open(address, timeout=max(1, end - time.monotonic())) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.5)
    return None


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("line", [line for line in commands() if is_server(line)], ids=lambda line: line.split()[1])
def test_what_serves_answers_and_stops(line: str, demo: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """It prints an address of this machine, answers there, and ends when it is interrupted."""
    printed = tmp_path / "printed"
    command = line + (" --port 0" if "dashboard" in line else "")
    with printed.open("w") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=demo, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    try:
        found, end = None, time.monotonic() + 120
        while not found and process.poll() is None and time.monotonic() < end:
            time.sleep(0.25)
            found = re.search(r"http://(?:127\.0\.0\.1|localhost):\d+\S*", printed.read_text())
        assert found, f"{line} printed no address:\n{printed.read_text()[-3000:]}"
        assert answered(found[0], 90) == 200, f"{found[0]} does not answer as it should:\n{printed.read_text()[-3000:]}"
        for _ in range(3):  # JupyterLab asks whether one is sure; a second interrupt is a yes
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.send_signal(signal.SIGINT if "dashboard" in line else signal.SIGTERM)
                process.wait(20)
                break
        assert process.poll() is not None, f"{line} did not end when it was interrupted:\n{printed.read_text()[-3000:]}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
