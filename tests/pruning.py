"""What the tests of pruning methods share: examples for any tiny network, and a training loop that is not ours."""

import torch
from torch import nn

from secateur.pruners import Examples, Request, TrainingPruner


def flat(outputs):
    """All outputs of a network in one `(n, k)` tensor."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return torch.cat([flat(one) for one in outputs], dim=1)
    return outputs.flatten(1)


def examples_for(model, example, *, batches=2, size=4, seed=0):
    """Batches of noise like `example`, whose targets are classes for pooled outputs."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor):
        return torch.randn(size, *tensor.shape[1:], generator=generator, dtype=tensor.dtype)

    def batch():
        inputs = {k: noise(v) for k, v in example.items()} if isinstance(example, dict) else noise(example)
        return inputs, torch.randint(0, 2, (size,), generator=generator)

    return Examples(batches=[batch() for _ in range(batches)], loss=loss)


def loss(outputs, targets):
    """Cross-entropy of the first output against the others' mean: it depends on every channel."""
    outputs = flat(outputs)
    logits = torch.stack([outputs[:, 0], outputs[:, 1:].mean(1)], dim=1)
    return nn.functional.cross_entropy(logits, targets) + 0.01 * outputs.square().mean()


class Loop:
    """A user's own training loop: nothing of Secateur's evaluators."""

    def __init__(self, phase, examples, *, epochs=3, lr=0.01, momentum=0.9):
        self.model, self.phase, self.examples = phase.model, phase, examples
        self.epochs, self.lr, self.epoch, self.step = epochs, lr, 0, 0
        self.steps = epochs * len(examples.batches)
        self.optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad], lr=lr, momentum=momentum
        )

    def call(self, hook):
        method = getattr(self.phase, hook, None)
        if method is not None:
            method(self)

    def run(self):
        self.call("prepare")
        self.model.train()
        while self.epoch < self.epochs:
            for batch in self.examples.batches:
                self.optimizer.zero_grad()
                self.examples.loss_of(self.model, batch).backward()
                self.call("after_backward")
                self.optimizer.step()
                self.step += 1
                self.call("after_step")
            self.epoch += 1
            self.call("after_epoch")
        self.call("finalise")


def propose(method, model, space, limits, examples, *, epochs=3, seed=0):
    """What any method proposes; a training one is trained by the loop above."""
    return proposed(method, model, space, limits, examples, epochs=epochs, seed=seed)[0]


def proposed(method, model, space, limits, examples, *, epochs=3, seed=0):
    """What any method proposes, and the network that its training ended with."""
    if not isinstance(method, TrainingPruner):
        return method.propose(Request(model, space, limits, examples=examples, seed=seed)), None
    phase = method.start(Request(model, space, limits, seed=seed))
    Loop(phase, examples, epochs=epochs).run()
    return phase.proposal(), phase.model
