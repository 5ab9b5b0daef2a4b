import copy
import io
import logging
import math

import networks
import pytest
import tasks
import torch
from pairs import quick_in
from torch import nn

from secateur.evaluators import Augment, Placement, Teacher, Training, train
from secateur.evaluators.tasks.learned import divergence
from secateur.evaluators.training.loop import Distillation, answered

SHIFTED = {"augment": Augment(shift=0.2)}  # nothing can be answered beforehand


class Only:
    """A task that has nothing but what a task must have, and the methods that are named."""

    def __init__(self, task, *methods):
        self.task, self.methods = task, methods

    def __getattr__(self, name):
        if name in ("with_batch", "distill", "at", "stored") and name not in self.methods:
            raise AttributeError(name)
        return getattr(self.task, name)


class Watched(networks.Plain):
    """Plain that keeps what it was given, whichever copy of it."""

    seen = []

    def forward(self, x):
        assert not self.training and not torch.is_grad_enabled()
        Watched.seen.append(x)
        return super().forward(x)


class Keep:
    def __init__(self):
        self.batches, self.states = [], []

    def after_step(self, loop):
        self.batches.append(loop.batch)

    def after_epoch(self, loop):
        buffer = io.BytesIO()
        torch.save(loop.state(), buffer)
        self.states.append(buffer.getvalue())


def fresh(seed=0, kind=networks.Plain):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(4, 3)


def trained(task, teacher, training=None, *, seed=5, **given):
    model = fresh()
    losses = train(model, task, training or Training(), epochs=2, seed=seed, teacher=teacher, **given)
    return losses, model.state_dict()


def equal(a, b):
    return a[0] == b[0] and all(torch.equal(a[1][name], b[1][name]) for name in a[1])


def test_divergence_by_hand():
    # Softmax of the teacher: 1/4, 3/4; of the student: 1/2, 1/2. KL = 1/4 ln(1/2) + 3/4 ln(3/2).
    teacher, student = torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert divergence(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-5)
    # Outputs twice as large at T = 2 have the same softmax; T^2 = 4.
    assert divergence(student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected, rel=1e-5)
    # A mean over examples and pixels: one of two examples agrees.
    both = torch.stack([teacher[0], student[0]]).reshape(2, 2, 1, 1).expand(2, 2, 3, 5)
    assert divergence(torch.zeros(2, 2, 3, 5), both, 1.0).item() == pytest.approx(expected / 2, rel=1e-5)


def test_the_gradient_at_a_high_temperature_is_that_of_the_squared_distance():
    # Hinton 2015, equation 4: T^2 dKL/dz -> (z - v) / classes for outputs of mean 0.
    z = torch.tensor([[0.5, -0.2, -0.3]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[-0.1, 0.4, -0.3]], dtype=torch.float64)
    divergence(z, v, 1000.0).backward()
    assert torch.allclose(z.grad, (z - v) / 3, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, SHIFTED], ids=["stored", "augmented"])
def test_the_loss_is_the_mix_of_both(settings):
    task, model = tasks.classification(**settings), fresh(1)
    batch = next(iter(task.loader("train", None, 3)))
    training = Training(distillation=0.3, temperature=2.0)
    distillation = Distillation(task, Teacher(model=model), training, Placement(devices=(torch.device("cpu"),)))
    outputs, targets = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), batch.targets
    answers, _ = task.forward(model.eval(), batch)
    expected = 0.7 * task.loss(outputs, targets) + 0.3 * divergence(outputs, answers, 2.0)
    assert distillation.loss(task.loss(outputs, targets), outputs, batch).item() == pytest.approx(expected.item())


def test_without_a_teacher_the_settings_change_nothing():
    task = tasks.classification()
    plain = trained(task, None, Training(distillation=0))
    assert equal(trained(task, None, Training(distillation=0.7, temperature=2)), plain)
    assert equal(trained(task, Teacher(model=fresh(1)), Training(distillation=0)), plain)
    assert not equal(trained(task, Teacher(model=fresh(1))), plain)


def test_a_teacher_sees_the_same_augmentation_at_its_own_resolution():
    task, keep, model = tasks.classification(**SHIFTED), Keep(), fresh(1, Watched).train()
    Watched.seen.clear()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    trained(task, Teacher(model=model, resolution=(6, 6)), resolution=(4, 4), callbacks=[keep])
    assert len(Watched.seen) == len(keep.batches) == 12
    for given, batch in zip(Watched.seen, keep.batches, strict=True):
        assert batch.resolution == (4, 4) and batch.seed is not None
        assert torch.equal(given, task.prepare(task.at(batch, (6, 6)), given.device)[0])
        assert given.shape == (16, 3, 6, 6)
    # And it is left as it was.
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_without_augmentation_a_teacher_answers_once():
    task, model = tasks.classification(train=90), fresh(1, Watched)  # six batches: five of 16, and 10 that are left out
    Watched.seen.clear()
    teacher = answered(task, Teacher(model=model, resolution=(6, 6)), torch.device("cpu"))
    assert len(Watched.seen) == 6
    (everything,) = tasks.classification(train=90, batch=90).stored((6, 6))
    with torch.no_grad():
        assert torch.allclose(teacher.answers, task.forward(model.eval(), everything)[0], atol=1e-6)
    known = trained(task, teacher)
    assert len(Watched.seen) == 7  # the last is this test's own
    # Asked at every batch it says the same, but for the rounding of other batches.
    asked = trained(Only(task, "distill", "at"), Teacher(model=model, resolution=(6, 6)))
    assert len(Watched.seen) == 7 + 10
    assert all(torch.allclose(known[1][name], value, atol=1e-4) for name, value in asked[1].items())


def test_answers_that_are_many_are_not_kept(monkeypatch):
    monkeypatch.setattr("secateur.evaluators.training.loop._MOST", 96 * 3 - 1)
    task, teacher = tasks.classification(), Teacher(model=fresh(1))
    assert answered(task, teacher, torch.device("cpu")) is teacher
    trained(task, teacher)


@pytest.mark.parametrize(("amp", "settings"), quick_in(1 / 2, [None, "bfloat16"], [{}, SHIFTED]))
def test_resuming_is_bit_identical(settings, amp):
    task, training, keep = tasks.classification(**settings), Training(amp=amp), Keep()
    teacher = Teacher(model=fresh(1))
    whole = trained(task, teacher, training, callbacks=[keep])
    for saved in keep.states:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        assert equal(trained(task, teacher, training, state=state), whole)


def test_a_state_of_another_teaching_is_refused():
    task, keep, teacher = tasks.classification(), Keep(), Teacher(model=fresh(1))
    trained(task, teacher, callbacks=[keep])
    state = torch.load(io.BytesIO(keep.states[0]), weights_only=True)
    for other, training in (
        (None, Training()),
        (teacher, Training(distillation=0.4)),
        (teacher, Training(temperature=3)),
        (Teacher(model=fresh(1), resolution=(6, 6)), Training()),
    ):
        with pytest.raises(ValueError, match="differs in teacher"):
            trained(task, other, training, state=state)


def test_a_state_of_before_there_were_teachers_goes_on():
    task, keep = tasks.classification(), Keep()
    whole = trained(task, None, callbacks=[keep])
    state = torch.load(io.BytesIO(keep.states[0]), weights_only=True)
    del state["settings"]["teacher"]
    assert equal(trained(task, None, state=state), whole)


def test_a_teacher_draws_its_student_near():
    task, model = tasks.classification(**SHIFTED, normalise="measure"), fresh(1)  # so that it learns in four epochs
    train(model, task, Training(lr=0.1), epochs=4)
    batch = next(iter(task.loader("validation")))

    def distance(teacher):
        student = fresh()
        train(student, task, Training(distillation=0.9), epochs=4, teacher=teacher)
        with torch.no_grad():
            answers = [task.forward(network.eval(), batch)[0] for network in (student, copy.deepcopy(model))]
        return divergence(*answers, 4.0).item()

    assert distance(Teacher(model=model)) < 0.7 * distance(None)


def test_segmentation_compares_pixels_of_the_student():
    task = tasks.segmentation()
    # The teacher's four pixels, each over a quarter of the student's sixteen, say 1/4, 3/4 everywhere.
    answers = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert task.distill(torch.zeros(1, 2, 4, 4), answers, 1.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [{}, SHIFTED], ids=["stored", "augmented"])
def test_segmentation_learns_from_a_teacher_of_another_side(settings):
    task, training, states = tasks.segmentation(**settings), Training(lr=0.1), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(2))
    for given in (None, Teacher(model=teacher, resolution=(8, 8))):
        model = copy.deepcopy(student)
        losses = train(model, task, training, epochs=2, resolution=(4, 4), teacher=given)
        assert all(math.isfinite(loss) for loss in losses)
        states.append(model.weight)
    assert not torch.equal(*states)


def test_a_task_that_cannot_distil_trains_without_and_says_so_once(caplog):
    task, teacher = tasks.classification(), Teacher(model=fresh(1))
    with caplog.at_level(logging.INFO, logger="secateur"):
        assert equal(trained(Only(task), teacher), trained(task, None))
    assert [record.message for record in caplog.records] == [
        "Only has no distill(outputs, teacher_outputs, temperature): training without"
    ]


def test_a_task_without_at_shows_the_teacher_what_the_student_sees():
    task, model = tasks.classification(), fresh(1, Watched)
    Watched.seen.clear()
    trained(Only(task, "distill"), Teacher(model=model, resolution=(8, 8)), resolution=(5, 5))
    assert {tuple(given.shape[2:]) for given in Watched.seen} == {(5, 5)}


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, SHIFTED], ids=["stored", "augmented"])
def test_on_cuda(settings):
    model = fresh(1)
    losses, _ = trained(tasks.classification(**settings), Teacher(model=model), device="cuda")
    assert all(math.isfinite(loss) for loss in losses)
    assert not next(model.parameters()).is_cuda
