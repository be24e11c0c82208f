"""Backup and restore: consistency under writes, every kind of damage, the way back."""
import gzip
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.metrics import record_metric
from gpt_trader.core.outcome import StorageError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.ops.backup import create_backup, list_backups, prune_backups, to_keep, verify_backup
from gpt_trader.ops.integrity import REFUTED, check_anchors, integrity_outcome, verify_data_integrity
from gpt_trader.ops.restore import make_openable, plan_restore, restore_backup
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.permit import grant

START = datetime(2013, 3, 1, 21, 5, tzinfo=UTC)
DAY = "2013-03-01"


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "desk", SimulatedClock(START)) as found:
        record_metric(found, "portfolio_var", 40_000)
        PaperBroker(found, found.instruments, found.config.app.broker.paper, found.clock, calendar=found.calendar).close()
        (found.models_dir / "range_expansion").mkdir(parents=True)
        (found.models_dir / "range_expansion" / "model.txt").write_text("tree\n" * 1000)
        yield found


def entry(ws: Workspace) -> None:
    ws.journal.append("journal.rebuilt", {"tables": []})


def test_backups_made_during_concurrent_writes_are_all_whole(ws: Workspace, tmp_path: Path) -> None:
    stop, written = threading.Event(), []

    def write() -> None:
        with Workspace.open(ws.root) as mine:
            while not stop.is_set():
                with mine.store.transaction():
                    entry(mine)
                    entry(mine)
                record_metric(mine, "portfolio_var", 41_000)
                written.append(mine.journal.head().seq)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [create_backup(ws, tmp_path / "elsewhere", prune=False) for _ in range(4)]
    finally:
        stop.set()
        writer.join()
    assert len(written) > 4, "the writer was not held up for long"
    seqs = [b.manifest.head.seq for b in made if b.manifest]
    assert seqs == sorted(set(seqs)) and all(verify_backup(b.path).ok for b in made)
    assert ws.journal.verify([(b.manifest.head, b.path.name) for b in made if b.manifest]).ok


def rebuilt(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write the archive anew, each member as `change` makes it (None: left out)."""
    out = io.BytesIO()
    with gzip.open(path) as packed, tarfile.open(fileobj=packed, mode="r|") as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            stream = old.extractfile(member)
            assert stream is not None
            data = change(member.name, stream.read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    path.write_bytes(gzip.compress(out.getvalue()))


FILES = [".gpt-trader/state.db", ".gpt-trader/telemetry.db", ".gpt-trader/paper.db", ".gpt-trader/models/range_expansion/model.txt",
         "config/risk.yaml", ".gpt-trader/workspace.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_touched_file_is_named_and_nothing_is_restored(ws: Workspace, name: str, how: str) -> None:
    backup = create_backup(ws)
    entry(ws)
    before = ws.journal.head()
    rebuilt(backup.path, lambda n, data: data if n != name else None if how == "missing" else data[:-1] + bytes([data[-1] ^ 1]))
    check = verify_backup(backup.path)
    assert not check.ok and name in str(check.problem)
    ws.close()
    with pytest.raises(StorageError, match="cannot be restored") as error:
        restore_backup(ws.root, DAY)
    assert error.value.exit_code == 74
    with Workspace.open(ws.root) as again:
        assert again.journal.head() == before and not list(ws.root.glob(".gpt-trader.*"))


def test_a_foreign_path_is_never_written(ws: Workspace, tmp_path: Path) -> None:
    backup = create_backup(ws)

    def escape(name: str, data: bytes) -> bytes:
        if name != "manifest.json":
            return data
        manifest = json.loads(data)
        manifest["files"]["../../escaped"] = next(iter(manifest["files"].values()))
        return json.dumps(manifest).encode()

    rebuilt(backup.path, escape)
    assert "escaped" in str(verify_backup(backup.path).problem) and not list(tmp_path.rglob("escaped"))


def test_a_swapped_archive_is_known_by_the_journal(ws: Workspace) -> None:
    backup = create_backup(ws)
    rebuilt(backup.path, lambda name, data: data)  # the same content, other bytes
    assert verify_backup(backup.path).ok
    wrong = [f for f in verify_data_integrity(ws) if f.verdict == REFUTED]
    assert [f.what for f in wrong] == [backup.path.name.removesuffix(".tar.gz")] and "checksum" in wrong[0].detail


def test_restored_after_the_workspace_was_deleted(ws: Workspace, tmp_path: Path) -> None:
    grant(ws.state_dir, actor="t", reason="r", at=START)
    backup = create_backup(ws, tmp_path / "elsewhere")
    expected = ws.store.rows("SELECT * FROM journal")[:-1]  # the entry of the backup itself comes after it
    root = ws.root
    ws.close()
    shutil.rmtree(root)
    done = restore_backup(root, DAY, tmp_path / "elsewhere")
    assert done.verification == "verified" and done.plan.loss.entries is None and "gone" in done.plan.loss.note
    with Workspace.open(root) as again:
        assert again.store.rows("SELECT * FROM journal")[:-1] == expected and again.journal.verify().ok
        assert again.journal.check_projections() == [] and again.clock.now() == START
        assert not (again.state_dir / "trading.permit").exists(), "a restored desk is halted"
        assert (again.models_dir / "range_expansion" / "model.txt").read_text() == "tree\n" * 1000
        assert backup.manifest is not None and again.journal.last("backup.restored").body["head"] == backup.manifest.head.to_json()  # type: ignore[union-attr]


def test_the_loss_is_measured_and_what_was_replaced_is_kept(ws: Workspace) -> None:
    create_backup(ws)
    ws.clock.advance(timedelta(hours=2))  # type: ignore[attr-defined]
    for _ in range(3):
        entry(ws)
    head = ws.journal.head()
    ws.close()
    done = restore_backup(ws.root, DAY)
    assert done.plan.loss.kinds == {"backup.created": 1, "journal.rebuilt": 3} and done.plan.loss.to_json()["seconds"] == 7200
    assert done.kept_at is not None
    kept = Workspace(done.kept_at.parent)
    assert list(done.kept_at.glob("backups/*.tar.gz")) and kept
    with Workspace.open(ws.root) as again:
        assert again.journal.head().seq == 2 and done.plan.loss.replaced == head
        assert list_backups(again.backups_dir) and check_anchors(again).verdict == "verified"


def test_a_running_desk_refuses_and_a_missing_day_says_what_there_is(ws: Workspace) -> None:
    create_backup(ws)
    with ws.lock("desk"), pytest.raises(StorageError, match="in use"):
        restore_backup(ws.root, DAY)
    with pytest.raises(UsageError, match=DAY):
        plan_restore(ws.root, "2013-02-28")
    with pytest.raises(UsageError, match="2024-01-15"):
        plan_restore(ws.root, "15.1.2024")


def test_the_latest_backup_of_the_day_is_taken(ws: Workspace) -> None:
    create_backup(ws)
    entry(ws)
    second = create_backup(ws)
    ws.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]
    create_backup(ws)
    assert plan_restore(ws.root, DAY).backup == second.path


def test_a_broken_database_is_moved_aside_and_restored(ws: Workspace) -> None:
    create_backup(ws)
    ws.close()
    for path in ws.state_dir.glob("state.db-*"):
        path.unlink()
    content = (ws.state_dir / "state.db").read_bytes()
    (ws.state_dir / "state.db").write_bytes(b"not a database " * 400)
    with pytest.raises(StorageError):
        with Workspace.open(ws.root) as broken:
            broken.journal.head()
    assert "moved" in str(make_openable(ws.root)) and make_openable(ws.root) is None
    done = restore_backup(ws.root, DAY)
    assert done.verification == "verified" and content[:6] == b"SQLite"


def test_a_newer_database_is_not_moved_aside(ws: Workspace) -> None:
    ws.store.db.conn.execute("PRAGMA user_version=99")
    ws.close()
    with pytest.raises(StorageError, match="newer"):
        make_openable(ws.root)
    assert (ws.state_dir / "state.db").exists()


def test_a_backup_that_cannot_be_written_leaves_the_others(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = create_backup(ws)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt_trader.ops.backup._write_archive", full)
    with pytest.raises(StorageError, match="no space left") as error:
        create_backup(ws)
    assert error.value.exit_code == 74 and [b.path for b in list_backups(ws.backups_dir)] == [first.path]
    assert not [p for p in ws.backups_dir.iterdir() if p.name.startswith(".")]


def test_a_damaged_journal_is_not_backed_up_as_good(ws: Workspace) -> None:
    connection = ws.store.db.conn
    connection.execute("DROP TRIGGER journal_is_append_only_update")
    connection.execute("UPDATE journal SET actor = 'nobody' WHERE seq = 1")
    connection.commit()
    with pytest.raises(StorageError, match="changed after it was written"):
        create_backup(ws)
    assert list_backups(ws.backups_dir) == [] and integrity_outcome(verify_data_integrity(ws)).status == "critical"


def test_pruning_spares_the_archives_of_others(ws: Workspace, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    with Workspace.create(tmp_path / "other", SimulatedClock(START)) as other:
        theirs = create_backup(other, shared)
    for _ in range(12):
        ws.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
        create_backup(ws, shared, prune=False)
    gone = prune_backups(ws, shared)
    assert gone and theirs.path.exists() and len(list_backups(shared)) == 1 + 12 - len(gone)


MOMENTS = st.lists(st.integers(0, 24 * 800), min_size=1, max_size=60, unique=True)


@settings(max_examples=200, deadline=None)
@given(hours=MOMENTS, daily=st.integers(1, 8), weekly=st.integers(0, 5), monthly=st.integers(0, 13))
def test_what_retention_promises(hours: list[int], daily: int, weekly: int, monthly: int) -> None:
    moments = {f"b{h:06d}": START + timedelta(hours=h) for h in hours}
    kept = to_keep(moments, daily, weekly, monthly)
    assert max(moments) in kept, "the newest is always kept"
    assert len(kept) <= daily + weekly + monthly
    assert to_keep({n: moments[n] for n in kept}, daily, weekly, monthly) == kept, "a second time, nothing more goes"
    for n in sorted({m.date() for m in moments.values()}, reverse=True)[:daily]:
        assert max(b for b, m in moments.items() if m.date() == n) in kept, "the newest of each of the last days is kept"
