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
from landscapes import Instant, tiny_net, tiny_space, tiny_task, tiny_training
from postgresql import PASSWORD, Server, missing

from secateur import Budget, Study
from secateur.studies.drivers import crew as crews
from secateur.studies.drivers.crew import Crew
from secateur.studies.trials.patience import Patience
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
    return Study.create(path, **{**given, "sampler": "random", "evaluator": SLOW, **changes})


def reopen(path, url, **changes):
    return Study.open(path, **{"model": MODEL, "task": TASK, "evaluator": SLOW, "storage": url, **changes})


def close(study):
    disconnect(study._ledger.storage)


def notes(study):
    return {name: note for name, note in study._ledger.notes().items() if name.startswith("driver:")}


@pytest.fixture(scope="module")
def server():
    with Server() as started:
        yield started


@pytest.fixture
def url(server):
    return server.url


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(crews, "BEAT_S", 0.2)
    monkeypatch.setattr(crews, "LEASE_S", 2.0)


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
    said += [repr(study), repr(study.settings), repr(study.fingerprint), str(study.status())]
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
    disconnect(view.database)
    again = reopen(tmp_path / "s", url, evaluator=None)
    assert len(again.trials()) == 5
    close(again)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    again = reopen(tmp_path / "s", None, evaluator=None)
    assert len(again.trials()) == 5 and View(tmp_path / "s").storage == kept
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
    study._ledger.patience = Patience("the database", seconds=3)
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
    assert again.status()["told"] >= told
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
    with pytest.raises(ValueError, match="which does not share it; .* with join"):
        study.run(5, join=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    start, count = time.monotonic(), len(study.trials())
    study.run(count + 2)
    assert time.monotonic() - start < 20, "that the process is gone is known at once on its own machine"
    assert rows(study) == [*range(count + 2)] and (study.trials().state == "complete").all()
    close(study)


def elsewhere(study, place=0, **changes):
    """A driver on another machine, as its note says."""
    note = {"id": "other", "beat": 1, "joined": False, "ended": False, "pid": 7, "host": "far"}
    study._ledger.note(f"driver:{place}", {**note, "machine": "far away", "began": "1", **changes})


def test_a_driver_on_another_machine_is_waited_for_until_its_lease_ends(tmp_path, url, quick, caplog):
    study = create(tmp_path / "s", storage=url)
    elsewhere(study)
    start = time.monotonic()
    study.run(2)
    assert time.monotonic() - start > 2.0 and len(study.trials()) == 2
    assert "process 7 on far ran this study and did not say that it ended; waiting" in caplog.text
    close(study)


def test_a_driver_on_another_machine_that_lives_keeps_the_study(tmp_path, url, quick):
    study, other = create(tmp_path / "s", storage=url), None
    other = reopen(tmp_path / "s", url)
    elsewhere(study)
    done = threading.Event()

    def beat():
        count = 1
        while not done.wait(0.3):
            elsewhere(other, beat=(count := count + 1))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(ValueError, match="is being run by process 7 on far"):
        study.run(2)
    done.set()
    thread.join()
    assert len(study.trials()) == 0
    close(study)
    close(other)


def test_a_driver_whose_place_was_taken_stops(tmp_path, url, quick):
    study, other = create(tmp_path / "s", storage=url), None
    other = reopen(tmp_path / "s", url)
    taker = threading.Timer(2.0, elsewhere, args=(other,))
    taker.start()
    with pytest.raises(RuntimeError, match="another driver runs this study now"):
        study.run(400)
    taker.join()
    assert all(trial.told for trial in study._ledger.trials[:-4])
    close(study)
    close(other)


def test_an_outage_of_the_server_ends_no_lease(tmp_path, server, quick):
    """The count of others stands still as well while nobody can reach the database."""
    study, other = create(tmp_path / "s", storage=server.url), None
    other = reopen(tmp_path / "s", server.url)
    with Crew(study._ledger, joined=True) as one, Crew(other._ledger, joined=True) as two:
        _until(lambda: one.others() == two.others() == 1)
        server.stop()
        time.sleep(4.0)  # twice the lease
        server.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert not one.gone(two.id) and not two.gone(one.id)
            time.sleep(0.1)
    assert [note["ended"] for note in notes(study).values()] == [True, True]
    with Crew(study._ledger, joined=False):  # places are used again
        assert len(notes(study)) == 2
    close(study)
    close(other)


def test_turns_exclude_one_another(tmp_path, url):
    study, other = create(tmp_path / "s", storage=url), None
    other = reopen(tmp_path / "s", url)
    inside, most, count = 0, 0, 0

    def take(crew):
        nonlocal inside, most, count
        for _ in range(25):
            with crew.turn():
                inside += 1
                most, count = max(most, inside), count + 1
                time.sleep(0.002)
                inside -= 1

    with Crew(study._ledger, joined=True) as one, Crew(other._ledger, joined=True) as two:
        threads = [threading.Thread(target=take, args=(crew,)) for crew in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (most, count) == (1, 50)
    close(study)
    close(other)
