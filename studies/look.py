"""A study seen from its folder alone: see `Study.look`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from .views.view import View

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from .views.status import Status


@final
class Look:
    """What a study's folder says, without its model and its data, as of when it was looked at.

    Of a study that may run elsewhere, or that someone sent: nothing is written to it or to its storage, no code of the
    folder is imported or run, and nothing is sent.
    """

    def __init__(self, path: str | Path, *, storage: str | None = None, connect: bool = False) -> None:
        """Look at the study in the folder `path`.

        Args:
            path: the folder.
            storage: the URL of its storage again, with the password that it needs; see `Study.open`.
            connect: whether a database server that only the folder names may be connected to.

        Raises:
            FileNotFoundError: there is no study.
            ValueError: it is damaged, or of another version; or its trials are on a server.
        """
        self._view, self._storage, self._connect = View(path, storage=storage, connect=connect), storage, connect

    @property
    def path(self) -> Path:
        """The folder."""
        return self._view.path

    def refresh(self) -> None:
        """Look again."""
        self._view.refresh()

    def trials(self) -> pd.DataFrame:
        """A row a trial, in number order, running ones included."""
        return self._view.trials()

    def front(self) -> pd.DataFrame:
        """The non-dominated trials within the budget, cheapest first; empty where none is."""
        from .views.notebook import Front

        return Front.of(self._view.front(), self._view.objectives, self._view.found)

    def status(self) -> Status:
        """Where the study stands, and what runs now."""
        return self._view.status()

    def report(self, to: str | Path, *, pictures: str | Path | None = None, model: nn.Module | None = None) -> Path:
        """The report of the study as one HTML page, and where it is; see `pages.report`.

        Args:
            to: the file, whose name ends in .html.
            pictures: a folder for PNG files of the charts; none are drawn when None.
            model: the full network, with any weights: layers are known from it alone.

        Raises:
            FileExistsError: the file is there and is no report.
            ImportError: plotly, jinja2 or matplotlib is missing; the extra `report` brings them.
        """
        from .pages import report

        storage, connect = self._storage, self._connect
        return report(self.path, to, pictures=pictures, model=model, storage=storage, connect=connect).page

    def __repr__(self) -> str:
        return f"Look({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from .views.notebook import study_html

        return study_html(self)
