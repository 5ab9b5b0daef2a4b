"""Forwards whose calls of convolutions and linear layers are watched, whoever makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..graph.attention import by_weights
from .patches import Call, call_of

Before = Callable[[str, Call], None]
After = Callable[[str, Call, Tensor], None]


class Watching(TorchFunctionMode):
    """Within it, calls of layers are told before and after; of PyTorch's functions, modules' or not.

    PyTorch's attention is one function, so within it that of `graph.attention` stands for it, which calls its layers.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        *,
        before: Before | None = None,
        after: After | None = None,
        given: Callable[[Any], None] | None = None,
    ) -> None:
        """Watch this thread.

        Args:
            names: of weights, by their `id`.
            before: told of a layer's name and call.
            after: told of these and the output.
            given: told of the result of every function.
        """
        super().__init__()
        self._names, self._before, self._after, self._given = names, before, after, given

    def __enter__(self) -> Self:
        self._attention = by_weights()
        self._attention.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._attention.__exit__(*raised)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = call_of(func, args, kwargs)
        name = None if call is None else self._names.get(id(call.weight))
        if name is not None and call is not None and self._before is not None:
            self._before(name, call)
        result = func(*args, **kwargs)
        if name is not None and call is not None and self._after is not None:
            self._after(name, call, result)
        if self._given is not None:
            self._given(result)
        return result
