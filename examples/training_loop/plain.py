"""A plain training loop, as anybody has one, that tells a pruning method what happens."""

from types import SimpleNamespace

import torch
from torch.nn import functional as F


def fit(model, batches, epochs, lr, phase=None):
    """Train in place; `phase`, if there is one, decides while the network learns which channels it can do without."""

    def tell(hook):
        getattr(phase, hook, lambda loop: None)(loop)  # a phase has the hooks that it needs

    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * len(batches)
    loop = SimpleNamespace(model=model, optimizer=optimizer, lr=lr, step=0, steps=steps, epoch=0, epochs=epochs)
    tell("prepare")  # before there is a scheduler: it may give the optimizer another group of parameters
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            tell("after_backward")
            optimizer.step()
            scheduler.step()
            loop.step += 1
            tell("after_step")
        loop.epoch += 1
        tell("after_epoch")
    tell("finalise")
