"""What a study may be given for an evaluator, and what it does with it."""

import pytest
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.evaluators import Context, Ladder, Result, checked_evaluator
from secateur.evaluators.ladder import ALONE

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
ASKED = {"candidate": None, "resolution": None, "fidelity": "short", "seed": 0, "report": None}


def create(path, evaluator):
    given = {
        "model": MODEL,
        "task": tiny_task(),
        "space": SPACE,
        "budget": Budget(macs=0.5),
        "training": tiny_training(),
    }
    return Study.create(path, **searching({**given, "sampler": "random", "threads": 1, "evaluator": evaluator}))


def without_context(build, *, candidate, resolution, fidelity, seed, report=None):
    return Result(error=0.5, error_std=None, seconds=0.0)


def with_context(build, *, candidate, resolution, fidelity, seed, report, context):
    return Result(error=float(len(context.callbacks)), error_std=None, seconds=0.0)


class Keeps:
    """An evaluator whose attributes have the names of what a study knows, and another meaning."""

    def __init__(self, **own):
        self.__dict__.update(own)
        self.seen = []

    def __call__(self, build, *, candidate, **asked):
        self.seen.append({name: value for name, value in vars(self).items() if name != "seen"})
        assert set(asked) == {"resolution", "fidelity", "seed", "report"}
        return Result(error=0.5, error_std=None, seconds=0.0)


def test_the_context_is_given_to_those_that_take_it_and_to_no_other():
    context = Context(callbacks=(object(), object()))
    assert checked_evaluator(with_context)(None, **ASKED, context=context).error == 2
    assert checked_evaluator(without_context)(None, **ASKED, context=context).error == 0.5
    assert checked_evaluator(Keeps())(None, **ASKED, context=context).error == 0.5
    assert checked_evaluator(with_context) is with_context


def test_ours_take_it():
    ladder = Ladder(tiny_task(), tiny_training())
    assert checked_evaluator(ladder) is ladder


@pytest.mark.parametrize(
    "own",
    [
        {"callbacks": ["my checkpoint", "my logger"]},
        {"devices": "gpus 0 to 3"},
        {"context": 3, "report": "mine", "seed": 7},
        {"stopped": True, "weights": "there", "rung": 1, "names_parents": True, "fingerprint": 12},
    ],
    ids=lambda own: "-".join(own),
)
def test_a_study_leaves_the_attributes_of_an_evaluator_alone(tmp_path, own):
    evaluator = Keeps(**own)
    study = create(tmp_path / "s", evaluator)
    study.run(2)
    assert evaluator.seen == [own] * 2 and (study.trials().error == 0.5).all()
    assert {name: value for name, value in vars(evaluator).items() if name != "seen"} == own


def test_epochs_are_told_through_the_context(tmp_path):
    class Epochs(Instant):
        def __call__(self, build, *, context, **asked):
            found.append(context)
            return super().__call__(build, **asked)

    found = []
    create(tmp_path / "s", Epochs(SPACE)).run(1)
    assert len(found[0].callbacks) == 1 and hasattr(found[0].callbacks[0], "after_epoch") and found[0].devices == ()


def needs_more(build, gpu, *, candidate, resolution, fidelity, seed, report=None):
    raise AssertionError


def takes_less(build, *, candidate, resolution, seed):
    raise AssertionError


@pytest.mark.parametrize(
    "wrong, said",
    [
        (3, "expected one of auto, ladder, shared-weights, or your own"),
        (needs_more, r"evaluator needs_more\(build, gpu, .*: missing a required argument: 'gpu'; expected"),
        (takes_less, "evaluator takes_less.*: got an unexpected keyword argument 'fidelity'; expected"),
        (Ladder, "evaluator Ladder.*: .* argument.*; expected"),
    ],
)
def test_what_cannot_be_called_like_one_is_refused_where_it_comes_in(tmp_path, wrong, said):
    with pytest.raises((TypeError, ValueError), match=said):
        create(tmp_path / "s", wrong)
    assert not (tmp_path / "s").exists()
    create(tmp_path / "s", without_context)
    with pytest.raises((TypeError, ValueError)):
        Study.open(tmp_path / "s", model=MODEL, task=tiny_task(), evaluator=wrong)


def test_what_is_not_called_at_all_is_no_evaluator():
    with pytest.raises(TypeError, match=r"evaluator is a int; expected a function or object called as evaluator\(b"):
        checked_evaluator(3)


def test_an_evaluator_that_gives_no_result_is_a_failed_trial_that_says_so(tmp_path):
    def plain(build, *, candidate, resolution, fidelity, seed, report):
        return 0.5

    study = create(tmp_path / "s", plain)
    with pytest.raises(Exception, match="the evaluator gave a float; expected a secateur.evaluators.Result"):
        study.run(20)


def test_a_stopped_result_names_its_rung():
    with pytest.raises(ValueError, match="stopped, but has no rung"):
        Result(error=0.5, error_std=None, seconds=0.0, stopped=True)


def test_nothing_is_around_an_evaluator_that_is_called_by_hand():
    assert ALONE == Context(callbacks=(), devices=())
