"""Predictions over HTTP: who answers, what is refused, and promotions under load."""
import io
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
import requests
from model_harness import HEAD, copied
from serving_harness import PROGRAM, Serving, served_desk, serving, wait_until

from gpt_trader.core.outcome import Status
from gpt_trader.core.workspace import Workspace
from gpt_trader.ml.prediction import Predictor
from gpt_trader.ml.registry import champion, models
from gpt_trader.ml.rollout import advance, capital_shares, roll_back, rollout, start_rollout
from gpt_trader.ml.served import ask
from gpt_trader.runbook.engine import run_procedure

SOAK = bool(os.environ.get("GPT_TRADER_SOAK"))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_desk(tmp_path_factory.mktemp("served") / "desk")


@pytest.fixture(scope="module")
def up(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that the tests of this file share; who promotes, rolls back."""
    folder = tmp_path_factory.mktemp("up")
    with copied(desk, folder / "desk") as ws, serving(ws, folder) as server:
        yield server


def rows_of(ws: Workspace, n: int = 50) -> np.ndarray:
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(n, len(champion(ws, HEAD).features)))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows


def with_null(row: np.ndarray) -> list[float | None]:
    return [None if np.isnan(x) else x for x in row.tolist()]


# ---------------------------------------------------------------- answers
def test_every_way_of_asking_gives_what_lightgbm_gives(up: Serving) -> None:
    import lightgbm as lgb

    ws, best = up.ws, champion(up.ws, HEAD)
    rows = rows_of(ws)
    truth = lgb.Booster(model_str=best.read(ws).decode()).predict(rows)
    named = [ask(up.server, "/v1/predict", {"features": dict(zip(best.features, with_null(r), strict=True))})[1] for r in rows[:10]]
    ordered = [ask(up.server, "/v1/predict", {"row": with_null(r), "head": HEAD})[1] for r in rows[:10]]
    assert [a["probability"] for a in named] == [a["probability"] for a in ordered] == truth[:10].tolist()
    assert {a["version"] for a in named} == {best.version} and all(a["predicted"] == (a["probability"] >= 0.5) for a in named)
    batch = ask(up.server, "/v1/batch", {"rows": [with_null(r) for r in rows]})[1]
    assert batch["probabilities"] == truth.tolist() and batch["version"] == best.version
    shuffled = np.random.default_rng(1).permutation(len(best.features))
    body = {"features": [best.features[i] for i in shuffled], "rows": [with_null(r[shuffled]) for r in rows]}
    assert ask(up.server, "/v1/batch", body)[1]["probabilities"] == truth.tolist()
    buffer = io.BytesIO()
    np.save(buffer, rows)
    answer = requests.post(f"{up.url}/v1/batch", buffer.getvalue(), timeout=10,
                           headers=up.headers | {"Content-Type": "application/x-npy", "Accept": "application/x-npy"})
    assert answer.status_code == 200 and np.array_equal(np.load(io.BytesIO(answer.content), allow_pickle=False), truth)
    sink = io.BytesIO()
    table = pa.table({name: column for name, column in zip(best.features, rows.T, strict=True)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    answer = requests.post(f"{up.url}/v1/batch?head={HEAD}", sink.getvalue(), timeout=10,
                           headers=up.headers | {"Content-Type": "application/vnd.apache.arrow.stream"})
    assert answer.json()["probabilities"] == truth.tolist()


def test_by_symbol_is_what_the_evening_forecasts(up: Serving) -> None:
    from gpt_trader.dataflow.datasets import adjusted, load_bars
    from gpt_trader.ml.prediction import forecast

    bars = adjusted(load_bars(up.ws, up.ws.config.app.desk.universe))
    rows = forecast(Predictor.load(up.ws), bars, "2013-03-04").set_index("symbol")["probability"]
    for symbol, expected in rows.items():
        status, body = ask(up.server, f"/v1/symbols/{symbol}")
        assert status == 200 and body["after"] == f"{bars['session'].max():%Y-%m-%d}" and abs(body["probability"] - expected) < 1e-9


def test_a_wrong_request_is_told_what_is_wrong(up: Serving) -> None:
    width, json = len(champion(up.ws, HEAD).features), {"Content-Type": "application/json"}
    for path, body, status, said in (
            ("/v1/predict", b"{", 400, "JSON"), ("/v1/predict", b"{}", 422, "features by name or a row"),
            ("/v1/predict", b'{"row": [1]}', 422, f"{width} features"),
            ("/v1/predict", b'{"features": {"ret_1": 0}}', 422, "missing"), ("/v1/predict", b'{"row": [Infinity]}', 422, "finite"),
            ("/v1/predict", b'{"features": {"ret_1": "0"}}', 422, "features.ret_1"),
            ("/v1/predict", b'{"row": [0], "head": "nobody"}', 404, "nobody"),
            ("/v1/predict", b'{"row": [0], "head": "direction"}', 404, "no champion"),
            ("/v1/batch", b'{"rows": [[0], [0, 1]]}', 422, "rows.1"),
            ("/v1/batch", orjson.dumps({"rows": [[0.0]] * 10_001}), 413, "10000"), ("/v1/nowhere", b"{}", 404, "Not Found")):
        answer = requests.post(up.url + path, body, headers=up.headers | json, timeout=10)
        assert answer.status_code == status and said in answer.json()["error"], (path, body[:60], answer.status_code, answer.text)
    assert requests.post(f"{up.url}/v1/predict", b"{}", headers=up.headers, timeout=10).status_code == 415
    assert requests.post(f"{up.url}/v1/batch", b"0" * 16_000_001, headers=up.headers | json, timeout=10).status_code == 413
    assert requests.post(f"{up.url}/v1/batch", iter([b"0" * 9_000_000] * 2), headers=up.headers | json, timeout=10).status_code == 413
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": up.server.token}):
        for path in ("/v1/models", "/metrics", "/v1/symbols/AAPL"):
            assert requests.get(up.url + path, headers=wrong, timeout=10).status_code == 401
    assert requests.get(f"{up.url}/health", timeout=10).json() == {"status": "ok", "instance": up.server.instance}
    assert requests.get(f"{up.url}/ready", timeout=10).json()["ready"] is True


def test_it_listens_here_alone_tells_prometheus_and_keeps_its_token_to_its_owner(up: Serving, tmp_path: Path) -> None:
    import psutil

    assert {c.laddr.ip for c in psutil.Process(up.process.pid).net_connections("tcp") if c.status == "LISTEN"} == {"127.0.0.1"}
    assert oct((up.ws.state_dir / "serving.json").stat().st_mode)[-3:] == "600" and up.server.token in up.printed.read_text()
    ask(up.server, "/v1/models")
    text = requests.get(f"{up.url}/metrics", headers=up.headers, timeout=10).text
    assert 'gpt_trader_serving_requests_total{path="/v1/models",status="200"}' in text and "gpt_trader_serving_answers_total" in text
    second = subprocess.run([PROGRAM, "serve", "--port", "0", "--workspace", str(up.ws.root)], capture_output=True, text=True, timeout=60)
    assert second.returncode == 74 and second.stderr.count("\n") == 1 and "serving" in second.stderr


# ---------------------------------------------------------------- procedures
@pytest.mark.slow
def test_promotion_and_rollback_are_verified_by_what_the_server_answers(up: Serving) -> None:
    ws = up.ws
    before, waiting = champion(ws, HEAD).version, models(ws, HEAD)[-1].version
    dry = run_procedure(ws, "promote_model", {"version": waiting})
    assert dry.outcome.status == Status.OK and dry.outcome.figures["dry_run"]
    assert champion(ws, HEAD).version == before and rollout(ws, HEAD) is None
    step = run_procedure(ws, "promote_model", {"execute": True}).outcome
    assert (step.status, step.verification) == (Status.OK, "verified"), step.summary
    figures = step.figures
    assert {k: figures[k] for k in ("head", "version", "before", "stage", "share")} == {
        "head": HEAD, "version": waiting, "before": before, "stage": "challenger", "share": 0.1}
    assert before in figures["served_by"] and waiting in figures["served_by"] and rollout(ws, HEAD).share == 0.1
    whole = run_procedure(ws, "promote_model", {"mode": "at-once", "execute": True}).outcome
    assert whole.verification == "verified" and {k: whole.figures[k] for k in ("stage", "share", "served_by")} == {
        "stage": "champion", "share": 1.0, "served_by": waiting}
    back = run_procedure(ws, "rollback_model", {"head": HEAD, "reason": "a test", "execute": True}).outcome
    assert (back.status, back.verification) == (Status.OK, "verified"), back.summary
    assert {k: back.figures[k] for k in ("head", "from", "to", "served_by")} == {
        "head": HEAD, "from": waiting, "to": before, "served_by": before}
    assert ask(up.server, "/v1/models")[1]["heads"][0]["champion"] == before


def test_what_the_registry_says_and_the_server_does_not_is_not_verified(up: Serving) -> None:
    """A server that is stopped in its tracks (SIGSTOP): the registry has changed, the answers have not."""
    from gpt_trader.ml.served import verify_served

    os.kill(up.process.pid, signal.SIGSTOP)
    try:
        assert verify_served(up.ws, HEAD, patience=1.0).verdict != "verified"
    finally:
        os.kill(up.process.pid, signal.SIGCONT)
    assert verify_served(up.ws, HEAD).verdict == "verified"


@pytest.mark.slow
def test_a_model_that_has_not_earned_it_is_refused(desk: Path, tmp_path: Path) -> None:
    with copied(desk, tmp_path / "desk") as ws:
        model = next(m for m in models(ws, HEAD) if m.status == "challenger")
        behind = {**model.card["evaluation"], "versus_naive": {"value": 0.0, "low": -0.01, "high": 0.01}}
        weak = {**model.card, "version": "weak", "identity": "weak", "evaluation": behind}
        for name in ("model.txt", "walk_forward.parquet"):
            target = ws.models_dir / HEAD / "weak" / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(model.path(ws, name).read_bytes())
        ws.journal.append("model.registered", weak, subject=f"{HEAD}/weak")
        before = champion(ws, HEAD).version
        done = run_procedure(ws, "promote_model", {"version": "weak", "execute": True}).outcome
        assert done.status == Status.WARNING and done.verification == "refuted" and "both simple rules" in done.figures["refused"]
        assert champion(ws, HEAD).version == before and rollout(ws, HEAD) is None


@pytest.mark.slow
def test_lost_predictions_are_rebuilt_and_say_so(desk: Path, tmp_path: Path) -> None:
    from gpt_trader.ml.prediction import accuracy

    with copied(desk, tmp_path / "desk") as ws:
        dry = run_procedure(ws, "rebuild_predictions", {"first": "2013-01-02"}).outcome
        assert dry.figures["missing"] > 100 and ws.telemetry.rows("SELECT count(*) AS n FROM predictions")[0]["n"] == 0
        done = run_procedure(ws, "rebuild_predictions", {"first": "2013-01-02", "execute": True}).outcome
        assert (done.status, done.verification, done.figures["written"]) == (Status.OK, "verified", dry.figures["missing"])
        rows = ws.telemetry.frame("SELECT * FROM predictions")
        assert set(rows["role"]) == {"rebuilt"} and (rows["made_at"] > rows["session"]).any() and accuracy(ws, HEAD).n == 0


# ---------------------------------------------------------------- what stops a rollout
@pytest.mark.slow
def test_the_server_holds_a_challenger_that_answers_otherwise(desk: Path, tmp_path: Path) -> None:
    """Counted by the process that serves, journalled by it, and resumed by whoever has looked."""
    from gpt_trader.ml.promotion import carry_out, plan_promotion

    with copied(desk, tmp_path / "desk") as ws:
        settings = (ws.config_dir / "models.yaml").read_text().replace("max_divergence: 1", "max_divergence: 0.5, min_requests: 60")
        (ws.config_dir / "models.yaml").write_text(settings)
    with Workspace.open(tmp_path / "desk") as ws, serving(ws, tmp_path) as up:
        version, best = models(ws, HEAD)[-1].version, champion(ws, HEAD).version
        going = start_rollout(ws, HEAD, version, reason="a test")
        wait_until(lambda: ask(up.server, "/v1/models")[1]["heads"][0]["rollout"] == going.id, "it is taken over")
        rows = rows_of(ws, 200)
        differ = (Predictor.load(ws).scorer.many(rows) >= 0.5) != (Predictor.load(ws, version=version).scorer.many(rows) >= 0.5)
        assert differ.any(), "two models that agree on everything"
        for n in range(60):
            assert ask(up.server, "/v1/predict", {"row": with_null(rows[differ][0]), "key": str(n)})[0] == 200
        held = wait_until(lambda: (now := rollout(ws, HEAD)).state == "held" and now, "it is held", 20)
        assert held.share == 0.1 and "answers otherwise in 100%" in held.reason and champion(ws, HEAD).version == best
        again = carry_out(ws, plan_promotion(ws, HEAD, version), "somebody who looked")
        assert again.state == "running" and again.share == 0.1
        wait_until(lambda: ask(up.server, "/v1/models")[1]["heads"][0]["requests"] == 0, "its step begins anew")
        assert ws.journal.check_projections() == []


@pytest.mark.slow
def test_a_signal_drains_it(desk: Path, tmp_path: Path) -> None:
    """A request of which half has arrived is answered, to its last byte; then the process ends, and nobody new is let in."""
    with copied(desk, tmp_path / "desk") as ws, serving(ws, tmp_path) as up:
        body = orjson.dumps({"rows": [with_null(row) for row in rows_of(ws, 2_000)]})
        head = f"POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", up.server.port), timeout=20) as line:
            line.sendall(f"{head}Authorization: {up.headers['Authorization']}\r\n\r\n".encode() + body[: len(body) // 2])
            time.sleep(0.3)
            up.process.send_signal(signal.SIGTERM)

            def refused() -> bool:
                try:
                    socket.create_connection(("127.0.0.1", up.server.port), timeout=1).close()
                except OSError:
                    return True
                return False

            wait_until(refused, "nobody new is let in", 5)
            assert up.process.poll() is None, "it waits for what is under way"
            line.sendall(body[len(body) // 2:])
            answer = b""
            while more := line.recv(65_536):
                answer += more
        assert answer.startswith(b"HTTP/1.1 200") and len(orjson.loads(answer.partition(b"\r\n\r\n")[2])["probabilities"]) == 2_000
        assert up.process.wait(20) == 0


# ---------------------------------------------------------------- fuzzed
def fuzz(up: Serving, folder: Path, seconds: int) -> str:
    """Schemathesis on the server's own description; what it printed."""
    checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
              "negative_data_rejection", "ignored_auth", "unsupported_method")
    words = [str(Path(PROGRAM).with_name("st")), "run", f"{up.url}/openapi.json", "-H", f"Authorization: Bearer {up.server.token}",
             "--max-time", str(seconds), "--phases", "coverage,fuzzing", "--checks", ",".join(checks), "--continue-on-failure",
             "--warnings", "off"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=seconds + 120)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_what_schemathesis_sends_is_answered_as_described_and_leaves_no_memory_behind(up: Serving, tmp_path: Path) -> None:
    import psutil

    process = psutil.Process(up.process.pid)
    fuzz(up, tmp_path, 8)  # each way once: libraries are loaded, caches filled
    before = process.memory_info().rss
    said = fuzz(up, tmp_path, 300 if SOAK else 22)
    assert "No issues found" in said and process.memory_info().rss - before < 16e6, f"{process.memory_info().rss - before:,} bytes more"
    text = requests.get(f"{up.url}/metrics", headers=up.headers, timeout=10).text
    assert 'status="422"' in text and 'status="5' not in text


# ---------------------------------------------------------------- promotion under load
Asked = tuple[int, str, float, float]


def load(up: Serving, stop: threading.Event, answers: list[Asked], keys: "Iterator[int]", rows: list[list[float | None]]) -> None:
    """One client on a connection of its own: (status, version, sent, answered)."""
    session = requests.Session()
    session.trust_env = False
    while not stop.is_set():
        sent = time.monotonic()
        n = next(keys)
        answer = session.post(f"{up.url}/v1/predict", orjson.dumps({"row": rows[n % len(rows)], "key": f"load {n}"}), timeout=10,
                              headers=up.headers | {"Content-Type": "application/json"})
        answers.append((answer.status_code, answer.json().get("version", ""), sent, time.monotonic()))


@pytest.mark.slow
def test_a_promotion_under_load_fails_no_request(up: Serving) -> None:
    """Two rollouts to the end and one rollback while clients ask.

    Every answer is 200, stamped, and of a version that served then; the shares are the steps' within four binomial standard errors.
    """
    import itertools

    ws, total = up.ws, 20_000 if SOAK else 4_000
    first, stop, answers = champion(ws, HEAD).version, threading.Event(), list[Asked]()
    versions = [m.version for m in models(ws, HEAD) if m.version != first]
    keys, rows = itertools.count(), [with_null(row) for row in rows_of(ws, 200)]
    each = total // 7  # three shares of two rollouts, and after the rollback
    windows: list[tuple[str, float, float, float]] = []

    def served(version: str, share: float) -> None:
        """Let a phase have its requests, counted from when the server has taken it over."""
        from gpt_trader.ml.served import verify_served

        assert verify_served(ws, HEAD, keys=20).verdict == "verified"
        began, count = time.monotonic(), len(answers)
        while len(answers) < count + each and not any(client.done() for client in clients):  # a client that is done has failed
            time.sleep(0.01)
        windows.append((version, share, began, time.monotonic()))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, up, stop, answers, keys, rows) for _ in range(4)]
        try:
            for version in versions:
                going = start_rollout(ws, HEAD, version, reason="a test")
                for share in (0.1, 0.5):
                    assert going.share == share
                    served(version, share)
                    going = advance(ws, going, "a test")
                assert going.state == "completed" and champion(ws, HEAD).version == version
                served(version, 1.0)
            roll_back(ws, HEAD, "a test")
            served(versions[0], 1.0)
        finally:
            stop.set()
        for client in clients:
            client.result()
    assert len(answers) >= total and {status for status, *_ in answers} == {200}
    assert {version for _, version, *_ in answers} == {first, *versions}
    for version, share, began, ended in windows:
        mine = [v for _, v, sent, answered in answers if sent >= began and answered <= ended]
        got = sum(v == version for v in mine) / len(mine)
        assert abs(got - share) <= 4 * (share * (1 - share) / len(mine)) ** 0.5, (version, share, got, len(mine))
    roll_back(ws, HEAD, "put it back")
    assert champion(ws, HEAD).version == first and capital_shares(ws, HEAD) == {first: 1.0}
    assert ws.journal.check_projections() == []
