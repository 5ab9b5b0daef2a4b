"""Names that are imported when they are first asked for: those of faces (`face`), of methods and samplers (`Registry`).

A face, the `__init__.py` of a room, lists its names once, for readers and type checkers alike:

    if TYPE_CHECKING:
        from .budget import Budget
    else:
        __getattr__, __dir__ = face(__name__)
"""

from __future__ import annotations

import ast
import difflib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Piece = TypeVar("Piece")

logger = logging.getLogger("secateur")


def face(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) of a package that imports its names under `if TYPE_CHECKING:`."""
    known = homes(package)

    def get(name: str) -> Any:
        if name not in known:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = import_module(known[name], package)
        return getattr(home, name) if hasattr(home, name) else import_module(f"{home.__name__}.{name}")

    return get, lambda: sorted({*vars(sys.modules[package]), *known})


def homes(package: str) -> dict[str, str]:
    """The names under `if TYPE_CHECKING:` in a package's source, and the module that each is imported from."""
    source = inspect.getsource(sys.modules[package])
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    found = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {name.name: "." * node.level + (node.module or "") for node in found for name in node.names}


@dataclass(frozen=True)
class Late(Generic[Piece]):
    """Something of a module, imported when it is asked for, with settings other than its own."""

    module: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Piece:
        """It."""
        found: Any = getattr(import_module(self.module), self.name)
        return cast("Piece", partial(found, **self.settings) if self.settings else found)


class Registry(Mapping[str, Piece]):
    """Pieces by name: ours, and those that installed packages add as entry points of a group. Ours come first.

    Args:
        kind: what a piece is called in messages, such as "sampler".
        own: our pieces, as they are or `Late`.
        group: of the entry points; empty where there are none.
        check: gives the piece that an entry point holds, from its name and what it names; raises a TypeError where
            that is no such piece.
    """

    def __init__(
        self,
        kind: str,
        own: Mapping[str, Piece | Late[Piece]],
        group: str = "",
        check: Callable[[str, Any], Piece] = lambda name, found: found,
    ) -> None:
        self._kind, self._own, self._group, self._check = kind, own, group, check
        self._loaded: dict[str, Piece] = {}

    def __getitem__(self, name: str) -> Piece:
        if name not in self._loaded:
            if name in self._own:
                found = self._own[name]
                self._loaded[name] = found.load() if isinstance(found, Late) else found
            else:
                self._loaded[name] = self._installed(self._added[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._added])

    def __len__(self) -> int:
        return len(self._own) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added

    def named(self, name: str) -> Piece:
        """The piece of a name.

        Raises:
            ValueError: there is none.
            ImportError: a package adds it, and its module cannot be imported, or holds something else.
        """
        if name in self:
            return self[name]
        near = difflib.get_close_matches(name, self, 1)
        hint = f"did you mean {near[0]!r}? Else one of" if near else "expected one of"
        raise ValueError(f"{self._kind} {name!r} is not known; {hint} {', '.join(self)}")

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points

        added: dict[str, EntryPoint] = {}
        for point in entry_points(group=self._group) if self._group else ():
            if point.name in self._own or point.name in added:
                other = _package(added[point.name]) if point.name in added else "secateur"
                logger.warning(
                    "%s %r of %s is left out: %s has one of that name; %s",
                    *(self._kind, point.name, _package(point), other, "rename the entry point"),
                )
                continue
            added[point.name] = point
        return added

    def _installed(self, point: EntryPoint) -> Piece:
        try:
            return self._check(point.name, point.load())
        except Exception as error:  # the package's own code runs here
            raise ImportError(
                f"{self._kind} {point.name!r} of {_package(point)} cannot be taken from {point.value}: "
                f"{type(error).__name__}: {error}; mend that package, or uninstall it"
            ) from error


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
