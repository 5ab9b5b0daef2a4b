"""Forwards that are watched at every call of a layer, and such that stop there. Start at `Staged`.

The forward of a user's network cannot be left in the middle and taken up again, but a thread can wait: each batch of
pictures has one, and only one of them runs at a time. So all pictures reach a layer before it is solved, and go on
through its new weights, in one forward a picture.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue
from typing import Any, final

import torch
from torch import Tensor

from ...spaces.networks.patches import Call
from ...spaces.networks.watching import Watching


class Alive:
    """The memory of what functions gave and somebody still holds.

    Args:
        own: tensors that do not count: the network's, and the pictures.
    """

    def __init__(self, own: Iterable[Tensor]) -> None:
        self._own = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._seen: list[weakref.ref[Tensor]] = []

    def add(self, result: Any) -> None:
        """Remember the tensors of a result."""
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self._seen.append(weakref.ref(one))

    def bytes(self) -> int:
        """Of all tensors that are left, those of shared memory once."""
        held = [(one, tensor) for one in self._seen if (tensor := one()) is not None]
        self._seen = [one for one, _ in held]
        memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for _, tensor in held}
        return sum(size for place, size in memory.items() if place not in self._own)


class Enough(BaseException):
    """Ends a forward of which no more is wanted; no `except Exception` of a user's catches it."""


@final
class Staged:
    """A forward that stops before every call of a layer.

    Attributes:
        stop: name and call of the layer it stands at; None before the first and after the last.
    """

    def __init__(self, run: Callable[[], object], names: Mapping[int, str], device: torch.device) -> None:
        """Stand before the start.

        Args:
            run: the forward.
            names: of weights, by their `id`.
            device: where the network is.
        """
        self.stop: tuple[str, Call] | None = None
        self._run, self._names, self._device = run, names, device
        self._turns: SimpleQueue[bool] = SimpleQueue()
        self._told: SimpleQueue[tuple[str, Call] | BaseException | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._body, daemon=True)

    def advance(self) -> tuple[str, Call] | None:
        """Run to the next call of a layer, and name it; None at the end. What the forward raises is raised."""
        self.stop = None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turns.put(True)
        told = self._told.get()
        if isinstance(told, BaseException):
            raise told
        self.stop = told
        return told

    def close(self) -> None:
        """Leave the forward where it is; its memory is free."""
        self.stop = None
        if self._thread.is_alive():
            self._turns.put(False)
            self._thread.join()

    def _body(self) -> None:
        told: BaseException | None = None
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            with torch.no_grad(), Watching(self._names, before=self._pause):
                self._run()
        except Enough:
            pass
        except BaseException as error:  # noqa: BLE001 - the user's forward may raise anything; `advance` raises it
            told = error
        self._told.put(told)

    def _pause(self, name: str, call: Call) -> None:
        self._told.put((name, call))
        del call  # its input is not kept alive while others run
        if not self._turns.get():
            raise Enough
