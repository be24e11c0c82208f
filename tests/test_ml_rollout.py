"""Rollouts and scoring: who answers is a pure function of the key, acts are whole or not at all, and threads do not disturb each other."""
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.outcome import DataError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.ml.evaluation import NOTHING, Difference
from gpt_trader.ml.registry import champion, get_model, previous, promote
from gpt_trader.ml.rollout import advance, blend, capital_shares, draw, roll_back, rollout, rollouts, start_rollout, takes_challenger
from gpt_trader.ml.scorer import Scorer

HEAD = "range_expansion"
BEATS = replace(NOTHING, n=900, correct=560, accuracy=0.62, low=0.59, high=0.65, majority=0.52, naive=0.57,
                versus_majority=Difference(0.1, 0.06, 0.14), versus_naive=Difference(0.05, 0.02, 0.08)).to_json()


def made(ws: Workspace, version: str) -> str:
    path = ws.models_dir / HEAD / version / "model.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(version.encode())
    card = {"head": HEAD, "version": version, "identity": version, "features": ["ret_1"], "evaluation": BEATS,
            "files": {"model.txt": hashlib.sha256(version.encode()).hexdigest()}}
    ws.journal.append("model.registered", card, subject=f"{HEAD}/{version}")
    return version


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "desk", SimulatedClock(datetime(2013, 1, 2, 22, tzinfo=UTC))) as desk:
        for version in "abc":
            made(desk, version)
        promote(desk, HEAD, "a")
        yield desk


@given(st.text(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_a_key_that_has_the_challenger_keeps_it(key: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert 0 <= draw("v#1", key) < 1 and (takes_challenger("v#1", high, key) or not takes_challenger("v#1", low, key))
    assert takes_challenger("v#1", 1.0, key) and not takes_challenger("v#1", 0.0, key)


def test_the_hash_is_what_the_documentation_says_in_any_process() -> None:
    key = "order 17"
    other = "import hashlib; print(int.from_bytes(hashlib.blake2b(b'v#1\\norder 17', digest_size=8).digest(), 'big') / 2**64)"
    said = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONHASHSEED": "5"})
    assert float(said.stdout) == draw("v#1", key) == draw("v#1", key.encode())


@given(st.dictionaries(st.sampled_from("abc"), st.floats(0.01, 1), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_capital_by_shares_is_each_version_with_its_part(shares: dict[str, float], p: float, q: float) -> None:
    """Sizes are linear in the probability: sizing by the mean is what a desk for each share would come to together."""
    total = sum(shares.values())
    shares = {v: s / total for v, s in shares.items()}
    said = {v: {"AAPL": p if v == "a" else q} for v in shares}

    def size(probability: float) -> float:
        return 1.0 - 0.25 * (2.0 * probability - 1.0)

    together = sum(share * size(said[v]["AAPL"]) for v, share in shares.items())
    assert size(blend(shares, said)["AAPL"]) == pytest.approx(together)


def test_an_act_is_whole_or_not_at_all(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step journals three entries: whichever of them fails, nothing has happened; then it is done."""
    going = start_rollout(ws, HEAD, "b")
    going = advance(ws, going, "well")
    before, append = ws.journal.head(), type(ws.journal).append
    for fatal in range(3):
        count = iter(range(10))

        def dying(self, *args, **more):  # type: ignore[no-untyped-def]
            if next(count) == fatal:  # noqa: B023
                raise KeyboardInterrupt
            return append(self, *args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(type(ws.journal), "append", dying)
            with pytest.raises(KeyboardInterrupt):
                advance(ws, going, "well")
        assert ws.journal.head() == before and rollout(ws, HEAD) == going and capital_shares(ws, HEAD) == {"a": 0.5, "b": 0.5}
    assert advance(ws, going, "well").state == "completed" and champion(ws, HEAD).version == "b"
    assert [e.kind for e in ws.journal.entries(after=before.seq)] == ["rollout.completed", "model.archived", "model.promoted"]
    assert ws.journal.check_projections() == []


def test_two_processes_advance_it_once(ws: Workspace) -> None:
    going = start_rollout(ws, HEAD, "b")
    with Workspace.open(ws.root) as other:
        seen = rollout(other, HEAD)
        assert seen == going
        threads = [threading.Thread(target=advance, args=(w, going, "well")) for w in (ws, other)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert rollout(other, HEAD).step == 1
        assert [e.kind for e in ws.journal.entries(prefix="rollout.")] == ["rollout.started", "rollout.advanced"]


def test_going_back_goes_to_who_was_before(ws: Workspace) -> None:
    promote(ws, HEAD, "b")
    promote(ws, HEAD, "c")
    assert previous(ws, HEAD).version == "b"
    assert (roll_back(ws, HEAD, "x").back, roll_back(ws, HEAD, "y").back) == ("b", "a")
    with pytest.raises(UsageError, match="no champion was before"):
        roll_back(ws, HEAD, "z")
    promote(ws, HEAD, "c")  # mended: it may come again, and what it replaces then is 'a'
    assert roll_back(ws, HEAD, "x").back == "a" and {v: get_model(ws, HEAD, v).status for v in "abc"} == {
        "a": "champion", "b": "archived", "c": "archived"}
    assert all(r.ended_at for r in rollouts(ws, HEAD)) and ws.journal.check_projections() == []


# ---------------------------------------------------------------- the scorer
@pytest.fixture(scope="module")
def booster():  # type: ignore[no-untyped-def]
    import lightgbm as lgb

    rng = np.random.default_rng(3)
    rows = rng.normal(size=(3_000, 12))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    label = (np.nan_to_num(rows[:, 0]) + rng.normal(size=len(rows)) > 0).astype(float)
    return lgb.train({"objective": "binary", "num_leaves": 15, "num_threads": 1, "verbosity": -1}, lgb.Dataset(rows, label), 50), rows


def test_threads_do_not_disturb_each_other(booster) -> None:  # type: ignore[no-untyped-def]
    model, rows = booster
    scorer, truth, wrong = Scorer(model.model_to_string()), model.predict(rows), list[str]()

    def work(start: int) -> None:
        for n in range(start, start + 600):
            if scorer.one(rows[n]) != truth[n]:
                wrong.append(f"row {n}")
        if not np.array_equal(scorer.many(rows), truth):
            wrong.append("batch")

    threads = [threading.Thread(target=work, args=(600 * n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


@given(st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True, width=64), st.none()), min_size=0, max_size=14))
def test_a_row_is_scored_as_lightgbm_does_or_refused(booster, row: list[float | None]) -> None:  # type: ignore[no-untyped-def]
    model, _ = booster
    values = np.array(row, dtype="float64")
    scorer = Scorer(model.model_to_string(), [f"f{n}" for n in range(12)])
    if len(row) == 12 and not np.isinf(values).any():
        assert scorer.one(values) == model.predict(values[None])[0]
    else:
        with pytest.raises(DataError, match="infinite|features a row"):
            scorer.one(values)


def test_it_needs_no_import_of_lightgbm(booster, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "model.txt").write_text(booster[0].model_to_string())
    code = ("import sys; from pathlib import Path; from gpt_trader.ml.scorer import Scorer; "
            "print(Scorer(Path('model.txt').read_text()).one([0.0] * 12)); assert not {'lightgbm', 'pandas'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) == booster[0].predict(np.zeros((1, 12)))[0], done.stderr
