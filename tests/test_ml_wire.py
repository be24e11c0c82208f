"""What a request may be: nothing unpacks to more than was sent, or is answered by 'internal error'; and who scores it beside."""
import asyncio
import io
import os
import socket
import struct
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from test_ml_rollout import HEAD, ws  # noqa: F401

from gpt_trader.core.outcome import DataError, StorageError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.ml import promotion, served, service
from gpt_trader.ml.registry import ModelVersion, PromotionRefused, champion, get_model, promote
from gpt_trader.ml.rollout import plan_rollback, roll_back, rollout, start_rollout
from gpt_trader.ml.serving import Front, _protocol, application
from gpt_trader.ml.wire import ARROW, NPY, Refused, parse_batch, parse_predict


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header.encode())) + header.encode() + data


def shaped(shape: str, data: bytes = b"") -> bytes:
    return npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}", data)


@pytest.mark.parametrize("body", [
    npy("{'descr': '<f8'"), npy("(" * 9000), npy("-" * 9000 + "1"), npy("{'descr': (), 'fortran_order': False, 'shape': (1,1)}"),
    shaped("(-2, -3)", b"0" * 48), shaped("(-1, -1)", b"0" * 8), shaped(f"(0, {10**30})"), shaped("(True, True)", b"0" * 8)],
    ids=["unclosed", "deep", "signs", "descr", "negative", "two minus", "huge", "bools"])
def test_a_header_that_lies_is_the_callers_fault(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_batch(NPY, body, {}, 100)
    assert refused.value.status == 400 and len(str(refused.value)) < 300


@given(st.text(max_size=80), st.binary(max_size=40))
def test_no_header_is_an_error_of_ours(header: str, data: bytes) -> None:
    with pytest.raises(Refused):
        parse_batch(NPY, npy(header, data), {}, 100)


def arrow(table: pa.Table, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_compressed_stream_is_refused_unread(codec: str) -> None:
    body = arrow(pa.table({"a": np.zeros(4_000_000)}), codec)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(Refused, match="compressed") as refused:
        parse_batch(ARROW, body, {}, 10_000)
    assert refused.value.status == 422 and pa.default_memory_pool().max_memory() == before


def test_columns_are_numbers_and_no_more_than_was_sent() -> None:
    plain = parse_batch(ARROW, arrow(pa.table({"a": [1.5, None], "b": pa.nulls(2), "c": [1, 2]})), {}, 10)
    assert plain.names == ("a", "b", "c") and np.array_equal(plain.rows, [[1.5, np.nan, 1], [np.nan, np.nan, 2]], equal_nan=True)
    for column in (["1.5"], pa.array(["x"]).dictionary_encode()):
        with pytest.raises(Refused) as refused:
            parse_batch(ARROW, arrow(pa.table({"a": column})), {}, 10)
        assert refused.value.status == 422
    with pytest.raises(Refused) as refused:
        parse_batch(ARROW, arrow(pa.table({f"c{n}": pa.nulls(5_000) for n in range(100)})), {}, 10_000)
    assert refused.value.status == 413


def test_a_refusal_does_not_send_the_request_back() -> None:
    for body in ({"x" * 100_000: 1}, {"features": {"x" * 100_000: 1}}):
        with pytest.raises(Refused) as refused:
            parse_predict(orjson.dumps(body))
        assert refused.value.status == 422 and len(str(refused.value)) < 400


# ---------------------------------------------------------------- who scores beside
def fake(version: str, names: tuple[str, ...]) -> Any:
    """A predictor that answers the feature `b`."""
    def one(row: Any) -> float:
        return float(row[names.index("b")])
    return SimpleNamespace(model=SimpleNamespace(head=HEAD, version=version, features=names), scorer=SimpleNamespace(one=one))


def test_a_row_in_the_champions_order_is_put_into_the_challengers(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    orders = {"a": ("a", "b", "c"), "b": ("c", "a", "b")}
    monkeypatch.setattr(service.Predictor, "load", lambda ws, head, version: fake(version, orders[version]))
    start_rollout(ws, HEAD, "b", steps=[0.5, 1.0])
    asked = service.PredictionService(ws)
    answers = [asked.predict([0.1, 0.7, 0.3], key=str(n)) for n in range(40)]
    assert {a.version for a in answers} == {"a", "b"} and {float(a.probabilities[0]) for a in answers} == {0.7}
    assert asked.line().tally.errors == asked.line().tally.disagreements == 0


def test_trouble_that_lasts_is_told_once(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def load(ws: Workspace, head: str, version: str) -> Any:
        if version == "b" and broken:
            raise StorageError("it is damaged")
        return fake(version, ("a", "b"))

    broken = True
    monkeypatch.setattr(service.Predictor, "load", load)
    asked = service.PredictionService(ws)
    start_rollout(ws, HEAD, "b")
    assert asked.refresh() and asked.trouble and asked.line().shares == {"a": 1.0}
    assert not asked.refresh() and not asked.refresh() and asked.trouble, "nothing has changed since"
    broken = False
    assert asked.refresh() and not asked.trouble and asked.line().shares == {"a": 0.9, "b": 0.1}
    assert not asked.refresh()


def test_asking_who_answers_is_no_evidence(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """However often a promotion asks for its proof, no challenger is held for what it says about a row that nobody has."""
    monkeypatch.setattr(service.Predictor, "load", lambda ws, head, version: fake(version, ("a", "b") if version == "a" else ("b", "a")))
    start_rollout(ws, HEAD, "b", steps=[0.5, 1.0])
    asked, row = service.PredictionService(ws), {"a": 0.2, "b": 0.9}
    answers = {n: asked.predict(row, key=n, probe=True).version for n in map(str, range(20))}
    assert asked.line().tally.requests == 0 and answers == {n: asked.predict(row, key=n).version for n in answers}
    assert asked.line().tally.requests == 20 and parse_predict(b'{"row": [1.5], "probe": true}').probe


def test_a_symbol_is_answered_by_whom_its_features_were_made_for(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A promotion to a model with another feature comes in between: the request does not fail."""
    orders = {"a": ("b",), "b": ("b", "new")}
    monkeypatch.setattr(service.Predictor, "load", lambda ws, head, version: fake(version, orders[version]))
    asked = service.PredictionService(ws)
    before = SimpleNamespace(session="2013-01-02", rows={"AAPL": {"b": 0.7}})

    def meanwhile(asked: Any, line: Any = None) -> Any:
        promote(ws, HEAD, "b")
        assert asked.refresh()
        return before

    monkeypatch.setattr(service, "newest_features" if not hasattr(service, "_newest") else "_newest", meanwhile)
    assert service.by_symbol(asked, "AAPL")[1].version == "a" and asked.line().best.model.version == "b"


def test_a_row_without_a_key_is_routed_by_its_content_whatever_its_order(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(service.Predictor, "load", lambda ws, head, version: fake(version, ("a", "b")))
    start_rollout(ws, HEAD, "b", steps=[0.5, 1.0])
    asked = service.PredictionService(ws)
    rows = [{"a": n / 7, "b": n / 41} for n in range(40)]
    assert [asked.predict(row).version for row in rows] == [asked.predict(dict(reversed(row.items()))).version for row in rows]


def test_an_empty_window_is_not_called_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = SimpleNamespace(model=SimpleNamespace(head=HEAD, version="a", card={"known_by": "2013-01-02"}))
    monkeypatch.setattr(service.Predictor, "load", lambda *_: predictor)
    bars = pd.DataFrame({"session": pd.to_datetime(["2013-01-03", "2013-01-04"]), "symbol": "AAPL"})
    with pytest.raises(UsageError, match="no session to predict from 2013-02-01 to the end"):
        service.rebuild_predictions(SimpleNamespace(), bars, first="2013-02-01")  # type: ignore[arg-type]


# ---------------------------------------------------------------- what was agreed to
def test_what_was_agreed_to_is_done_or_nothing_is(ws: Workspace) -> None:  # noqa: F811
    """Two people are asked at once: the second is not taken one champion further back, nor is its promotion held against another."""
    promote(ws, HEAD, "b")
    promote(ws, HEAD, "c")
    planned = plan_rollback(ws, HEAD)
    assert roll_back(ws, HEAD, "the first", planned).back == "b"
    with pytest.raises(UsageError, match="changed since"):
        roll_back(ws, HEAD, "the second", planned)
    assert champion(ws, HEAD).version == "b"
    for mode in ("gradual", "at-once"):
        stale = promotion.Plan(HEAD, "c", "a", mode, None, ())  # type: ignore[arg-type]
        with pytest.raises(PromotionRefused, match="changed since"):
            promotion.carry_out(ws, stale, "somebody")
    assert champion(ws, HEAD).version == "b" and rollout(ws, HEAD) is None


def test_a_version_does_not_replace_itself(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Two promote the same version: the second finds it done, and the way back stays."""
    read, first = ModelVersion.read, iter([True])

    def meanwhile(model: ModelVersion, ws: Workspace, *name: str) -> bytes:
        if next(first, False):
            promote(ws, HEAD, "b")
        return read(model, ws, *name)

    monkeypatch.setattr(ModelVersion, "read", meanwhile)
    assert promote(ws, HEAD, "b").version == "b"
    assert len(list(ws.journal.entries(prefix="model.promoted"))) == 2 and roll_back(ws, HEAD, "a test").back == "a"


def test_a_model_that_cannot_serve_is_not_promoted(ws: Workspace) -> None:  # noqa: F811
    card = {**get_model(ws, HEAD, "b").card, "version": "old", "identity": "old", "features_hash": "of another definition"}
    file = ws.models_dir / HEAD / "old" / "model.txt"
    file.parent.mkdir()
    file.write_bytes(b"b")
    ws.journal.append("model.registered", card, subject=f"{HEAD}/old")
    with pytest.raises(DataError, match="not defined as when"):
        promotion.plan_promotion(ws, HEAD, "old", "at-once")


# ---------------------------------------------------------------- the server, and who asks it
def answered(act: Any, messages: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> tuple[int, bytes, str]:
    """(status, metrics, what was logged) of one POST to /v1/predict."""
    limits = SimpleNamespace(max_rows=10, max_body_mb=1)
    models = SimpleNamespace(serving=limits)
    front = Front(SimpleNamespace(ws=SimpleNamespace(config=SimpleNamespace(models=models)), predict=act), "t" * 16, "i")  # type: ignore[arg-type]
    sent: list[Any] = []
    headers = [(b"authorization", b"Bearer " + b"t" * 16), (b"content-type", b"application/json"), (b"content-length", b"13")]
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": headers, "root_path": ""}

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(application(front)(scope, receive, send))
    front.close()
    return sent[0]["status"], front.counts.text(), capsys.readouterr().err


def test_what_the_log_is_said_to_have_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise KeyError("a fault of ours")

    status, _, log = answered(dies, [{"type": "http.request", "body": b'{"row": [1.5]}', "more_body": False}], capsys)
    assert status == 500 and "a fault of ours" in log


def test_a_caller_that_goes_away_is_no_fault_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    gone = [{"type": "http.request", "body": b'{"row"', "more_body": True}, {"type": "http.disconnect"}]
    status, metrics, log = answered(None, gone, capsys)
    assert status == 400 and b'status="500"' not in metrics and log == ""


@pytest.mark.parametrize("start", [
    b"GET /health HTTP/1.1\r\nX: ", b"GET /",
    b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n0\r\n0\r\nX: "],
    ids=["header", "path", "trailer"])
def test_a_request_does_not_begin_without_end(start: bytes) -> None:
    """No token is needed to begin one. uvicorn's parser keeps what it is sent."""
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, http=_protocol(), ws="none", lifespan="off", log_config=None, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            for body in (b"", b"x" * 1_000_000):  # what a body may be is not its business
                answer = requests.post(f"http://127.0.0.1:{listening.getsockname()[1]}/", body, timeout=10)
                assert answer.text == "ok"
            sent = 0
            with socket.create_connection(listening.getsockname(), timeout=10) as line, pytest.raises(OSError):  # noqa: PT011, PT012
                line.sendall(start)
                while sent < 40_000_000:
                    line.sendall(b"a" * 65_536)
                    sent += 65_536
            assert sent < 20_000_000
        finally:
            server.should_exit = True
            thread.join()


def test_a_challengers_own_fault_is_its_own(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def dies(row: Any) -> float:
        raise RuntimeError("a fault of the challenger")

    monkeypatch.setattr(service.Predictor, "load", lambda ws, head, version: fake(version, ("a", "b")))
    start_rollout(ws, HEAD, "b", steps=[0.5, 1.0])
    asked = service.PredictionService(ws)
    asked.line().challenger.scorer.one = dies  # type: ignore[union-attr,method-assign]
    assert {asked.predict([0.1, 0.7], key=str(n)).version for n in range(20)} == {"a"} and asked.line().tally.errors == 20


def test_another_on_the_servers_port_is_not_told_the_token(ws: Workspace) -> None:  # noqa: F811
    """The server died without a word, and something else has its port, which need not speak HTTP."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def listen() -> None:
            with listening.accept()[0] as line:
                heard.append(line.recv(65_536))
                line.sendall(b"who is there?\r\n\r\n")

        thread = threading.Thread(target=listen)
        thread.start()
        server = served.Server(os.getpid(), listening.getsockname()[1], "name", "the configured token")
        served.announce(ws, server, made_here=True)
        assert served.running(ws) is None
        thread.join()
    assert heard and b"the configured token" not in heard[0]
    served.withdraw(ws, replace(server, instance="another"))
    (ws.state_dir / "serving.json").write_text("{")
    served.withdraw(ws, server)


def test_a_private_file(ws: Workspace) -> None:  # noqa: F811
    served.announce(ws, served.Server(1, 2, "name", "secret"), made_here=False)
    file: Path = ws.state_dir / "serving.json"
    assert oct(file.stat().st_mode)[-3:] == "600" and b"secret" not in file.read_bytes()
