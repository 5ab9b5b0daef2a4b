"""Optuna's dashboard on a study: looked at in a browser, changed by no one.

It runs in this process, so that a storage's password stands on no command line.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Container, Iterable
from socketserver import ThreadingMixIn
from typing import Any, NoReturn, final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from ..trials.rows import all_rows

logger = logging.getLogger("secateur")

_ONLY_LOOKS = "the dashboard only looks at a study: the search alone writes there"
_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_NAMES = "study:metric_names"  # where Optuna's `set_metric_names` keeps them


def serve(
    look: Callable[[], BaseStorage],
    name: str,
    *,
    port: int,
    host: str = "127.0.0.1",
    ready: Callable[[str], object],
) -> None:
    """Serve the dashboard of one study until it is interrupted.

    Args:
        look: gives the storage where the study is, as of now.
        name: its name there.
        port: where it listens; any that is free when 0.
        host: the address that it listens at; others than this machine's see it at `"0.0.0.0"`.
        ready: called with the page's URL.

    Raises:
        ImportError: optuna-dashboard is not installed.
        OSError: the port is taken.
    """
    try:
        from optuna_dashboard import wsgi  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("optuna-dashboard is not installed: pip install 'secateur[dashboard]'") from error
    shown = Shown(look, name)
    try:
        server = make_server(host, port, _looking(wsgi(shown)), _Server, _Quiet)
    except OSError as error:
        said = f"can't listen on {host}:{port} ({error.strerror}); give another --port or --host"
        raise OSError(error.errno, said) from error
    with server:
        ready(f"http://{host}:{server.server_port}/dashboard/studies/{shown.id}")
        server.serve_forever()


def _through(name: str) -> Any:
    """A method that asks the storage behind."""

    def ask(self: Shown, *given: Any, **named: Any) -> Any:
        return getattr(self._look(), name)(*given, **named)

    return ask


def _refuse(self: Shown, *given: Any, **named: Any) -> NoReturn:
    raise RuntimeError(_ONLY_LOOKS)


@final
class Shown(BaseStorage):
    """One study of a storage, as optuna-dashboard (0.21) understands it, and read-only.

    That one knows constraints only as Optuna 4 kept them: without this, networks over the budget look as good as
    others.

    Attributes:
        id: of the study.
    """

    def __init__(self, look: Callable[[], BaseStorage], name: str) -> None:
        """Show the study of this name in the storage that `look` gives."""
        self._look = look
        self.id = look().get_study_id_from_name(name)

    def get_all_studies(self) -> list[FrozenStudy]:
        """The one study."""
        found = [copy.copy(study) for study in self._look().get_all_studies() if study._study_id == self.id]
        for study in found:
            study.system_attrs = self.get_study_system_attrs(self.id)
        return found

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Every trial, with its constraints."""
        found = [trial for trial in all_rows(self._look(), study_id) if states is None or trial.state in states]
        return [_shown(trial) for trial in (copy.deepcopy(found) if deepcopy else found)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial, with its constraints."""
        return _shown(self._look().get_trial(trial_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What Optuna keeps of the study, and the names of the objectives."""
        names = self._look().get_study_user_attrs(study_id).get("objectives")
        return dict(self._look().get_study_system_attrs(study_id)) | ({_NAMES: names} if names else {})

    get_study_user_attrs = _through("get_study_user_attrs")
    get_study_id_from_name = _through("get_study_id_from_name")
    get_study_name_from_id = _through("get_study_name_from_id")
    get_study_directions = _through("get_study_directions")
    remove_session = _through("remove_session")
    create_new_study = delete_study = create_new_trial = _refuse
    set_study_user_attr = set_study_system_attr = set_trial_user_attr = set_trial_system_attr = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse


def _shown(trial: FrozenTrial) -> FrozenTrial:
    """A copy with the constraints under Optuna 4's key."""
    constraints = trial.constraints
    if not constraints:
        return trial
    shown = copy.copy(trial)
    shown._system_attrs = {**trial.system_attrs, "constraints": list(constraints.values())}
    return shown


def _looking(application: _Application) -> _Application:
    """The application without all that changes something: its buttons say why."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "%s"}' % _ONLY_LOOKS.encode()]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Keep the requests off the terminal."""
        logger.debug(format, *args)
