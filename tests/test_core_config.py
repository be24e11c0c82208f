"""Configuration through the package: layers, provenance, limits that only tighten, errors that name the line, secrets by reference."""
import os
from datetime import timedelta
from pathlib import Path

import pytest

from gpt_trader.core.config import Config, load_config, packaged_dir
from gpt_trader.core.instruments import load_instruments
from gpt_trader.core.outcome import ConfigError, UsageError
from gpt_trader.core.secret import Secret


class Layers:
    """Three folders beside each other, as /etc, the user's and the workspace's would be."""

    def __init__(self, root: Path) -> None:
        self.etc, self.user, self.workspace = (root / name for name in ("etc", "user", "workspace"))
        for folder in (self.etc, self.user, self.workspace):
            folder.mkdir()

    def load(self) -> Config:
        return load_config(self.workspace, etc=self.etc, user=self.user)


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def test_defaults_hold_the_runbooks_numbers(layers: Layers) -> None:
    config = layers.load()
    metrics = {k: (m.normal_low, m.normal_high, m.alert, m.critical) for k, m in config.alerts.key_metrics.items()}
    assert metrics == {
        "model_accuracy": (0.58, 0.62, 0.55, 0.50),
        "predictions_per_second": (4500, 5500, 4000, 3000),
        "api_latency": (10, 30, 50, 100),
        "memory_usage": (40, 70, 80, 90),
        "cpu_usage": (30, 60, 75, 85),
        "error_rate": (0, 0.1, 0.5, 1),
    }
    assert {k: s.response_minutes for k, s in config.alerts.severities.items()} == {"P1": 5, "P2": 30, "P3": 120, "P4": 1440}
    titles = {rule.title for rule in config.alerts.rules.values()}
    assert {"Model accuracy dropped below 55%", "Memory usage exceeds 85%"} <= titles
    assert {"Order execution failed", "Portfolio VaR exceeds limit"} <= titles
    assert config.risk.limits.max_var == 50_000


def test_every_threshold_is_a_number_once_loaded(layers: Layers) -> None:
    for rule in layers.load().alerts.rules.values():
        assert isinstance(rule.threshold, float) and isinstance(rule.critical, float | None) and isinstance(rule.for_, timedelta)


def test_layers_merge_key_by_key_and_the_last_wins(layers: Layers) -> None:
    (layers.etc / "config.yaml").write_text("desk:\n  name: etc\n  universe: [IBM]\n")
    (layers.user / "config.yaml").write_text("desk: {name: user}\nlogging: {level: DEBUG}\n")
    (layers.workspace / "config.yaml").write_text("\ndesk:\n  name: workspace\n")
    config = layers.load()
    assert (config.app.desk.name, config.app.desk.universe, config.app.logging.level) == ("workspace", ("IBM",), "DEBUG")
    assert str(config.provenance["config.desk.name"]) == f"{layers.workspace}/config.yaml:3"
    assert str(config.provenance["config.desk.universe"]) == f"{layers.etc}/config.yaml:3"
    rows = {key: (value, source) for key, value, source in config.show()}
    assert rows["config.logging.level"] == ("DEBUG", f"{layers.user}/config.yaml:2")
    packaged = packaged_dir() / "config.yaml"
    line = next(n for n, text in enumerate(packaged.read_text().splitlines(), 1) if text.startswith("  kind: paper"))
    assert rows["config.broker.kind"] == ("paper", f"{packaged}:{line}")


def test_no_layers_at_all_is_fine(tmp_path: Path) -> None:
    assert load_config(None, etc=tmp_path / "none", user=tmp_path / "none").app.broker.kind == "paper"


def test_the_users_folder_follows_xdg(layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xdg" / "gpt-trader").mkdir(parents=True)
    (tmp_path / "xdg" / "gpt-trader" / "config.yaml").write_text("desk: {name: mine}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert load_config(None, etc=layers.etc).app.desk.name == "mine"


@pytest.mark.parametrize("lower", ["user", "workspace"])
@pytest.mark.parametrize(("section", "key", "etc", "tighter", "looser"), [
    ("limits", "max_var", 40_000, 30_000, 40_001),
    ("limits", "price_collar", 0.05, 0.01, 0.06),
    ("limits", "max_orders_per_session", 10, 0, 11),
    ("limits", "min_cash", 1000, 2000, 999),
    ("measures", "confidence", 0.99, 0.995, 0.95),
    ("measures", "window", 300, 300, 301),
])
def test_a_limit_in_etc_can_only_be_tightened(
    layers: Layers, lower: str, section: str, key: str, etc: float, tighter: float, looser: float,
) -> None:
    (layers.etc / "risk.yaml").write_text(f"{section}:\n  {key}: {etc}\n")
    own = getattr(layers, lower) / "risk.yaml"
    own.write_text(f"{section}:\n  {key}: {tighter}\n")
    assert layers.load().get(f"risk.{section}.{key}") == tighter
    own.write_text(f"\n{section}:\n  {key}: {looser}\n")
    with pytest.raises(ConfigError) as refused:
        layers.load()
    assert f"{layers.etc}/risk.yaml:2" in str(refused.value) and f"{own}:3" in str(refused.value)


def test_a_symbol_that_etc_restricts_stays_restricted(layers: Layers) -> None:
    (layers.etc / "risk.yaml").write_text("limits: {restricted_symbols: [IBM], trading_hours: true}\n")
    own = layers.workspace / "risk.yaml"
    own.write_text("limits: {restricted_symbols: [AAPL, IBM]}\n")
    assert layers.load().risk.limits.restricted_symbols == ("AAPL", "IBM")
    for looser in ("restricted_symbols: [AAPL]", "restricted_symbols: []", "trading_hours: false"):
        own.write_text(f"limits: {{{looser}}}\n")
        with pytest.raises(ConfigError, match="can only be tightened"):
            layers.load()


def test_a_limit_that_etc_does_not_set_is_free(layers: Layers) -> None:
    (layers.etc / "risk.yaml").write_text("limits:\n  max_var: 40_000\n")
    (layers.workspace / "risk.yaml").write_text("limits:\n  max_drawdown: 0.2\n")
    assert layers.load().risk.limits.max_drawdown == 0.2


def test_a_workspace_cannot_loosen_what_the_user_tightened_past_etc(layers: Layers) -> None:
    """Between user and workspace the last one wins; only /etc binds."""
    (layers.etc / "risk.yaml").write_text("limits: {max_var: 40_000}\n")
    (layers.user / "risk.yaml").write_text("limits: {max_var: 20_000}\n")
    (layers.workspace / "risk.yaml").write_text("limits: {max_var: 39_000}\n")
    assert layers.load().risk.limits.max_var == 39_000


def test_an_alert_follows_its_limit(layers: Layers) -> None:
    (layers.workspace / "risk.yaml").write_text("limits: {max_var: 10_000}\n")
    config = layers.load()
    rule = config.alerts.rules["portfolio_var"]
    assert (rule.threshold, rule.critical) == (10_000, 15_000)
    assert config.source_of("alerts.rules.portfolio_var.threshold").file == layers.workspace / "risk.yaml"
    (layers.workspace / "alerts.yaml").write_text("rules: {memory_usage: {threshold: 82}}\n")
    assert layers.load().alerts.rules["memory_usage"].title == "Memory usage exceeds 82%", "a title never states another number"


@pytest.mark.parametrize(("name", "text", "words"), [
    ("risk.yaml", "limits:\n  max_vra: 1\n", ["risk.yaml:2", "limits.max_vra", "'max_var'"]),
    ("risk.yaml", "limits:\n  max_var: -1\n", ["risk.yaml:2", "limits.max_var", "-1", "greater than 0"]),
    ("risk.yaml", "limits:\n  max_var: true\n", ["risk.yaml:2", "True"]),
    ("risk.yaml", "limits:\n  max_var: .nan\n", ["risk.yaml:2", "finite"]),
    ("risk.yaml", "limits:\n  max_var: 1\nlimits:\n  max_drawdown: 0.1\n", ["risk.yaml:3", "twice", "line 1"]),
    ("risk.yaml", "limits:\n\tmax_var: 1\n", ["risk.yaml:2", "YAML"]),
    ("risk.yaml", "just words\n", ["risk.yaml:1"]),
    ("config.yaml", "data: {provider: yahoo}\n", ["config.yaml:1", "yahoo", "'embedded', 'csv', 'parquet' or 'http'"]),
    ("config.yaml", "data: {provider: csv}\n", ["data.folder"]),
    ("config.yaml", "desk: {universe: [AAPL, AAPL]}\n", ["config.yaml:1", "AAPL"]),
    ("config.yaml", "desk:\n  universe:\n    - AAPL\n    - ../etc\n", ["config.yaml:4", "../etc"]),
    ("config.yaml", "approvals: {default: maybe}\n", ["maybe", "'none' or 'confirm'"]),
    ("alerts.yaml", "on_call: {rotations: {b: {days: [thu, fri, sat]}}}\n", ["sun"]),
    ("alerts.yaml", "escalation: [nobody]\n", ["nobody"]),
    ("alerts.yaml", "rules: {portfolio_var: {for: 5 minutes}}\n", ["5 minutes", "5m"]),
    ("alerts.yaml", "rules: {portfolio_var: {threshold: risk.limits.max_vra}}\n", ["alerts.yaml:1", "'max_var'"]),
    ("alerts.yml", "rules: {}\n", ["alerts.yml", "alerts.yaml"]),
])
def test_a_mistake_names_file_line_key_and_what_is_allowed(layers: Layers, name: str, text: str, words: list[str]) -> None:
    (layers.workspace / name).write_text(text)
    with pytest.raises(ConfigError) as refused:
        layers.load()
    assert refused.value.exit_code == 78
    for word in (str(layers.workspace), *words):
        assert word in str(refused.value)


def test_all_mistakes_of_a_file_are_told_at_once(layers: Layers) -> None:
    (layers.workspace / "risk.yaml").write_text("limits:\n  max_var: x\n  max_drawdown: 2\n")
    with pytest.raises(ConfigError, match="2 mistakes") as refused:
        layers.load()
    assert "risk.yaml:2" in str(refused.value) and "risk.yaml:3" in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_etc_is_an_error_and_not_an_absence(layers: Layers) -> None:
    (layers.etc / "risk.yaml").write_text("limits: {max_var: 1}\n")
    (layers.etc / "risk.yaml").chmod(0)
    with pytest.raises(ConfigError, match="cannot be read"):
        layers.load()


def test_a_file_in_the_way_of_the_folder_is_no_layer(layers: Layers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load_config(tmp_path / "file", etc=layers.etc, user=layers.user).app.desk.name == "gpt-trader"


@pytest.mark.parametrize("literal", ["hunter2", "'mailto://me:hunter2@example.com'", "[hunter2]", "{value: hunter2}"])
def test_a_literal_secret_is_refused_and_never_repeated(layers: Layers, literal: str) -> None:
    (layers.workspace / "config.yaml").write_text(f"notify:\n  channels:\n    pager:\n      url: {literal}\n")
    with pytest.raises(ConfigError) as refused:
        layers.load()
    assert "hunter2" not in str(refused.value) and "config.yaml" in str(refused.value)
    assert refused.value.__cause__ is None or "hunter2" not in str(refused.value.__cause__)


def test_a_secret_shows_its_reference_alone(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "https://x/{symbol}?t={token}"
    (layers.workspace / "config.yaml").write_text(f"data: {{provider: http, url_template: '{template}', token: env:DATA_TOKEN}}\n")
    monkeypatch.setenv("DATA_TOKEN", "correct horse")
    config = layers.load()
    token = config.app.data.token
    assert token == Secret("env:DATA_TOKEN") and token is not None and token.resolve() == "correct horse"
    assert "correct horse" not in repr(config) + str(config.show()) + config.app.model_dump_json()
    assert ("config.data.token", "env:DATA_TOKEN", f"{layers.workspace}/config.yaml:1") in config.show()


def test_an_address_with_a_password_is_refused(layers: Layers) -> None:
    (layers.workspace / "config.yaml").write_text("data: {provider: http, url_template: 'https://me:hunter2@x/{symbol}'}\n")
    with pytest.raises(ConfigError) as refused:
        layers.load()
    assert "hunter2" not in str(refused.value) and "data.token" in str(refused.value)


def test_instruments_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'AAPL'"):
        load_instruments().get("APPL")
    (tmp_path / "instruments.yaml").write_text("AAPL:\n  tick: 0\n")
    with pytest.raises(ConfigError, match="AAPL.tick is 0: it must be greater than 0"):
        load_instruments(tmp_path)
