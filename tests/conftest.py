"""What all tests share: what the machine must have, one process per file, an environment that holds nothing of the user's."""
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The browser that $CHROMIUM names, else the first that stands in the PATH."""
    named = os.environ.get("CHROMIUM")
    candidates = (named,) if named else BROWSERS
    return next((path for name in candidates if (path := shutil.which(name))), None)


def pytest_configure(config: pytest.Config) -> None:
    """Stop with a sentence, not a traceback in every test, where LightGBM cannot be loaded."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libgomp.so.1")
        except OSError:
            pytest.exit("LightGBM needs libgomp.so.1, which this machine lacks. On Debian: apt-get install libgomp1", returncode=3)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep a file's tests in one process, so that its module-wide fixtures are made once; `SPREAD = True` in a file lets them part.

    pytest-xdist 3.8 cannot group under pytest 9.2, hence the bound on pytest in settings.ini.
    """
    if not getattr(getattr(item, "module", None), "SPREAD", False) and item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A browser test without a browser is a skip with a sentence; in CI, where nobody would see the skip, a failure."""
    if item.get_closest_marker("browser") and find_chromium() is None:
        told = os.environ.get("CHROMIUM")
        looked = f"$CHROMIUM={told}" if told else f"{', '.join(BROWSERS)} in the PATH"
        message = f"no Chromium found (looked for {looked}). On Debian: apt-get install chromium; elsewhere name it in $CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser, for tests marked `browser`."""
    found = find_chromium()
    assert found is not None, "a test that uses this fixture is marked `browser`"
    return found


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory):
    """No workspace, home or configuration of whoever runs the tests may change what they find."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        for name in ("GPT_TRADER_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("GPT_TRADER_ENGINE", os.environ.get("GPT_TRADER_ENGINE", "plain"))  # the warm engine's own tests say otherwise
        yield


@pytest.fixture(scope="session")
def data_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the embedded history and a permit, and no session yet: to be copied."""
    from desk_harness import make_data_desk

    return make_data_desk(tmp_path_factory.mktemp("data") / "desk")


@pytest.fixture(scope="session")
def book_desk(data_desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose desk has lived through three sessions, with three more in its data: to be copied."""
    from desk_harness import make_book_desk

    return make_book_desk(data_desk, tmp_path_factory.mktemp("book") / "desk")


@pytest.fixture
def venue(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A venue in a process of its own, its keys in the environment, Apple quoted; `VENUE_CONFIG` in a file is its config.yaml."""
    from venue_harness import running_venue

    with running_venue(tmp_path, config=getattr(request.module, "VENUE_CONFIG", "")) as running:
        monkeypatch.setenv("VENUE_KEY", running.key)
        monkeypatch.setenv("VENUE_SECRET", running.secret)
        running.quote("AAPL", "444.00", "444.10")
        yield running


@pytest.fixture(scope="module")
def warm_engine() -> Iterator[None]:
    """The warm engine, as users have it, for the procedures of one file; its fork server is the file's own and ends with it."""
    from gpt_trader.runbook import rendezvous

    with tempfile.TemporaryDirectory(prefix="gt-") as folder, pytest.MonkeyPatch.context() as patch:
        os.chmod(folder, 0o700)
        for name, value in {"GPT_TRADER_ENGINE": "warm", "XDG_RUNTIME_DIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                            "MKL_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        if rendezvous.supported():
            rendezvous.start(wait=200)
        yield
        rendezvous.stop()
