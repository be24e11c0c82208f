"""What a result needs beside it: each figure against one computed another way, and the hold-out's order in the record."""
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpt_trader.cli.main import run_cli
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.config import load_config
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import adjusted
from gpt_trader.dataflow.ingestion import ingest_folder
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.features import compute_features
from gpt_trader.ml.heads import recorded_columns, train_heads
from gpt_trader.ml.holdout import freeze, open_holdout, seal
from gpt_trader.ml.honest import column, table
from gpt_trader.ml.importance import contributions, importance
from gpt_trader.ml.payoff import YEAR, after_costs, deflated_sharpe, deflated_sharpe_of, ranking, target_positions
from gpt_trader.ml.retraining import Known, known_now
from gpt_trader.ml.training import labels_for, settings_for, train_final, training_table, walk_forward

PROVIDER = EmbeddedProvider()
BARS = adjusted(pd.concat([PROVIDER.bars(symbol) for symbol in ("AAPL", "GOOG", "IBM", "MSFT")], ignore_index=True))
BARS = BARS[BARS["session"] < "2008"]
NAMES = ("ret_1", "ret_21", "range_ratio", "range_5_21", "volatility_21")
SETTINGS = replace(settings_for(load_config(None)), features=NAMES, num_boost_round=15, resamples=200)
TABLE = compute_features(BARS, NAMES)
LABELS = labels_for(BARS, SETTINGS)
WALK = walk_forward(TABLE, LABELS, SETTINGS).predictions
SMALL = "lightgbm: {num_boost_round: 15, learning_rate: 0.2}\nfeature_sets: {base: [ret_1, range_ratio, range_5_21, volatility_21]}\n"


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path, SimulatedClock(datetime(2013, 3, 1, 22, tzinfo=UTC))) as opened:
        yield opened


# ---------------------------------------------------------------- figures
def test_ic_is_the_mean_of_each_sessions_correlation() -> None:
    index = pd.MultiIndex.from_frame(WALK[["decided", "symbol"]], names=["session", "symbol"])
    score = pd.Series(WALK["probability"].to_numpy(), index=index)
    found = ranking(score, LABELS["value"])
    both = pd.DataFrame({"s": score, "o": LABELS["value"].reindex(index)})
    for method, value, ratio in (("pearson", found.ic, found.icir), ("spearman", found.rank_ic, found.rank_icir)):
        each = both.groupby("session").apply(lambda g, m=method: g["s"].corr(g["o"], method=m) if len(g) > 2 else np.nan).dropna()
        assert value == pytest.approx(each.mean()) and ratio == pytest.approx(each.mean() / each.std()) and found.sessions == len(each)


def test_the_deflated_sharpe_ratio_is_the_published_one_and_skfolios() -> None:
    from skfolio.measures import deflated_sharpe_ratio, probabilistic_sharpe_ratio

    # Bailey and López de Prado (2014), the numerical example: 0.9004
    assert deflated_sharpe(2.5 / 250**0.5, 1250, -3, 10, trials=100, trial_variance=0.5 / 250) == pytest.approx(0.9004, abs=5e-5)
    returns = np.random.default_rng(1).standard_t(4, 800) * 0.01 + 0.0005
    assert deflated_sharpe_of(returns) == pytest.approx(probabilistic_sharpe_ratio(returns), rel=1e-9)
    tried = np.random.default_rng(2).normal(0, 1 / 799**0.5, 50)
    tried = (tried - tried.mean()) / tried.std(ddof=1) / 799**0.5  # whose variance is that of worthless tries
    theirs = deflated_sharpe_ratio(returns, tried)
    assert deflated_sharpe_of(returns, 50) == pytest.approx(theirs, rel=1e-9)
    assert deflated_sharpe_of(returns, 50) < deflated_sharpe_of(returns) and deflated_sharpe_of(np.zeros(9)) is None


def test_returns_after_costs_are_what_a_loop_counts() -> None:
    closes = BARS.pivot(index="session", columns="symbol", values="close")
    horizon, bps = 3, 7.0
    targets = target_positions(WALK, "direction", "long_short").iloc[:260]
    found = after_costs(targets, closes, horizon=horizon, cost_bps=bps, style="long_short")
    days, books, net, gross, traded = list(targets.index), [], [], [], []
    moves = closes.pct_change().shift(-1)
    for t, day in enumerate(days):
        book = {}
        for back in range(horizon):
            if t - back >= 0:
                row = targets.loc[days[t - back]].dropna()
                for symbol, side in row.items():
                    book[symbol] = book.get(symbol, 0.0) + side / len(row) / horizon
        before = books[-1] if books else {}
        trade = sum(abs(book.get(s, 0.0) - before.get(s, 0.0)) for s in {*book, *before})
        brought = sum(weight * moves.loc[day, s] for s, weight in book.items())
        books.append(book)
        gross.append(brought)
        traded.append(trade)
        net.append(brought - trade * bps / 1e4)
    assert found.gross == pytest.approx(np.mean(gross) * YEAR) and found.net == pytest.approx(np.mean(net) * YEAR)
    assert found.turnover == pytest.approx(np.mean(traded) * YEAR)
    assert found.sharpe == pytest.approx(np.mean(net) / np.std(net, ddof=1) * YEAR**0.5)
    assert after_costs(targets, closes, cost_bps=0).gross == after_costs(targets, closes, cost_bps=0).net


def test_a_column_holds_every_figure_and_says_what_is_not_healthy() -> None:
    closes = BARS.pivot(index="session", columns="symbol", values="close")
    bands = load_config(None).models.heads["range_expansion"].bands
    made = column(WALK, LABELS, closes, SETTINGS, bands)
    worse = column(WALK.assign(predicted=WALK["naive"].astype(int)), LABELS, closes, SETTINGS, bands)
    cells = made.cells()
    right = (WALK["predicted"] == WALK["label"]).mean()
    assert cells["n"] == f"{len(WALK):,}" and cells["accuracy"] == f"{right:.3f}" and "–" not in (cells["AUC"], cells["Rank ICIR"])
    assert cells["naive rule"] == f"{(WALK['naive'] == WALK['label']).mean():.3f}"
    assert set(cells) == {row["figure"] for row in table([made])}
    assert worse.cells()["healthy"] == "no" and worse.cells()["beats both rules"] == "no"
    assert float(cells["Brier score"]) == pytest.approx(((WALK["probability"] - WALK["label"]) ** 2).mean(), abs=5e-5)


def test_importance_finds_the_features_that_help() -> None:
    table, known = training_table(TABLE, LABELS, NAMES)
    noisy = table.assign(noise=np.random.default_rng(1).normal(size=len(table)))
    settings = replace(SETTINGS, features=(*NAMES, "noise"), num_boost_round=60)
    cut = int(len(table) * 0.7)
    final = train_final(noisy.iloc[:cut], known.iloc[:cut], settings)
    found = importance(final.model_text, noisy.iloc[cut:], known["label"].iloc[cut:])
    assert "range" in found.index[0] and found.loc["noise", "permutation"] < 0.2 * found["permutation"].iloc[0]
    parts = contributions(final.model_text, noisy.iloc[cut:cut + 100])
    import lightgbm as lgb

    raw = lgb.Booster(model_str=final.model_text).predict(noisy.iloc[cut:cut + 100].to_numpy(), raw_score=True)
    assert np.allclose(parts.sum(axis=1), raw) and found["contribution"].sum() == pytest.approx(1)


# ---------------------------------------------------------------- the hold-out
def test_the_record_proves_that_parameters_were_frozen_before_the_holdout_was_opened(ws: Workspace) -> None:
    _, known = training_table(TABLE, LABELS, NAMES)
    sealed = seal(known, 252)
    entry = freeze(ws, SETTINGS, sealed, trials=7)
    first = open_holdout(ws, entry, SETTINGS, sealed, WALK)
    rows = WALK[WALK["decided"] >= sealed.first]
    assert first.evaluation.n == len(rows) and first.evaluation.correct == (rows["predicted"] == rows["label"]).sum()
    kinds = [(e.kind, e.seq) for e in ws.journal.entries(prefix="model.")]
    assert [k for k, _ in kinds] == ["model.frozen", "model.holdout_opened"] and kinds[0][1] < kinds[1][1] and ws.journal.verify().ok
    assert (first.number, first.others) == (1, 0) and "for the first time" in first.note
    same = open_holdout(ws, freeze(ws, SETTINGS, sealed), SETTINGS, sealed, WALK)
    other = replace(SETTINGS, num_boost_round=16)
    changed = open_holdout(ws, freeze(ws, other, sealed), other, sealed, WALK)
    assert (same.number, same.others) == (2, 0) and (changed.number, changed.others) == (3, 2)
    assert "no longer unseen" in same.note and "other parameters" in changed.note
    with pytest.raises(UsageError, match="froze other parameters"):
        open_holdout(ws, entry, other, sealed, WALK)
    with pytest.raises(UsageError, match="froze no parameters"):
        open_holdout(ws, ws.journal.get(first.entry), SETTINGS, sealed, WALK)


def test_a_first_opening_is_not_unseen_where_others_were_judged_on_its_sessions(ws: Workspace) -> None:
    from gpt_trader.ml.parameters import apply_model_change, plan_model_change
    from gpt_trader.ml.registry import train_and_register

    _, known = training_table(TABLE, LABELS, NAMES)
    sealed = seal(known, 252)
    early, same, other = replace(SETTINGS, num_boost_round=3), SETTINGS, replace(SETTINGS, num_boost_round=4)
    train_and_register(ws, BARS, settings=early, end=sealed.first - pd.Timedelta(days=1), trust=False)  # saw none of its sessions
    train_and_register(ws, BARS, settings=same, trust=False)  # its own parameters: nothing was chosen
    apply_model_change(ws, plan_model_change(ws, {"prediction.cache_models": False}), reason="speed")
    assert open_holdout(ws, freeze(ws, SETTINGS, sealed), SETTINGS, sealed, WALK).seen == ()
    train_and_register(ws, BARS, settings=other, trust=False)
    judged = ws.journal.head().seq
    apply_model_change(ws, plan_model_change(ws, {"lightgbm.num_leaves": 7}), reason="it did better")
    changed = ws.journal.head().seq
    fresh = replace(SETTINGS, head="direction")
    assert open_holdout(ws, freeze(ws, fresh, sealed), fresh, sealed, WALK).seen == (changed,)
    third = seal(known, 251)
    opened = open_holdout(ws, freeze(ws, SETTINGS, third), SETTINGS, third, WALK)
    assert opened.number == 1 and opened.seen == (judged, changed) and "and not unseen: other parameters were judged" in opened.note


def test_a_report_shows_the_holdout_that_was_opened_for_these_sessions(ws: Workspace) -> None:
    """The same parameters on a longer history are another model with another hold-out, which nobody has opened."""
    from gpt_trader.ml.registry import train_and_register

    (ws.config_dir / "models.yaml").write_text(SMALL + "model_training: {holdout_sessions: 252}\n")
    older = BARS[BARS["session"] < "2007-07"]
    done = train_heads(ws, ["range_expansion"], known=Known(older, ("AAPL", "GOOG", "IBM", "MSFT"), ()))[0]
    newer = train_and_register(ws, BARS, "range_expansion", trust=False).model
    assert [c.period for c in recorded_columns(ws, done.training.model, BARS)] == ["before the hold-out", "hold-out"]
    assert [c.period for c in recorded_columns(ws, newer, BARS)] == ["all"]


def test_a_search_never_sees_the_holdout_and_starts_with_what_is_there() -> None:
    from gpt_trader.ml.search import fold_loss, search

    table, known = training_table(TABLE, LABELS, NAMES)
    sealed = seal(known, 252)
    found = search(table, known, SETTINGS, sealed, trials=4, folds=3)
    late = known.index.get_level_values("session") >= sealed.first
    spoiled, lies = table.copy(), known.copy()
    spoiled.loc[late], lies.loc[late, "label"] = 0.0, 1.0
    again = search(spoiled, lies, SETTINGS, sealed, trials=4, folds=3)
    pd.testing.assert_frame_equal(found.trials, again.trials, check_exact=True)
    assert found.last_seen < sealed.first and found.loss == found.trials["loss"].min() <= found.present_loss
    rows = sealed.development
    assert found.loss == fold_loss(table.iloc[rows], known.iloc[rows], found.settings, 3)
    with pytest.raises(UsageError):
        search(table, known, SETTINGS, sealed, trials=1)


# ---------------------------------------------------------------- from somebody's folder
def folder_of_strangers(root: Path) -> Path:
    root.mkdir()
    for symbol, name in (("AAPL", "APPLE"), ("IBM", "BLUE"), ("MSFT", "SOFT")):
        frame = PROVIDER.bars(symbol).drop(columns="symbol").rename(columns={"session": "date"})
        frame[frame["date"] < "2009"].to_csv(root / f"{name}.csv", index=False)
    return root


@pytest.mark.slow
def test_ingest_train_report_on_a_folder_of_unseen_symbols(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices, home = folder_of_strangers(tmp_path / "prices"), tmp_path / "desk"
    with Workspace.create(home, SimulatedClock(datetime(2009, 1, 2, 23, tzinfo=UTC))) as ws:
        (ws.config_dir / "models.yaml").write_text(SMALL)
    assert run_cli(["ingest", str(prices), "--workspace", str(home)]) == 0
    assert run_cli(["--workspace", str(home), "report"]) in (3, 64), "nothing to report yet, and it says so"
    capsys.readouterr()
    assert run_cli(["train", "--workspace", str(home)]) == 0
    said = capsys.readouterr().out
    assert "none of the desk's universe" in said and "APPLE, BLUE, SOFT" in said and "opened for the first time" in said
    assert run_cli(["--workspace", str(home), "report", "--json"]) in (0, 1)
    done = json.loads(capsys.readouterr().out)
    shown = {head: {row["figure"]: row for row in done["figures"][head]} for head in ("range_expansion", "direction")}
    with Workspace.open(home) as ws:
        known = known_now(ws)
        again = train_heads(ws, ["direction"])[0]
        assert again.training.reused and again.opening.number == 2
        rows = again.training.model.predictions(ws)
        kept = recorded_columns(ws, again.training.model, known.bars)
    assert all(set(rows["accuracy"]) == {"figure", "before the hold-out", "hold-out"} for rows in shown.values())
    late = rows[rows["decided"] >= rows["decided"].drop_duplicates().sort_values().iloc[-504]]
    assert shown["direction"]["accuracy"]["hold-out"] == f"{(late['predicted'] == late['label']).mean():.3f}" == kept[1].cells()["accuracy"]


def test_closes_alone_drop_features_by_name_and_make_a_range_impossible(ws: Workspace) -> None:
    (ws.config_dir / "models.yaml").write_text(SMALL)
    closes = Known(BARS[["session", "symbol", "close"]], ("AAPL", "GOOG", "IBM", "MSFT"), ())
    wide, direction = train_heads(ws, known=closes)
    assert "range_expansion is impossible" in wide.impossible and "high and low" in wide.impossible and wide.training is None
    assert direction.training.model.features == ("ret_1", "volatility_21") and direction.opening.number == 1
    assert [note.split(" is dropped")[0] for note in direction.notes] == ["feature range_ratio", "feature range_5_21"]


def test_train_refuses_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Workspace.create(tmp_path / "desk", SimulatedClock(datetime(2001, 6, 1, 23, tzinfo=UTC))) as ws:
        assert run_cli(["train", "--workspace", str(ws.root)]) == 65
        assert "gpt-trader ingest" in capsys.readouterr().err
        ingest_folder(ws, folder_of_strangers(tmp_path / "prices"))
        assert run_cli(["train", "--workspace", str(ws.root)]) == 65  # a year and a half is too little to walk forward on
        said = capsys.readouterr()
        assert said.out.count("IMPOSSIBLE") == 2 and "no head can be trained" in said.err and "Traceback" not in said.err
        assert run_cli(["train", "--head", "directions", "--workspace", str(ws.root)]) == 64 and "direction" in capsys.readouterr().err


@pytest.mark.slow
def test_readme_has_the_table_that_a_run_gives() -> None:
    import sys

    root = Path(__file__).parents[1]
    sys.path.insert(0, str(root / "benchmarks"))
    from honest import embedded, written

    text = (root / "README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- honest -->\n")[2].partition("<!-- /honest -->")[0]
    made = written("The embedded universe: AAPL, GOOG, IBM, MSFT, 2000 to 2013", embedded())
    assert made in shown, "run `make honest`, and put what it prints into README"
    assert "Twenty large US stocks" in shown and shown.count("beats both rules") == 2
