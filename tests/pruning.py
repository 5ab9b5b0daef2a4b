"""What the tests of pruning methods share: examples for any tiny network, and the suite's training loop."""

import torch
from torch import nn

from secateur.pruners import Examples, Request, TrainingPruner
from secateur.testing.pruners import OwnLoop as Loop


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


def propose(method, model, space, limits, examples, *, epochs=3, seed=0):
    """What any method proposes; a training one is trained by the loop above."""
    if not isinstance(method, TrainingPruner):
        return method.propose(Request(model, space, limits, examples=examples, seed=seed))
    phase = method.start(Request(model, space, limits, seed=seed))
    Loop(phase, examples, epochs=epochs).run()
    return phase.proposal()
