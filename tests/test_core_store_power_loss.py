"""The power fails: writes that were not yet synced are lost, or land in part. What was acknowledged must be there, and the rest whole.

A writer appends to a journal under strace, which records every write, truncation, sync and change of the folder in order. From that
record a disk is rebuilt as it may look after a power cut at any point: of each file what was synced, and of what was not yet synced a
random part, torn at sectors of 512 bytes, in any order; of the folder's own changes those that were synced and perhaps a few more. Each
such disk is opened by the product and checked. A second writer without durable commits shows that the test would notice a loss.
"""
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.journal import Journal
from gpt_trader.core.store import Store
from gpt_trader.trading.orders import PROJECTION

SECTOR = 512
CUTS = 5_000 if os.environ.get("GPT_TRADER_SOAK") == "1" else 400
WRITER = """
import os, sys
from datetime import UTC, datetime
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core import store as stores
from gpt_trader.core.journal import Journal
from gpt_trader.core.store import Store
from gpt_trader.trading.orders import PROJECTION

stores.CHECKPOINT_PAGES = 250  # so that a fold falls into the middle of a short record
folder, durable = sys.argv[1], sys.argv[2] == "durable"
acknowledged = os.open(folder + "/acknowledged", os.O_WRONLY | os.O_CREAT, 0o644)
n = 0
for appends in (150, 40):  # closed and opened again in between
    store = Store(folder + "/state.db", durable=durable)
    journal = Journal(store, SimulatedClock(datetime(2013, 2, 28, tzinfo=UTC)), actor="writer", projections=(PROJECTION,))
    for _ in range(appends):
        n += 1
        body = {"execution_id": str(n), "broker": "paper", "broker_seq": n, "cash": "1", "reason": "x" * (n * 379 % 12_000)}
        journal.append("cash.deposited", body, subject=str(n))
        os.write(acknowledged, b"%d\\n" % n)
    store.close()
"""


@dataclass
class File:
    """One file: what is certainly on the disk, and what may be."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)  # ('write', offset, data) or ('truncate', length, b'')


@dataclass(frozen=True)
class Operation:
    """One system call that changes something."""

    call: str
    fd: int
    path: str
    data: bytes = b""
    offset: int = 0
    flags: str = ""


CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += +(-?\d+)")
PATH = re.compile(r"<((?:\\x[0-9a-f]{2})*)>")


def text(escaped: str) -> bytes:
    """What strace wrote as \\x41\\x42…"""
    return bytes.fromhex(escaped.replace("\\x", ""))


def recorded(trace: Path) -> Iterator[Operation]:
    """The operations, in order. Anything that is not understood fails the test."""
    for line in trace.read_text().splitlines():
        if "+++ exited" in line or "--- SIG" in line:
            continue
        assert "unfinished" not in line and "resumed" not in line, "the writer has one thread"
        matched = CALL.match(line)
        assert matched, line[:200]
        call, arguments, result = matched[1], matched[2], int(matched[3])
        if result < 0:
            continue
        strings = [text(s) for s in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        named = PATH.search(arguments)
        path = text(named[1]).decode() if named else ""
        fd = int(re.match(r"-?\d+", arguments)[0]) if re.match(r"-?\d+", arguments) else -1
        if call == "openat":
            yield Operation(call, result, strings[0].decode(), flags=arguments.rsplit(",", 2)[1 if "O_CREAT" in arguments else 2])
        elif call == "pwrite64":
            data = strings[0][:result]
            assert len(data) == result, "strace cut the data short"
            yield Operation(call, fd, path, data, int(arguments.rsplit(",", 1)[1]))
        elif call == "write":
            yield Operation(call, fd, path, strings[0])
        elif call == "ftruncate":
            yield Operation(call, fd, path, offset=int(arguments.rsplit(",", 1)[1]))
        elif call in ("fsync", "fdatasync", "close"):
            yield Operation(call, fd, path)
        elif call == "unlink":
            yield Operation(call, -1, strings[0].decode())
        else:
            pytest.fail(f"the writer made a call that this test does not model: {line[:200]}", pytrace=False)


Traces = dict[str, tuple[Path, list[Operation]]]  # by how the writer commits: its folder, and what it did


class Disk:
    """The folder as the operations leave it, in memory and on the platter."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.acknowledged = str(folder), 0
        self.names: dict[str, File] = {}  # as programs see it
        self.safe_names: dict[str, File] = {}  # as it is certainly on the disk
        self.changes: list[tuple[str, File | None]] = []  # of the folder, not synced yet
        self.open: dict[int, File] = {}
        self.folds, self.last = 0, ""  # how often the write-ahead log was folded into the database; the file written last

    def do(self, o: Operation) -> None:
        name = os.path.basename(o.path)
        if o.call == "openat" and os.path.dirname(o.path) == self.folder:
            if name not in self.names and "O_CREAT" in o.flags:
                self.names[name] = File()
                self.changes.append((name, self.names[name]))
            if name in self.names:
                self.open[o.fd] = self.names[name]
        elif o.call == "close":
            self.open.pop(o.fd, None)
        elif o.call == "unlink" and name in self.names:
            del self.names[name]
            self.changes.append((name, None))
        elif o.call in ("fsync", "fdatasync") and o.path == self.folder:
            self.safe_names, self.changes = dict(self.names), []
        elif o.call == "write" and name == "acknowledged":
            self.acknowledged = int(o.data)
        elif o.fd in self.open:
            self.change(self.open[o.fd], o, name)

    def change(self, file: File, o: Operation, name: str) -> None:
        if o.call == "pwrite64":
            file.pending.append(("write", o.offset, o.data))
            self.folds += (self.last, name) == ("state.db-wal", "state.db")
            self.last = name
        elif o.call == "ftruncate":
            file.pending.append(("truncate", o.offset, b""))
        elif o.call in ("fsync", "fdatasync"):
            for change in file.pending:
                apply(file.safe, change)
            file.pending = []

    def after_power_loss(self, target: Path, rng: random.Random) -> None:
        """Write the folder as it may be found. `rng` decides how much of what was not synced had reached the platter."""
        mood = rng.choice(["nothing", "some", "some", "all"])
        names = dict(self.safe_names)
        for name, file in self.changes[:{"nothing": 0, "all": len(self.changes)}.get(mood, rng.randint(0, len(self.changes)))]:
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file
        target.mkdir()
        for name, file in names.items():
            content = bytearray(file.safe)
            pending = list(file.pending) if mood != "nothing" else []
            if mood == "some":
                pending = [torn for change in pending for torn in tear(change, rng)]
                rng.shuffle(pending)
            for change in pending:
                apply(content, change)
            if name != "acknowledged":
                (target / name).write_bytes(content)


def apply(content: bytearray, change: tuple[str, int, bytes]) -> None:
    kind, offset, data = change
    if kind == "truncate":
        del content[offset:]
        content.extend(bytes(offset - len(content)))
    else:
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset:offset + len(data)] = data


def tear(change: tuple[str, int, bytes], rng: random.Random) -> list[tuple[str, int, bytes]]:
    """A random part of a change: a write falls apart into sectors."""
    kind, offset, data = change
    if kind == "truncate":
        return [change] if rng.random() < 0.5 else []
    chance = rng.choice([0.0, 0.5, 0.9, 1.0])
    ends = [*range(SECTOR - offset % SECTOR, len(data), SECTOR), len(data)]
    return [("write", offset + start, data[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True) if rng.random() < chance]


def found(folder: Path) -> int:
    """How many entries the product finds there; everything else about them must be in order, and it must be possible to go on."""
    store = Store(folder / "state.db")
    assert store.integrity_problems() == []
    journal = Journal(store, SimulatedClock(datetime(2013, 2, 28, tzinfo=UTC)), actor="reader", projections=(PROJECTION,))
    verified = journal.verify()
    assert verified.ok, verified.problem
    assert journal.check_projections() == []
    assert store.rows("SELECT count(*) AS n FROM cash") == [{"n": verified.entries}]
    n = verified.entries + 1
    journal.append("cash.deposited", {"execution_id": str(n), "broker": "paper", "broker_seq": n, "cash": "1"}, subject=str(n))
    assert journal.verify().entries == n
    store.close()
    return verified.entries


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """The recorded operations of a durable writer and of one that is not."""
    strace = shutil.which("strace")
    works = strace and subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode == 0
    if not works:
        message = "strace is not there or may not trace. On Debian: apt-get install strace; in a container: allow ptrace"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    made = {}
    for how in ("durable", "not"):
        folder, trace = tmp_path_factory.mktemp(how), tmp_path_factory.mktemp("trace") / "trace"
        names = ("", "/state.db", "/state.db-wal", "/state.db-journal", "/acknowledged")
        watched = [x for name in names for x in ("-P", f"{folder}{name}")]
        calls = ("openat,close,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,unlink,unlinkat,rename,renameat,"
                 "renameat2,msync")
        subprocess.run([str(strace), "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={calls}", "-e", "signal=none", *watched,
                        "-o", str(trace), sys.executable, "-c", WRITER, str(folder), how], check=True, timeout=200)
        made[how] = (folder, list(recorded(trace)))
        trace.unlink()
    return made


def lost_and_checked(
    folder: Path, operations: list[Operation], cuts: int, rng: random.Random, scratch: Path
) -> tuple[int, int]:
    """Cut the power `cuts` times; how many cuts lost an acknowledged commit, and at how many one was under way."""
    chosen, disk, lost, under_way = sorted(rng.choices(range(len(operations)), k=cuts)), Disk(folder), 0, 0
    for i, operation in enumerate(operations):
        disk.do(operation)
        while chosen and chosen[0] == i:
            chosen.pop(0)
            target = scratch / f"{i}-{len(chosen)}"
            disk.after_power_loss(target, rng)
            entries = found(target)
            assert entries <= disk.acknowledged + 1, "more was found than was ever written"
            lost += entries < disk.acknowledged
            under_way += entries > disk.acknowledged
            shutil.rmtree(target)
    return lost, under_way


def test_the_record_is_worth_cutting(traces: Traces) -> None:
    folder, operations = traces["durable"]
    disk = Disk(folder)
    for o in operations:
        disk.do(o)
    assert disk.acknowledged == 190 and disk.folds >= 3, "the log is to be folded into the database in the middle, and at each end"
    kept = disk.names["state.db"]
    assert bytes(kept.safe) == (folder / "state.db").read_bytes() and not kept.pending, "the record does not give the file that was written"
    assert sorted(disk.names) == sorted(p.name for p in folder.iterdir())


def test_no_acknowledged_commit_is_lost(traces: Traces, tmp_path: Path) -> None:
    lost, _ = lost_and_checked(*traces["durable"], 40, random.Random(1), tmp_path)
    assert lost == 0


def test_without_durable_commits_some_are_lost_but_the_rest_is_whole(traces: Traces, tmp_path: Path) -> None:
    """The control: the same cuts do find losses, where losses are allowed."""
    lost, _ = lost_and_checked(*traces["not"], 15, random.Random(2), tmp_path)
    assert lost > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_acknowledged_commit_is_lost_at_many_cuts(traces: Traces, tmp_path: Path) -> None:
    lost, under_way = lost_and_checked(*traces["durable"], CUTS, random.Random(3), tmp_path)
    assert lost == 0 and under_way > 0
