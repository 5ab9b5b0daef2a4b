"""What a task must have, what it may have, and members of such names that mean something else."""

import pytest
import tasks
import torch
from landscapes import tiny_net, tiny_space, tiny_task
from torch import nn

from secateur import Budget, Study
from secateur.evaluators import (
    ErrorRate,
    Ladder,
    Placement,
    Teacher,
    Training,
    check_task,
    measure_error,
    recalibrate,
    train,
)
from secateur.evaluators.tasks.task import abilities

FURTHER = ("with_batch", "distill", "at", "stored", "split")


class Vectors:
    """A task written by hand, with members of its own."""

    fingerprint, preprocessing, sizes = "vectors", {}, {"train": 32, "validation": 32}

    def __init__(self, **own):
        drawn = torch.Generator().manual_seed(0)
        self.x, self.y = torch.rand(32, 4, generator=drawn), torch.arange(32) % 3
        self.__dict__.update(own)

    def loader(self, split, resolution, seed):
        return [(self.x[:16], self.y[:16]), (self.x[16:], self.y[16:])]

    def forward(self, model, batch):
        return model(batch[0]), batch[1]

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def error(self):
        return ErrorRate()


def fresh(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(4, 3)


OTHERWISE = [{"split": 0.2}, {"at": 3}, {"stored": True}, {"distill": "yes"}, {"with_batch": 16}]
OTHERWISE += [{"split": {"train": [0, 1]}, "at": "left", "stored": None, "distill": 0.5, "with_batch": False}]


@pytest.mark.parametrize("own", OTHERWISE, ids=lambda own: "-".join(own))
def test_an_attribute_of_such_a_name_is_the_tasks_own_matter(own):
    """Training, with batches in parts and with a teacher, is that of a task without the attribute."""
    task = Vectors(**own)
    check_task(task)
    ways = [{}, {"device": Placement(accumulate=2)}, {"teacher": Teacher(model=fresh(1))}]
    for way in ways:
        found, expected = fresh(), fresh()
        assert train(found, task, Training(), epochs=2, **way) == train(
            expected, Vectors(), Training(), epochs=2, **way
        )
        assert torch.equal(found.weight, expected.weight)
    assert measure_error(fresh(), task, parts=2).compute() == measure_error(fresh(), Vectors()).compute()
    norm = nn.Sequential(nn.BatchNorm1d(4), fresh())
    assert recalibrate(norm, task, images=20, parts=2) == 32
    result = Ladder(task, Training(), teacher=Teacher(model=fresh(1)))(fresh, candidate="a", resolution=None)
    assert result.state == "complete"
    assert {name: getattr(task, name) for name in own} == own


def test_a_batch_that_can_not_be_changed_is_said_for_an_attribute_too():
    for task in (Vectors(), Vectors(with_batch=16)):
        with pytest.raises(ValueError, match=r"Vectors has no with_batch\(batch\)"):
            train(fresh(), task, Training(batch=8), epochs=1)


MISFITS = {
    "with_batch": (lambda: 3, r"its with_batch\(\) can't be called as with_batch\(batch\): change or rename it"),
    "distill": (lambda teacher: 3, r"its distill\(teacher\) can't be called as distill\(outputs, teacher_outputs, te"),
    "at": (lambda index: 3, r"its at\(index\) can't be called as at\(batch, resolution\)"),
    "stored": (lambda where, how: 3, r"its stored\(where, how\) can't be called as stored\(resolution\)"),
    "split": (lambda share, *, seed: 3, r"its split\(share, \*, seed\) can't be called as split\(batch, parts\)"),
}


@pytest.mark.parametrize("name", FURTHER)
def test_a_method_of_such_a_name_that_takes_something_else_is_refused_at_every_door(name, tmp_path):
    method, said = MISFITS[name]
    task = Vectors(**{name: method})
    doors = [
        lambda: check_task(task),
        lambda: Ladder(task, Training()),
        lambda: train(fresh(), task, Training(), epochs=1),
        lambda: create(tmp_path / "s", task),
    ]
    for door in doors:
        with pytest.raises(TypeError, match=f"task is a Vectors; expected a Task .*{said}"):
            door()
    assert not (tmp_path / "s").exists()


def create(path, task):
    model = tiny_net()
    return Study.create(path, model=model, task=task, space=tiny_space(model), budget=Budget(macs=0.5))


class Methodless:
    fingerprint, preprocessing, sizes = "none", {}, {}

    def loader(self, split):
        return []


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    said = (
        r"its loader\(split\) can't be called as loader\(split, resolution, seed\); it has no method "
        r"forward\(model, batch\); it has no method loss\(outputs, targets\); it has no method error\(\)"
    )
    for door in (check_task, lambda task: Ladder(task, Training()), lambda task: create(tmp_path / "s", task)):
        with pytest.raises(TypeError, match=said):
            door(Methodless())
    with pytest.raises(TypeError, match=r"task is a int; expected a Task such as Classification, but it has no method"):
        create(tmp_path / "s", 3)


@pytest.mark.parametrize("name, wrong", [("fingerprint", 12), ("preprocessing", ["a"]), ("sizes", 32)])
def test_attributes_of_another_type_are_named(name, wrong, tmp_path):
    task = Vectors(**{name: wrong})
    for door in (check_task, lambda task: create(tmp_path / "s", task)):
        with pytest.raises(TypeError, match=f"{name} is a {type(wrong).__name__}, expected a"):
            door(task)
    check_task(task, "loader", "forward")  # which is all that is asked there


def test_a_study_is_not_opened_with_what_is_no_task(tmp_path):
    create(tmp_path / "s", tiny_task())
    with pytest.raises(TypeError, match="task is a Methodless; expected a Task"):
        Study.open(tmp_path / "s", model=tiny_net(), task=Methodless())


def test_ours_can_do_everything():
    for task in (tasks.classification(), tasks.segmentation()):
        check_task(task)
        assert None not in vars(abilities(task)).values()
    assert set(vars(abilities(Vectors())).values()) == {None}
    assert tuple(vars(abilities(Vectors()))) == FURTHER


def test_a_task_that_hands_on_everything_is_one(tmp_path):
    class Handing:
        def __init__(self, task):
            self.task = task

        def __getattr__(self, name):
            return getattr(self.task, name)

    check_task(Handing(tasks.classification()))


def test_compiled_functions_without_a_signature_are_taken_as_they_are():
    check_task(Vectors(stored=type.mro), "loader")
    check_task(Vectors(at=max), "loader")
