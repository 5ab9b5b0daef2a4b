"""A training that survives a kill: its state in a file, after every epoch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ...evaluators import Loop
from .files import FormatError, write_atomic


class TrainingCheckpoint:
    """Keeps a training's state after every epoch, so that a killed one goes on from there."""

    def __init__(self, path: Path) -> None:
        """Keep it in the file `path`."""
        self._path = path

    def after_epoch(self, loop: Loop) -> None:
        """Write the state, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(loop.state(), buffer)
        write_atomic(self._path, buffer.getvalue())

    def kept(self) -> dict[str, Any] | None:
        """The state after the last whole epoch, if there is one."""
        if not self._path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self._path, weights_only=True)
        except Exception as error:  # torch.load raises almost anything on a damaged file
            raise FormatError(f"{self._path} is damaged ({error}); remove it to train that network again") from error
        return found
