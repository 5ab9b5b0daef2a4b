"""What the driver does with slots: every attempt is counted, every clock starts late, every file travels once."""

import logging
import time
from dataclasses import dataclass, field, replace

import pytest

from secateur import Candidate
from secateur.studies.disk.files import FormatError
from secateur.studies.outcomes.work import Work
from secateur.studies.runners import dispatch
from secateur.studies.runners.dispatch import Dispatcher
from secateur.studies.runners.executor import Executor, Interrupts
from secateur.studies.trials.events import Begun, Epoch, Happened, JobEnd, Lost, Message, Unable
from secateur.studies.trials.trial import Failed, Scored, Trial

DONE = Scored(error=0.25, seconds=0.1)


@dataclass
class Kept:
    """Artifacts that only say what of theirs is damaged."""

    damaged: set[str] = field(default_factory=set)

    def check(self, ranking, weights):
        if weights in self.damaged:
            raise FormatError(f"{weights} is damaged")


@dataclass
class Needy:
    """An evaluation that only says what trials need."""

    artifacts: Kept = field(default_factory=Kept)
    files: dict[int, list[str]] = field(default_factory=dict)
    rounds: set[str] = field(default_factory=set)
    stopping: object = None

    def needs(self, trial, *, training=False):
        return self.files.get(trial.number, [])

    def lacks_round(self, trial):
        return trial.weights.startswith("round:") and trial.weights not in self.rounds


class Scripted(Executor):
    """Says of every job what a script says: a list of messages, or a function of the job that gives it."""

    def __init__(self, *scripts, slots=1, apart=True):
        self.slots, self.apart = slots, apart
        self.scripts, self.jobs, self.cancelled, self.closed = list(scripts), [], [], 0
        self.messages = []

    def open(self, work, listen):
        self.listen = listen

    def submit(self, slot, job):
        self.jobs.append((slot, job))
        script = self.scripts.pop(0)
        said = script(job) if callable(script) else script
        self.messages += [Message(slot=slot, said=one) for one in said]

    def wait(self, timeout_s):
        if not self.messages:
            time.sleep(min(timeout_s, 0.01))
        found, self.messages = self.messages, []
        return found

    def cancel(self, slot):
        self.cancelled.append(slot)
        self.messages = [message for message in self.messages if message.slot != slot]

    def close(self):
        self.closed += 1


def done(outcome=DONE, **settings):
    return [Begun(), JobEnd(outcome=outcome, **settings)]


def trial(number, weights="inherited"):
    return Trial(
        number=number,
        candidate=Candidate([number]),
        asked=Candidate([number]),
        source="sampler",
        ranking="l2:0",
        weights=weights,
        fidelity="short",
        costs={"macs": 1.0},
    )


LOST = [Begun(), Lost("the worker was ended by SIGKILL")]
STILLBORN = [Lost("the worker ended with exit code 1")]


def dispatcher(executor, folder, evaluation=None, **settings):
    work = Work(evaluation=evaluation or Needy(), threads=1, device="cpu")
    found = Dispatcher(executor, work, folder=folder, **{"interrupts": Interrupts()} | settings)
    found.open()
    return found


def all_of(one):
    found = []
    while one.busy:
        found.append(one.next())
    return found


def test_trials_go_to_free_slots_and_come_back_as_they_end(tmp_path):
    executor = Scripted([Begun()], done(), done(), slots=2)
    one = dispatcher(executor, tmp_path)
    for number in range(3):
        one.submit(trial(number))
    assert one.busy == 3
    first, second = one.next(), one.next()
    assert [first[0].number, second[0].number] == [1, 2] and one.busy == 1
    executor.messages.append(Message(slot=0, said=JobEnd(outcome=DONE)))
    assert one.next() == (trial(0), DONE) and not one.busy
    assert [slot for slot, _ in executor.jobs] == [0, 1, 1]


def test_a_dead_worker_costs_an_attempt(tmp_path):
    executor = Scripted(LOST, LOST, done())
    one = dispatcher(executor, tmp_path, retries=2)
    one.submit(trial(0))
    assert one.next()[1] == replace(DONE, attempts=3)


def test_attempts_come_to_an_end(tmp_path):
    one = dispatcher(Scripted(LOST, LOST, done()), tmp_path, retries=1)
    one.submit(trial(0))
    one.submit(trial(1))
    (first, outcome), (second, other) = all_of(one)
    assert (first.number, type(outcome), outcome.attempts) == (0, Failed, 2)
    assert outcome.reason == "its worker died 2 times: the worker was ended by SIGKILL"
    assert (second.number, other) == (1, DONE)


def test_a_worker_that_dies_before_it_begins_costs_no_attempt(tmp_path):
    one = dispatcher(Scripted(STILLBORN, STILLBORN, done()), tmp_path, retries=0)
    one.submit(trial(0))
    assert one.next()[1] == DONE


def test_trials_that_kill_their_workers_end_no_search(tmp_path):
    """Ten in a row do: the loop counts those."""
    one = dispatcher(Scripted(*[LOST] * 27), tmp_path, retries=2)
    for number in range(9):
        one.submit(trial(number))
    assert [type(outcome) for _, outcome in all_of(one)] == [Failed] * 9


@pytest.mark.parametrize("slots", [1, 2])
def test_workers_that_never_begin_end_the_search(tmp_path, slots):
    one = dispatcher(Scripted(*[STILLBORN] * 10, slots=slots), tmp_path)
    one.submit(trial(0))
    with pytest.raises(RuntimeError, match=f"{3 * slots} workers died one after another.*exit code 1; mend the cause"):
        one.next()


def test_what_no_worker_can_do_ends_the_search(tmp_path):
    one = dispatcher(Scripted([Unable("ModuleNotFoundError: no module")]), tmp_path)
    one.submit(trial(0))
    with pytest.raises(RuntimeError, match="workers can't do these trials: ModuleNotFoundError"):
        one.next()


@pytest.mark.parametrize("known", [True, False])
def test_an_idle_worker_that_dies_costs_nothing(tmp_path, known):
    """Whether that is known when the next trial is sent to it, or found out then."""
    executor = Scripted(done(), *([] if known else [STILLBORN]), done())
    one = dispatcher(executor, tmp_path, retries=0)
    one.submit(trial(0))
    one.next()
    if known:
        executor.messages.append(Message(slot=0, said=Lost("gone")))
        one._step()
    one.submit(trial(1))
    assert one.next()[1] == DONE


def test_transient_errors_are_retried_and_others_are_not(tmp_path):
    error = Failed(reason="ConnectionResetError: gone")
    one = dispatcher(Scripted(done(error, transient=True), done(), done(Failed(reason="ValueError: bad"))), tmp_path)
    one.submit(trial(0))
    one.submit(trial(1))
    (_, first), (_, second) = all_of(one)
    assert first == replace(DONE, attempts=2)
    assert (second.reason, second.attempts) == ("ValueError: bad", 1)


def test_transient_errors_that_stay_fail_the_trial(tmp_path):
    one = dispatcher(Scripted(*[done(Failed(reason="OSError: gone"), transient=True)] * 3), tmp_path, retries=2)
    one.submit(trial(0))
    assert one.next()[1] == replace(Failed(reason="OSError: gone"), attempts=3)
    assert not list(tmp_path.iterdir())


def test_a_study_that_cannot_be_written_is_no_trials_fault(tmp_path):
    """A full disk, or one that went away: the search ends, and the trial is redone."""
    folder = tmp_path / "study"
    one = dispatcher(Scripted(done(Failed(reason="OSError: disk full"), transient=True)), folder, retries=0)
    one.submit(trial(0))
    with pytest.raises(OSError, match="No such file"):
        one.next()


def test_damaged_weights_are_no_trials_fault(tmp_path):
    """The search ends, and the trial is redone when they are back."""
    damaged = done(Failed(reason="FormatError: damaged"), transient=True)
    evaluation = Needy(artifacts=Kept(damaged={"trial:0"}))
    one = dispatcher(Scripted(damaged, damaged), tmp_path, evaluation, retries=1)
    one.submit(trial(1, weights="trial:0"))
    with pytest.raises(FormatError, match="trial:0 is damaged"):
        one.next()


def test_time_is_limited_from_the_begin_on(tmp_path):
    executor = Scripted([], done())
    one = dispatcher(executor, tmp_path, timeout_s=0.1)
    one.submit(trial(0))
    one.submit(trial(1))
    start = time.monotonic()
    while time.monotonic() < start + 0.3:
        one._step()
    assert not executor.cancelled, "its worker is still starting"
    executor.messages.append(Message(slot=0, said=Begun()))
    found, outcome = one.next()
    assert (found.number, outcome) == (0, Failed(reason="timed out: not finished within 0.1 s", seconds=0.1))
    assert executor.cancelled == [0] and one.next() == (trial(1), DONE)


def test_a_slot_that_is_slow_to_begin_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "_SLOW_S", 0.05)
    executor = Scripted([])
    one = dispatcher(executor, tmp_path)
    one.submit(trial(0))
    start = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="secateur"):
        while time.monotonic() < start + 0.3:
            one._step()
    assert caplog.text.count("slot 0 has not begun trial 0") == 1


def test_clocks_that_jump_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e12)
    executor = Scripted([Begun()])
    one = dispatcher(executor, tmp_path, timeout_s=60.0)
    one.submit(trial(0))
    one._step()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    one._step()
    assert not executor.cancelled


def test_artifacts_travel_once(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("a", "b"):
        (tmp_path / "weights" / name).write_text(name)
    evaluation = Needy(
        files={
            0: ["weights/a"],
            1: ["weights/a", "weights/b"],
            2: ["weights/b", "weights/made"],
            3: ["weights/a", "weights/none"],
        }
    )
    executor = Scripted(done(), done(files={"weights/made": b"new"}), done(), LOST, done())
    one = dispatcher(executor, tmp_path, evaluation)
    for number in range(4):
        one.submit(trial(number))
    all_of(one)
    assert (tmp_path / "weights" / "made").read_bytes() == b"new"
    sent = [(job.needs, set(job.files)) for _, job in executor.jobs]
    assert sent == [
        (("weights/a",), {"weights/a"}),
        (("weights/a", "weights/b"), {"weights/b"}),
        (("weights/b", "weights/made"), set()),  # its worker made it
        (("weights/a", "weights/none"), {"weights/a"}),  # taken away with the last job
        (("weights/a", "weights/none"), {"weights/a"}),  # a new worker has nothing
    ]


def test_states_travel_every_time_and_events_bring_them(tmp_path):
    (tmp_path / "weights").mkdir()
    evaluation = Needy(files={0: ["weights/round-0.state"]})
    epoch = Epoch(of="round:0", done=1, total=2, loss=0.5)
    saved = [Begun(), Happened(event=epoch, files={"weights/round-0.state": b"1"}), Lost("gone")]
    seen, executor = [], Scripted(saved, done(files={"weights/round-0.state": None}))
    one = dispatcher(executor, tmp_path, evaluation, status=seen.append)
    one.submit(trial(0))
    one.next()
    assert [dict(job.files) for _, job in executor.jobs] == [{}, {"weights/round-0.state": b"1"}]
    assert not (tmp_path / "weights" / "round-0.state").exists()
    assert [event.change for event in seen] == [
        "open",
        "started",
        "begun",
        "epoch",
        "lost",
        "started",
        "begun",
        "ended",
    ]
    assert seen[3].doing.epoch == epoch and seen[5].doing.attempt == 2 and seen[5].doing.epoch is None


def test_artifacts_cannot_leave_their_folder(tmp_path):
    one = dispatcher(Scripted(done(files={"weights/../../x": b""})), tmp_path)
    one.submit(trial(0))
    with pytest.raises(ValueError, match="is no artifact"):
        one.next()


def test_rounds_are_trained_before_their_trials(tmp_path):
    evaluation = Needy()

    def train(job):
        assert job.training
        evaluation.rounds.add(job.trial.weights)
        return done()

    executor = Scripted(train, done(), done(), slots=2)
    one = dispatcher(executor, tmp_path, evaluation, timeout_s=60.0)
    one.submit(trial(0, "round:0"))
    one.submit(trial(1, "round:0"))
    assert len(all_of(one)) == 2
    assert [job.training for _, job in executor.jobs] == [True, False, False]


def test_a_round_that_cannot_be_trained_ends_the_search(tmp_path):
    one = dispatcher(Scripted(done(Failed(reason="diverged"))), tmp_path)
    with pytest.raises(RuntimeError, match="round:0 can't be trained: diverged"):
        one.submit(trial(0, "round:0"))


def test_asked_to_stop_it_lets_running_trials_end(tmp_path):
    interrupts = Interrupts()
    executor = Scripted([Begun()], done())
    one = dispatcher(executor, tmp_path, interrupts=interrupts)
    one.submit(trial(0))
    one.submit(trial(1))
    one._step()
    interrupts.asked = True
    one._step()
    executor.messages.append(Message(slot=0, said=JobEnd(outcome=DONE)))
    assert one.next() == (trial(0), DONE)
    with pytest.raises(KeyboardInterrupt):
        one.next()
    assert len(executor.jobs) == 1, "nothing new was begun"


def test_what_ended_while_a_round_waited_is_not_lost(tmp_path):
    interrupts = Interrupts()
    executor = Scripted([Begun()])
    one = dispatcher(executor, tmp_path, interrupts=interrupts)
    one.submit(trial(0))
    one._step()
    interrupts.asked = True
    executor.messages.append(Message(slot=0, said=JobEnd(outcome=DONE)))
    with pytest.raises(KeyboardInterrupt):
        one.submit(trial(1, "round:0"))
    assert one.rest() == [(trial(0), DONE)] and one.rest() == []


def test_nobody_asked_and_nothing_runs(tmp_path):
    one = dispatcher(Scripted(), tmp_path)
    one.check_interrupt()
    one.interrupts.asked = True
    with pytest.raises(KeyboardInterrupt):
        one.check_interrupt()


def test_a_board_that_fails_is_said_once(tmp_path, caplog):
    def status(event):
        raise OSError("no space left on device")

    one = dispatcher(Scripted(done(), done()), tmp_path, status=status)
    with caplog.at_level(logging.WARNING, logger="secateur"):
        for number in range(2):
            one.submit(trial(number))
        assert len(all_of(one)) == 2
    assert caplog.text.count("no space left") == 1


def test_what_a_killed_driver_was_writing_is_removed(tmp_path):
    from secateur.studies.disk.files import platform

    (tmp_path / "weights").mkdir()
    mine, other = (f".x.partial-4194304@{host}" for host in (platform.node(), "elsewhere"))
    for folder in (tmp_path, tmp_path / "weights"):
        for name in (mine, other):
            (folder / name).touch()
    dispatcher(Scripted(), tmp_path)
    left = {path.name for folder in (tmp_path, tmp_path / "weights") for path in folder.iterdir()}
    assert left == {"weights", other}
