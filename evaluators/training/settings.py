"""How networks are trained: one table of a study file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Le
from pydantic import AfterValidator, PlainValidator

from ...spaces.checked import AT_LEAST_0, AT_LEAST_1, BELOW_1, FINITE, POSITIVE, check, one_of
from ..tasks.own import name_of

_NEWER = (  # states of before lack them
    "examples_kept",
    "gradients_pruned",
    "sparsity",
    "initial_sparsity",
    "channels_last",
    "compile_from",
    "ema",
)
OPTIMIZERS, SCHEDULES = ("sgd", "adam", "adamw"), ("cosine", "step", "constant")
OF_THE_USER = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
"""Settings that may be functions of the user's, and what they may be by name."""


def one_of_or_own(*names: str) -> Callable[[Any], Any]:
    """A check of a name, or of a function; in study files the place of one, `"package.module:name"`."""

    def known(value: Any) -> Any:
        if not callable(value) and value not in names and not (isinstance(value, str) and ":" in value):
            raise ValueError(f"expected one of {', '.join(names)}, a function, or its place as 'package.module:name'")
        return value

    return known


@dataclass(frozen=True, kw_only=True)
class Training:
    """How networks are trained: one table of a study file.

    Attributes:
        optimizer: "sgd" (Nesterov where there is momentum), "adam" or "adamw"; or a function `(groups, lr=...)` that
            makes one, such as a class of PyTorch's; in a study file its place, `"package.module:name"`.
        lr: highest learning rate when a sub-network is fine-tuned.
        base_lr: the same when the base network is trained from scratch; None takes `lr`.
        momentum: of SGD; Adam's beta1.
        weight_decay: on weights; norms, biases and everything else of one dimension are spared.
        schedule: "cosine" (to zero), "step" (to a tenth at 1/2 and at 3/4 of the steps) or "constant"; or a function
            `(optimizer, steps)` that makes a scheduler, which is stepped after every step.
        warmup: share of the steps over which the rate rises linearly, 0..1.
        batch: images a batch; None leaves it to the task.
        amp: "bfloat16" or "float16" autocast; None computes in the model's own dtype.
        channels_last: whether convolutions have their channels last in memory while they train.
        compile_from: trainings of at least so many steps compute by `torch.compile`; its minutes before the first step
            are worth it in long trainings only; None: none does.
        ema: decay of an average of the weights over the steps, which a training ends with; None: the last weights.
        clip: largest norm of the gradient; None clips nothing.
        distillation: share of the loss that a teacher's outputs make, where there is a teacher; 0 asks none.
        temperature: what the outputs of both are divided by before they are compared.
        base_epochs: epochs of the base network, where the study trains it.
        short_epochs: epochs of the short fine-tuning every trial is compared after.
        long_epochs: epochs of the long fine-tuning of what is exported.
        recalibration_images: training images that batch-norm statistics are taken from.
        pruning_epochs: epochs of the pruning phase of methods that prune while they train.
        pruning_images: training images that the other methods look at.
        shared_epochs: epochs of the first round of shared weights, of a full network and its parts.
        round_epochs: epochs of every later round.
        sparsity: share of the weights that the last training of an export makes zero, one by one, by GraNet (Liu 2021);
            dense kernels compute as long as before.
        initial_sparsity: the same at its start; above 0 it is GraNet-ST, sparse to sparse.
        examples_kept: share of every batch that gradients are taken of, drawn by how far the network is off.
        gradients_pruned: share of the gradients behind every convolution that the stochastic rule of Ye 2020 touches
            (arXiv 1908.00173, `PrunedGradients`); it saves no time on dense kernels.
        shared_networks: parts drawn at random in every step of a round, beside the full and the smallest network.
    """

    optimizer: Annotated[str | Callable[..., Any], PlainValidator(one_of_or_own(*OPTIMIZERS))] = "sgd"
    lr: Annotated[float, POSITIVE, FINITE] = 0.05
    base_lr: Annotated[float, POSITIVE, FINITE] | None = None
    momentum: Annotated[float, AT_LEAST_0, BELOW_1] = 0.9
    weight_decay: Annotated[float, AT_LEAST_0, FINITE] = 5e-4
    schedule: Annotated[str | Callable[..., Any], PlainValidator(one_of_or_own(*SCHEDULES))] = "cosine"
    warmup: Annotated[float, AT_LEAST_0, BELOW_1] = 0.0
    batch: Annotated[int, AT_LEAST_1] | None = None
    amp: Annotated[str | None, AfterValidator(one_of("bfloat16", "float16"))] = None
    channels_last: bool = False
    compile_from: Annotated[int, AT_LEAST_0] | None = None
    ema: Annotated[float, POSITIVE, BELOW_1] | None = None
    clip: Annotated[float, POSITIVE, FINITE] | None = None
    distillation: Annotated[float, AT_LEAST_0, BELOW_1] = 0.5
    temperature: Annotated[float, POSITIVE, FINITE] = 4.0
    base_epochs: Annotated[int, AT_LEAST_0] = 30
    short_epochs: Annotated[int, AT_LEAST_0] = 1
    long_epochs: Annotated[int, AT_LEAST_0] = 10
    recalibration_images: Annotated[int, AT_LEAST_1] = 2048
    pruning_epochs: Annotated[int, AT_LEAST_1] = 10
    pruning_images: Annotated[int, AT_LEAST_1] = 1024
    shared_epochs: Annotated[int, AT_LEAST_0] = 10
    round_epochs: Annotated[int, AT_LEAST_0] = 2
    shared_networks: Annotated[int, AT_LEAST_0] = 2
    examples_kept: Annotated[float, POSITIVE, Le(1)] = 1.0
    gradients_pruned: Annotated[float, AT_LEAST_0, BELOW_1] = 0.0
    sparsity: Annotated[float, AT_LEAST_0, BELOW_1] = 0.0
    initial_sparsity: Annotated[float, AT_LEAST_0, BELOW_1] = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that no training could follow."""
        check(self)
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity={self.initial_sparsity} is above sparsity={self.sparsity}; a training makes weights "
                "zero, it does not bring them back"
            )
        if self.schedule not in SCHEDULES and self.warmup:
            raise ValueError(f"warmup={self.warmup:g} is of the schedules by name; let your own do it, or leave it out")

    def to_json(self) -> dict[str, Any]:
        """Plain values, by field name; functions by their names."""
        named = {name: name_of(one) for name in OF_THE_USER if not isinstance(one := getattr(self, name), str)}
        return {field.name: named.get(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)}

    def from_scratch(self) -> Training:
        """These settings with `base_lr` as the rate: for the base network."""
        return self if self.base_lr is None else dataclasses.replace(self, lr=self.base_lr)

    def saved(self) -> dict[str, Any]:
        """The settings as a training state has them: without newer ones that change nothing."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        values = self.to_json()
        return {name: value for name, value in values.items() if name not in _NEWER or value != usual[name]}
