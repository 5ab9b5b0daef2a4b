"""The same in PyTorch Lightning: a module that knows nothing of pruning, and a callback."""

from types import SimpleNamespace

import pytorch_lightning as lightning
import torch
from torch.nn import functional as F


class Classifier(lightning.LightningModule):
    """A classifier as in any tutorial."""

    def __init__(self, model, lr):
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch, _):
        """The loss."""
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        """SGD, with a cosine to zero."""
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Pruning(lightning.Callback):
    """Tells a phase what the trainer does."""

    def __init__(self, phase):
        self.phase = phase

    def _tell(self, hook, trainer):
        optimizer = trainer.optimizers[0]
        loop = SimpleNamespace(model=self.phase.model, optimizer=optimizer, lr=optimizer.defaults["lr"])
        loop.step, loop.steps = trainer.global_step, trainer.estimated_stepping_batches
        loop.epoch, loop.epochs = trainer.current_epoch, trainer.max_epochs
        getattr(self.phase, hook, lambda loop: None)(loop)  # a phase has the hooks that it needs

    def on_train_start(self, trainer, _):
        """The optimizer is there."""
        self._tell("prepare", trainer)

    def on_after_backward(self, trainer, _):
        """The gradients are there."""
        self._tell("after_backward", trainer)

    def on_train_batch_end(self, trainer, *_):
        """The weights have moved."""
        self._tell("after_step", trainer)

    def on_train_epoch_end(self, trainer, _):
        """An epoch is over."""
        self._tell("after_epoch", trainer)

    def on_train_end(self, trainer, _):
        """All epochs are over."""
        self._tell("finalise", trainer)


def fit(model, batches, epochs, lr, phase=None):
    """Train in place; `phase`, if there is one, prunes meanwhile."""
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[] if phase is None else [Pruning(phase)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model.train()  # a traced network is in eval mode, and Lightning leaves modes as they are
    trainer.fit(Classifier(model, lr), batches)
