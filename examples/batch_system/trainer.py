"""A search's trials trained by PyTorch Lightning, which knows nothing of the search."""

from __future__ import annotations

import time

import pytorch_lightning as lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from secateur.evaluators import Result


class Classifier(lightning.LightningModule):
    """A classifier as in any tutorial."""

    def __init__(self, network, lr):
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch, _):
        """The loss."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, _):
        """The share of wrong answers."""
        self.log("error", (self.network(batch[0]).argmax(1) != batch[1]).float().mean(), on_epoch=True)

    def configure_optimizers(self):
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), self.lr)


class ByLightning:
    """An evaluator: from a network that is yet to be built to its validation error."""

    def __init__(self, train, validation, epochs, lr=1e-3):
        self.train, self.validation, self.epochs, self.lr = train, validation, epochs, lr
        self.fingerprint = f"lightning, {epochs} epochs at {lr}"  # what a study knows it again by

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None):
        """Build, train, validate."""
        start = time.monotonic()
        quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer = lightning.Trainer(max_epochs=self.epochs, accelerator="cpu", **quiet)
        module = Classifier(build().train(), self.lr)
        drawn = torch.Generator().manual_seed(seed)
        trainer.fit(module, DataLoader(TensorDataset(*self.train), batch_size=64, shuffle=True, generator=drawn))
        (found,) = trainer.validate(module, DataLoader(TensorDataset(*self.validation), batch_size=256), verbose=False)
        return Result(error=found["error"], error_std=None, seconds=time.monotonic() - start)
