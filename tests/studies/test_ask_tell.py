"""A loop of the user's own: ask, evaluate, tell; durable, safe to kill, and shared by several handles."""

import pytest
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.studies.trials.trial import Failed

MODEL, TASK = tiny_net(), tiny_task()
SPACE = tiny_space(MODEL)
SAME = ["trial", "key", "source", "state", "error", "macs"]


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1}
    return Study.create(path, **searching({**given, "sampler": "tpe", "evaluator": Instant(SPACE), **changes}))


def reopen(path, **changes):
    return Study.open(path, **{"model": MODEL, "task": TASK, "evaluator": Instant(SPACE), **changes})


def loop(study, trials):
    while (trial := study.ask()) is not None:
        study.tell(trial, study.evaluate(trial))
        if trial.number + 1 == trials:
            return


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "polynomial"])
def test_a_loop_of_ones_own_gives_the_table_of_run(tmp_path, sampler):
    by_run, by_hand = create(tmp_path / "a", sampler=sampler), create(tmp_path / "b", sampler=sampler)
    by_run.run(14)
    loop(by_hand, 14)
    assert by_hand.trials()[SAME].equals(by_run.trials()[SAME])


def test_whatever_process_goes_on_the_table_is_the_same(tmp_path):
    straight = create(tmp_path / "a")
    straight.run(14)
    create(tmp_path / "b")
    for number in range(10):
        trial = reopen(tmp_path / "b").ask()
        assert trial.number == number
        again = reopen(tmp_path / "b")
        again.tell(number, again.evaluate(number))
    reopen(tmp_path / "b").run(14)
    assert reopen(tmp_path / "b").trials()[SAME].equals(straight.trials()[SAME])


def test_a_trial_that_was_asked_and_never_told_is_evaluated_by_the_next_run(tmp_path):
    straight = create(tmp_path / "a")
    straight.run(8)
    study = create(tmp_path / "b")
    study.ask()
    study.ask()
    assert list(study.trials().state) == ["running", "running"]
    reopen(tmp_path / "b").run(8)
    assert reopen(tmp_path / "b").trials()[SAME].equals(straight.trials()[SAME])


def test_asking_waits_for_no_batch_and_two_handles_ask_for_different_trials(tmp_path):
    one = create(tmp_path / "s", batch=4)
    two = reopen(tmp_path / "s")
    asked = [handle.ask() for _ in range(5) for handle in (one, two)]
    assert [trial.number for trial in asked] == [*range(10)]
    assert len({(trial.candidate, trial.ranking, trial.weights, trial.fidelity) for trial in asked}) == 10
    for trial in reversed(asked):
        two.tell(trial, one.evaluate(trial))
    assert (one.trials().state == "complete").all()
    one.run(12)
    assert len(two.trials()) == 12


def test_a_bare_error_is_an_outcome_and_what_is_no_number_a_failure(tmp_path):
    study = create(tmp_path / "s")
    assert study.tell(study.ask(), 0.25).measures["error"] == 0.25
    assert study.tell(study.ask(), float("nan")).outcome.reason == "the error is nan, not a finite number"
    assert list(study.trials().state) == ["complete", "failed"]
    with pytest.raises(TypeError, match="outcome is a str; expected an error to minimise, or an Outcome"):
        study.tell(study.ask(), "good")


def test_telling_what_nobody_asked_for_or_twice_is_refused(tmp_path):
    study = create(tmp_path / "s")
    trial = study.ask()
    study.tell(trial, 0.5)
    with pytest.raises(ValueError, match="trial 0 has an outcome already, which is final"):
        study.tell(trial, 0.4)
    with pytest.raises(ValueError, match="trial 0 has an outcome already"):
        study.evaluate(trial)
    for number in (1, -1, True, "0"):
        with pytest.raises(ValueError, match="expected a Trial, or a number below 1"):
            study.tell(number, 0.4)
    assert study.trials().error.tolist() == [0.5]


def test_what_is_enqueued_is_tried_first_and_once_and_takes_no_seeds_place(tmp_path):
    plain = create(tmp_path / "a")
    plain.run(6)
    wanted = [SPACE.sample(30, seed=7)[i] for i in range(30)]
    wanted = [one for one in wanted if SPACE.costs([one]).macs[0] < 0.4 * SPACE.costs([SPACE.full]).macs[0]][:2]
    study = create(tmp_path / "b")
    for candidate in (*wanted, wanted[0]):
        study.enqueue(candidate)
    study.run(3)
    reopen(tmp_path / "b").enqueue(wanted[1])  # as a script does that begins again
    reopen(tmp_path / "b").run(8)
    table = reopen(tmp_path / "b").trials()
    assert list(table.source[:3]) == ["enqueued", "enqueued", "seed:full"]
    assert list(table.key[:2]) == [one.key for one in wanted]
    assert list(table.source[2:8]) == list(plain.trials().source)
    seeds = plain.trials().source.str.startswith("seed")
    assert list(table.key[2:8][seeds.to_numpy()]) == list(plain.trials().key[seeds])


def test_what_is_over_the_budget_or_no_choice_is_not_enqueued(tmp_path):
    study = create(tmp_path / "s")
    with pytest.raises(ValueError, match=r"candidate has macs=[\d,]+, over the budget of [\d,]+; take a smaller one"):
        study.enqueue(SPACE.full)
    with pytest.raises(ValueError, match="candidate has 1 values; this space has"):
        study.enqueue([3])


def test_what_goes_wrong_is_a_failed_outcome(tmp_path):
    def broken(build, **given):
        raise KeyError("no such layer")

    study = create(tmp_path / "s", evaluator=broken)
    outcome = study.evaluate(study.ask())
    assert isinstance(outcome, Failed) and outcome.reason == "KeyError: 'no such layer'"


def test_a_small_space_ends(tmp_path):
    study = create(tmp_path / "s", budget=Budget(macs=0.03), sampler="random")
    loop(study, 10**6)
    count = len(study.trials())
    assert study.ask() is None and len(study.trials()) == count
    assert study.trials().key.is_unique


def test_real_training_in_a_loop_of_ones_own(tmp_path):
    by_run = create(tmp_path / "a", evaluator=None, training=tiny_training(), fidelity="recalibrated")
    by_hand = create(tmp_path / "b", evaluator=None, training=tiny_training(), fidelity="recalibrated")
    by_run.run(5)
    loop(by_hand, 5)
    assert by_hand.trials()[SAME].equals(by_run.trials()[SAME])
    assert by_hand.tell(by_hand.ask(), Failed(reason="no power")).outcome == Failed(reason="no power")


def test_what_a_method_proposes_is_tried_with_its_own_ranking_and_asked_once(tmp_path):
    study = create(tmp_path / "s", sampler="random", seeds=("full",))
    said = []
    seed = study.propose("l1", progress=said.append)
    assert seed == reopen(tmp_path / "s").propose("l1", progress=said.append) and len(said) == 1
    assert SPACE.cost_table([seed.candidate])["macs"][0] <= study.limits()["macs"]
    study.enqueue(seed)
    trial = study.ask()
    assert (trial.source, trial.candidate, trial.ranking) == ("enqueued", seed.candidate, seed.ranking)
    assert trial.ranking.startswith("l1:")
    study.tell(trial, 0.5)
    assert Study.look(study.path).trials().ranking[0] == seed.ranking
