"""A study whose trials are on a real PostgreSQL server, which asks for a password, stops, and comes back."""

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass

import pytest
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training
from postgresql import PASSWORD, Server, missing
from sqlalchemy import text

from secateur import Budget, Study
from secateur.studies.drivers.lease import Lease
from secateur.studies.trials.ledger import Retry
from secateur.studies.trials.storage import disconnect
from secateur.studies.views.view import View

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

MODEL, TASK = tiny_net(), tiny_task()
SPACE = tiny_space(MODEL)
SAME = ["trial", "key", "source", "state", "error", "macs"]


@dataclass(frozen=True)
class Slow:
    """Answers by formula, after a while."""

    instant: Instant
    seconds: float
    fingerprint: str = "slow"

    def __call__(self, build, **given):
        time.sleep(self.seconds)
        return self.instant(build, **given)


SLOW = Slow(Instant(SPACE), 0.1)


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1}
    return Study.create(path, **searching({**given, "sampler": "random", "evaluator": SLOW, **changes}))


def reopen(path, url, **changes):
    return Study.open(path, **{"model": MODEL, "task": TASK, "evaluator": SLOW, "storage": url, **changes})


def close(study):
    disconnect(study._ledger.storage)


@pytest.fixture(scope="module")
def server():
    with Server() as started:
        yield started


@pytest.fixture
def url(server):
    return server.url


def rows(study):
    """Numbers of all rows in the database, straight from there."""
    return [row.number for row in study._ledger.storage.get_all_trials(study._ledger.study_id)]


# --- passwords --------------------------------------------------------------------------------------------------------


def test_a_password_is_nowhere(tmp_path, url, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("sqlalchemy"), "level", logging.DEBUG)
    said = []
    study = create(tmp_path / "s", storage=url, evaluator=None, training=tiny_training(), fidelity="recalibrated")
    study.run(5, said.append)
    said += [repr(study), repr(study.search), repr(study.fingerprint), str(study.status())]
    study.export(tmp_path / "out", formats=())
    close(study)
    kept = url.replace(f":{PASSWORD}@", "@")
    with pytest.raises(ValueError, match="can't be opened: .* set PGPASSWORD, or write") as refused:
        reopen(tmp_path / "s", None, evaluator=None)
    said.append(str(refused.value))
    with pytest.raises(ValueError, match="can't be opened") as refused:
        reopen(tmp_path / "s", url.replace(PASSWORD, f"{PASSWORD}no"), evaluator=None)
    said.append(str(refused.value))
    with pytest.raises(ValueError, match="may differ in its password only") as refused:
        reopen(tmp_path / "s", url.replace("127.0.0.1", "localhost"), evaluator=None)
    said.append(str(refused.value))
    view = View(tmp_path / "s", storage=url)
    said += [view.storage, str(view.status()), str(View.__dict__)]
    disconnect(view.glimpse.storage())
    again = reopen(tmp_path / "s", url, evaluator=None)
    assert len(again.trials()) == 5
    close(again)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    again = reopen(tmp_path / "s", None, evaluator=None)
    assert len(again.trials()) == 5 and View(tmp_path / "s", connect=True).storage == kept
    close(again)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in "\n".join(map(str, said)) + caplog.text + "".join(capfd.readouterr())


def test_a_password_is_found_where_postgresql_keeps_it(tmp_path, url, monkeypatch):
    close(create(tmp_path / "s", storage=url))
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:*:*:{PASSWORD}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    study = reopen(tmp_path / "s", None)
    study.run(2)
    assert rows(study) == [0, 1]
    close(study)


# --- a server that stops ----------------------------------------------------------------------------------------------


def test_a_search_outlives_its_database(tmp_path, server, caplog):
    straight = create(tmp_path / "a")
    straight.run(40)
    study = create(tmp_path / "b", storage=server.url)

    def stop_and_start():
        for away_s in (0.5, 6.0):
            time.sleep(1.5)
            server.stop()
            time.sleep(away_s)
            server.start()

    thread = threading.Thread(target=stop_and_start)
    thread.start()
    study.run(40)
    thread.join()
    assert rows(study) == [*range(40)]
    assert study.trials()[SAME].equals(straight.trials()[SAME])
    assert "is away" in caplog.text and "is back" in caplog.text
    close(study)


def test_a_database_that_stays_away_ends_the_search_and_nothing_is_lost(tmp_path, server):
    study = create(tmp_path / "s", storage=server.url)
    study._ledger.retry = Retry("the database", seconds=3)
    stopper = threading.Timer(2.0, server.stop)
    stopper.start()
    with pytest.raises(ConnectionError, match="the storage the database is away .* nothing that was told is lost"):
        study.run(200)
    stopper.join()
    told = len([trial for trial in study._ledger.trials if trial.told])
    assert told > 2
    with pytest.raises(ValueError, match="can't be opened") as refused:
        reopen(tmp_path / "s", server.url)
    assert PASSWORD not in str(refused.value)
    server.start()
    again = reopen(tmp_path / "s", server.url)
    assert again.status().told >= told
    again.run(told + 4)
    assert rows(again) == [*range(max(told + 4, len(again.trials())))]
    assert (again.trials().state[: told + 4] == "complete").all()
    close(study)
    close(again)


# --- one driver -------------------------------------------------------------------------------------------------------


def _run(path, url, trials, **options):
    reopen(path, url).run(trials, **options)


def _started(path, url, trials, **options):
    process = multiprocessing.get_context("fork").Process(target=_run, args=(path, url, trials), kwargs=options)
    process.start()
    return process


def _until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def test_a_second_driver_is_refused_here_and_elsewhere(tmp_path, url):
    close(create(tmp_path / "s", storage=url))
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    process = _started(tmp_path / "s", url, 400)
    study = reopen(tmp_path / "copy", url)
    _until(lambda: len(study.trials()) > 2)
    with pytest.raises(ValueError, match=f"is being run by process {process.pid}"):
        reopen(tmp_path / "s", url).run(5)
    with pytest.raises(ValueError, match=f"is being run by process {process.pid} on .*; wait for it, or stop it"):
        study.run(5)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    start, count = time.monotonic(), len(study.trials())
    study.run(count + 2)
    assert time.monotonic() - start < 20, "that the process is gone is known at once on its own machine"
    assert rows(study) == [*range(count + 2)] and (study.trials().state == "complete").all()
    close(study)


def test_a_driver_elsewhere_keeps_the_study_and_is_waited_for_by_ask(tmp_path, url):
    """Nothing but the database tells two machines with copies of a folder from one another."""
    study = create(tmp_path / "s", storage=url)
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    other = reopen(tmp_path / "copy", url)
    with Lease(other._ledger):
        with pytest.raises(ValueError, match=f"is being run by process {os.getpid()} on .*; wait for it, or stop it"):
            study.run(2)
        assert len(study.trials()) == 0
        asked = []
        thread = threading.Thread(target=lambda: asked.append(study.ask()))
        thread.start()
        time.sleep(0.5)
        assert not asked
    thread.join()
    assert asked[0].number == 0
    study.run(2)
    assert rows(study) == [0, 1]
    close(study)
    close(other)


def test_a_driver_whose_connection_breaks_goes_on(tmp_path, url, server):
    study, other = create(tmp_path / "s", storage=url), None
    other = reopen(tmp_path / "s", url)
    timer = threading.Timer(1.0, lambda: _end_locks(other))
    timer.start()
    study.run(40)
    timer.join()
    assert rows(study) == [*range(40)]
    close(study)
    close(other)


def test_a_driver_whose_place_was_taken_stops(tmp_path, url):
    study, other = create(tmp_path / "s", storage=url), None
    other = reopen(tmp_path / "s", url)
    rival = Lease(other._ledger, wait_s=20)

    def take():
        time.sleep(1.0)
        waiting = threading.Thread(target=rival.__enter__)
        waiting.start()
        time.sleep(0.5)
        while not rival._connection:  # whoever asks first gets it: ask until that is the rival
            _end_locks(other)
            time.sleep(0.01)
        waiting.join()

    taker = threading.Thread(target=take)
    taker.start()
    with pytest.raises(RuntimeError, match="is being run by process .* lost the study"):
        study.run(400)
    taker.join()
    rival.__exit__(None, None, None)
    assert all(trial.told for trial in study._ledger.trials[:-4])
    study.run(len(study.trials()) + 1)
    close(study)
    close(other)


def _end_locks(study):
    """End the connections that hold an advisory lock, as a network that fails does."""
    with study._ledger.storage.engine.connect() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        )
        connection.commit()


def test_workers_with_loops_of_their_own_share_a_study(tmp_path, url):
    """Four processes ask, evaluate and tell; one is killed in the middle, and its trial is told by another."""
    close(create(tmp_path / "s", storage=url, seeds=("full",)))
    processes = [
        multiprocessing.get_context("fork").Process(target=_own_loop, args=(tmp_path / "s", url, 30)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    time.sleep(3)
    processes[0].kill()
    for process in processes:
        process.join()
    study = reopen(tmp_path / "s", url)
    table = study.trials()
    assert rows(study) == [*range(len(table))] and not table.key[table.state == "complete"].duplicated().any()
    left = [trial for trial in study._ledger.trials if not trial.told]
    assert len(left) <= 1 and len(table) >= 30
    for trial in left:
        study.tell(trial.number, study.evaluate(trial.number))
    assert all(trial.told for trial in study._ledger.trials)
    close(study)


def _own_loop(path, url, trials):
    study = reopen(path, url)
    while (trial := study.ask()) is not None and trial.number < trials:
        study.tell(trial, study.evaluate(trial))
    if trial is not None:
        study.tell(trial, 1.0)
