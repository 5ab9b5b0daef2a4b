"""Where trials are kept: what is refused, what is waited for, what is mended, and what is never written down."""

import errno
import json
import logging
import multiprocessing
import os
import resource
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task
from optuna.storages import JournalStorage

from secateur import Budget, Study
from secateur.studies.disk.files import FormatError, locked
from secateur.studies.trials.journal import JournalFile
from secateur.studies.trials.ledger import Ledger, Retry, make_ledger
from secateur.studies.trials.storage import connect, disconnect, make_sqlite, sqlite_url
from secateur.studies.trials.trial import Scored, Trial
from secateur.studies.trials.urls import completed, is_server, journal_path, masked, parsed, without_password
from secateur.studies.views.view import View

MODEL, TASK = tiny_net(), tiny_task()
SPACE = tiny_space(MODEL)
SECRET = "s3cret"
SERVER = f"postgresql://ann:{SECRET}@127.0.0.1:1/trials"  # nobody listens at port 1


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1}
    return Study.create(path, **searching({**given, "sampler": "random", "evaluator": Instant(SPACE), **changes}))


def reopen(path, **changes):
    return Study.open(path, **{"model": MODEL, "task": TASK, "evaluator": Instant(SPACE), **changes})


def trial(number, candidate=SPACE.full, **changes):
    given = {"number": number, "candidate": candidate, "asked": candidate, "source": "sampler", "ranking": "l2:0"}
    return Trial(**{**given, "weights": "inherited", "fidelity": "short", "costs": {"macs": 1}, **changes})


def ledger_in(storage, retry=None):
    if not storage.get_all_studies():
        make_ledger(storage, "study", ("error", "macs"), {"macs": 0.5})
    return Ledger(storage, "study", SPACE.axes, ("error", "macs"), retry=retry)


def tell(ledger, added):
    return ledger.tell(ledger.park(added, Scored(error=0.5)), {"macs": 2.0}, {})


@pytest.fixture(params=["sqlite", "journal"])
def storage(request, tmp_path):
    if request.param == "sqlite":
        make_sqlite(tmp_path / "study.db")
    url = sqlite_url(tmp_path / "study.db") if request.param == "sqlite" else "journal:study.journal"
    opened = connect(url, tmp_path)
    yield opened
    disconnect(opened)


# --- URLs -------------------------------------------------------------------------------------------------------------


def test_a_plain_url_gets_the_driver_that_is_installed():
    assert parsed("postgresql://host/db").drivername == "postgresql+psycopg"
    assert parsed("postgres://host/db").drivername == "postgresql+psycopg"
    assert parsed("mysql://host/db").drivername == "mysql+pymysql"
    assert parsed("postgresql+psycopg2://host/db").drivername == "postgresql+psycopg2"


@pytest.mark.parametrize(
    ("url", "server"),
    [("sqlite:////a.db", False), ("journal:a", False), ("postgresql://h/d", True), ("mysql://h/d", True)],
)
def test_what_several_machines_may_write_to_is_known(url, server):
    assert is_server(url) is server


def test_a_journal_is_beside_the_study_unless_its_path_says_otherwise(tmp_path):
    assert journal_path("journal:trials.log", tmp_path) == tmp_path / "trials.log"
    assert str(journal_path("journal:///data/trials.log", tmp_path)) == "/data/trials.log"
    assert str(journal_path("journal:/data/trials.log", tmp_path)) == "/data/trials.log"
    with pytest.raises(ValueError, match="expected 'journal:PATH'"):
        journal_path("journal:", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@host:5432/trials",
        "postgresql://ann@host/trials?password=s3cret&sslmode=require",
        "mysql+pymysql://ann:s3cret@host/trials?ssl_key_password=s3cret",
    ],
)
def test_no_password_is_left_in_what_is_written_down(url):
    kept = without_password(url)
    assert SECRET not in kept and "ann@host" in kept
    assert without_password(kept) == kept
    assert SECRET not in masked(f"can't reach {url}", url)
    assert completed(kept, None) == kept and completed(kept, url) == url


def test_a_password_with_odd_characters_is_masked_as_it_is_and_as_it_is_quoted():
    url = "postgresql://ann:p%40ss%2Fword@host/trials"
    assert masked("user ann with p@ss/word or p%40ss%2Fword", url) == "user ann with *** or ***"


def test_what_is_no_url_is_refused_without_showing_it():
    with pytest.raises(ValueError, match="is no URL; expected") as refused:
        connect(f"postgresql//ann:{SECRET}@host")
    assert SECRET not in str(refused.value)


def test_another_storage_than_the_studys_is_refused():
    with pytest.raises(ValueError, match="may differ in its password only") as refused:
        completed("postgresql://ann@host/trials", f"postgresql://ann:{SECRET}@other/trials")
    assert SECRET not in str(refused.value)


def test_a_server_that_can_not_be_reached_is_one_clear_error(tmp_path):
    pytest.importorskip("psycopg")
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"storage 'postgresql://ann@127.0.0.1:1/trials' can't be opened") as refused:
        create(tmp_path / "s", storage=SERVER)
    assert SECRET not in str(refused.value) and refused.value.__cause__ is None
    assert time.monotonic() - start < 20
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"pip install 'secateur\[mysql\]'") as refused:
        connect(f"mysql+mysqldb://ann:{SECRET}@host/trials")
    assert SECRET not in str(refused.value)


# --- a study with a journal -------------------------------------------------------------------------------------------


def test_a_journal_holds_a_study_like_any_storage(tmp_path):
    create(tmp_path / "a", storage="journal:study.journal").run(4)
    create(tmp_path / "b").run(4)
    assert (tmp_path / "a" / "study.journal").is_file() and not (tmp_path / "a" / "study.db").exists()
    again = reopen(tmp_path / "a")
    again.run(6)
    reopen(tmp_path / "b").run(6)
    same = ["trial", "key", "error", "macs"]
    assert again.trials()[same].equals(reopen(tmp_path / "b").trials()[same])
    assert View(tmp_path / "a").status().told == 6


def test_a_journal_may_lie_elsewhere_and_is_missed_there(tmp_path):
    url = f"journal://{tmp_path}/elsewhere.log"
    create(tmp_path / "s", storage=url).run(3)
    assert json.loads((tmp_path / "s" / "study.json").read_text())["storage"] == url
    (tmp_path / "elsewhere.log").rename(tmp_path / "gone.log")
    with pytest.raises(ValueError, match="is missing: the study's trials are gone"):
        reopen(tmp_path / "s")
    assert not (tmp_path / "elsewhere.log").exists(), "no empty journal takes its place"


def test_a_copy_of_a_folder_whose_storage_is_elsewhere_is_not_run_beside_it(tmp_path):
    study = create(tmp_path / "s", storage=f"sqlite:///{tmp_path}/trials.db")
    held = []

    def run_the_copy(event):
        if not held:
            shutil.copytree(tmp_path / "s", tmp_path / "copy")
            with pytest.raises(ValueError, match="another process runs a copy"):
                reopen(tmp_path / "copy").run(3)
            held.append(True)

    study.run(2, run_the_copy)
    assert held


@pytest.mark.parametrize("torn", [b'{"op_code":8,"worker', b"\0" * 700, b'{"op_code":8}{"op_c\n', b"7\n"])
def test_a_torn_line_at_the_end_is_cut_off(tmp_path, caplog, torn):
    path = tmp_path / "trials.log"
    tell((ledger := ledger_in(JournalStorage(JournalFile(path)))), ledger.add(trial(0)))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    again = ledger_in(JournalStorage(JournalFile(path)))
    assert again.trials == ledger.trials and path.read_bytes() == whole
    assert "torn line" in caplog.text
    again.add(trial(1))
    assert len(ledger_in(JournalStorage(JournalFile(path))).trials) == 2


def test_what_a_killed_neighbour_left_is_cut_off_before_the_next_line(tmp_path):
    path = tmp_path / "trials.log"
    ledger = ledger_in(JournalStorage(JournalFile(path)))
    ledger.add(trial(0))
    with open(path, "ab") as file:
        file.write(b'{"op_code":4,"torn')
    ledger.refresh()
    ledger.add(trial(1))
    assert len(ledger_in(JournalStorage(JournalFile(path))).trials) == 2


def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my only copy")
    with pytest.raises(ValueError, match="is no journal"):
        connect(f"journal:{path}")
    assert path.read_text() == "my only copy"


def test_damage_within_a_journal_is_said(tmp_path):
    path = tmp_path / "trials.log"
    ledger = ledger_in(JournalStorage(JournalFile(path)))
    ledger.add(trial(0))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"x" * (len(lines[1]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="damaged in line 2"):
        ledger_in(JournalStorage(JournalFile(path)))


def _write_lines(path, count, start):
    journal = JournalFile(path)
    start.wait()
    for number in range(count):
        journal.append_logs([{"op_code": 2, "number": number, "text": "x" * 5000}])


def test_two_writers_take_turns(tmp_path):
    path, fork = tmp_path / "trials.log", multiprocessing.get_context("fork")
    start = fork.Event()
    writers = [fork.Process(target=_write_lines, args=(path, 50, start)) for _ in range(2)]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(line["number"] for line in JournalFile(path).read_logs(0)) == sorted([*range(50)] * 2)


# --- a storage that is away -------------------------------------------------------------------------------------------


class Flaky:
    """Breaks the first writes of every kind, before or after they were carried out."""

    def __init__(self, storage, after, times=2):
        self.storage, self.after, self.times, self.broken = storage, after, times, 0
        self.counts = {}

    def __getattr__(self, name):
        real = getattr(self.storage, name)
        if not name.startswith(("set_", "create_", "get_all_trials")):
            return real

        def call(*given, **named):
            self.counts[name] = self.counts.get(name, 0) + 1
            fails = self.counts[name] <= self.times
            self.broken += fails
            if fails and not self.after:
                raise ConnectionError("gone")
            found = real(*given, **named)
            if fails:
                raise ConnectionError("gone before the answer came")
            return found

        return call


@pytest.mark.parametrize("after", [False, True])
def test_nothing_is_lost_or_doubled_when_a_storage_comes_back(storage, after):
    waits = []
    ledger = ledger_in(storage, Retry("here", sleep=waits.append))
    flaky = Flaky(storage, after)
    ledger.storage = flaky
    for number in range(3):
        flaky.counts.clear()
        tell(ledger, ledger.add(trial(number, SPACE.uniform(width=1 - number / 4))))
    ledger.note("name", 1)
    ledger.refresh()
    assert flaky.broken >= 10 and len(waits) >= 10
    found = ledger_in(storage)
    assert [one.number for one in found.trials] == [0, 1, 2] and all(one.told for one in found.trials)
    assert found.trials == ledger.trials and found.notes["name"] == 1


def test_a_storage_that_stays_away_is_one_clear_error(storage, caplog):
    clock = Clock()
    ledger = ledger_in(storage, Retry("postgresql://ann@host/trials", seconds=60, sleep=clock.sleep))
    added = ledger.add(trial(0))
    ledger.storage = Flaky(storage, after=False, times=10**9)
    with (
        clock.running(),
        pytest.raises(ConnectionError, match=r"ann@host/trials is away \(gone\), for (5|60)"),
    ):
        tell(ledger, added)
    assert caplog.text.count("trying again for up to 60 s") == 1
    again = ledger_in(storage)
    assert again.trials == [added]
    tell(again, added)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds

    @contextmanager
    def running(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: self.now)
            yield


def test_a_broken_connection_is_told_from_bad_data(tmp_path):
    make_sqlite(tmp_path / "study.db")
    storage = connect(sqlite_url(tmp_path / "study.db"))
    ledger, broken = ledger_in(storage, Retry("here", sleep=lambda seconds: None)), []

    @sqlalchemy.event.listens_for(storage.engine, "commit")
    def break_off(connection):
        if len(broken) < 3:
            broken.append(True)
            raise ConnectionError("the server closed the connection")

    tell(ledger, ledger.add(trial(0)))
    assert len(broken) == 3
    assert [one.number for one in ledger_in(storage).trials] == [0]
    disconnect(storage)


def test_a_locked_database_is_waited_for(tmp_path):
    make_sqlite(tmp_path / "study.db")
    storage = connect(sqlite_url(tmp_path / "study.db"))
    other = sqlalchemy.create_engine(sqlite_url(tmp_path / "study.db")).connect()
    slept = []

    def give_back(seconds):
        slept.append(seconds)
        other.rollback()

    ledger = ledger_in(storage, Retry("here", sleep=give_back))
    with storage.engine.connect() as one:  # what the pool lends next waits no longer than this
        one.exec_driver_sql("PRAGMA busy_timeout=50")
    other.exec_driver_sql("BEGIN IMMEDIATE")
    ledger.add(trial(0))
    assert slept and len(ledger_in(storage).trials) == 1
    other.close()
    other.engine.dispose()
    disconnect(storage)


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_database_is_said_at_once_and_the_study_goes_on(tmp_path):
    study = create(tmp_path / "s")
    engine = study._ledger.storage.engine
    with engine.connect() as one:
        pages = one.exec_driver_sql("PRAGMA page_count").scalar()
        one.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}")
    start = time.monotonic()
    with pytest.raises(OSError, match=r"the disk of the storage .*study.db is full") as full:
        study.run(300)
    assert full.value.errno == errno.ENOSPC and time.monotonic() - start < 30
    disconnect(study._ledger.storage)
    again = reopen(tmp_path / "s")
    again.run(12)
    assert (again.trials().state == "complete").all() and len(again.trials()) == 12


@contextmanager
def files_no_larger_than(limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_torn_line_in_a_journal(tmp_path):
    study = create(tmp_path / "s", storage="journal:study.journal")
    study.run(2)
    journal = tmp_path / "s" / "study.journal"
    with (
        files_no_larger_than(journal.stat().st_size + 700),
        pytest.raises(OSError, match=r"the disk is full: .*study.journal") as full,
    ):
        study.run(20)
    assert full.value.errno == errno.EFBIG
    for line in journal.read_bytes().splitlines(keepends=True):
        assert line.endswith(b"\n") and json.loads(line)
    again = reopen(tmp_path / "s")
    again.run(20)
    assert (again.trials().state == "complete").all() and len(again.trials()) == 20


# --- what others wrote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        {"weights": "trial:../../base"},
        {"weights": "round:../1"},
        {"weights": "../../../etc/passwd"},
        {"weights": "/etc/passwd"},
        {"weights": "trial:1\0"},
        {"weights": ".hidden"},
        {"weights": ["inherited"]},
        {"weights": ""},
        {"ranking": "l2:../x"},
        {"ranking": "a\\b"},
        {"ranking": "x" * 300},
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(storage, names):
    ledger_in(storage).add(trial(0, **names))
    with pytest.raises(FormatError, match="names no ranking or weights"):
        ledger_in(storage)


@pytest.mark.parametrize(
    ("name", "value"),
    [("proposal", 7), ("proposal", {"asked": 7}), ("costs", "many"), ("outcome", {"shell": "rm"}), ("outcome", 3)],
)
def test_rows_of_another_kind_are_refused(storage, name, value):
    ledger = ledger_in(storage)
    ledger.add(trial(0))
    storage.set_trial_user_attr(ledger._ids[0], name, value)
    with pytest.raises(FormatError, match="trial 0 in the storage is not of this study"):
        ledger_in(storage)


def test_a_latency_of_a_trial_that_is_not_there_is_refused(storage):
    ledger = ledger_in(storage)
    ledger.note("latency_ms:7", 1.0)
    with pytest.raises(FormatError, match="latency of a trial '7'"):
        ledger.refresh()


def test_rows_are_read_again_only_while_they_may_change(storage):
    writer, reader = ledger_in(storage), ledger_in(storage)
    for number in range(3):
        tell(writer, writer.add(trial(number)))
    running = writer.add(trial(3))
    reader.refresh()
    assert reader.trials == writer.trials
    seen = list(reader.trials)
    tell(writer, running)
    writer.add(trial(4))
    reader.refresh()
    assert reader.trials == writer.trials
    assert all(before is now for before, now in zip(seen[:3], reader.trials[:3], strict=True))


# --- passwords --------------------------------------------------------------------------------------------------------


def test_a_password_is_in_no_error_of_a_database(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    pytest.importorskip("psycopg")
    for url in (SERVER, f"postgresql://127.0.0.1:1/trials?user=ann&password={SECRET}"):
        with pytest.raises(ValueError, match="can't be opened") as refused:
            connect(url)
        assert SECRET not in str(refused.value)
    assert SECRET not in caplog.text


def test_who_runs_a_study_is_written_through_no_link(tmp_path):
    folder, mine = tmp_path / "s", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("dear diary")
    (folder / "driver.json").symlink_to(mine)
    with locked(folder):
        assert f'"pid": {os.getpid()}' in (folder / "driver.json").read_text()
    assert mine.read_text() == "dear diary" and not (folder / "driver.json").exists()


@pytest.mark.parametrize("kind", ["journal:", "sqlite:///"])
@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/null", "."])
def test_what_is_no_file_is_no_storage(tmp_path, monkeypatch, kind, place):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match="is a folder, a pipe or a device; give a file"):
        connect(f"{kind}{place}")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"] and not Path(f"{place}.lock").exists()
