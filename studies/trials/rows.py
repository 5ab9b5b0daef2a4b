"""All rows of a study at once, from an SQLite file by a few statements.

Optuna makes an object of every parameter and attribute, a hundred a trial, which takes seconds where trials are
thousands. What is returned here is equal to what it returns; other storages, and files of another form than this one
knows, are read by Optuna.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from functools import cache
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

_FORM = "v3.2.0.a"  # of the tables, as Optuna 5.0 calls it
_TRIALS = "SELECT trial_id, number, state, datetime_start, datetime_complete FROM trials WHERE study_id = ? ORDER BY 1"
_ITS = "WHERE trial_id IN (SELECT trial_id FROM trials WHERE study_id = ?)"
# The attributes of a trial as the text of one object; SQLite's own functions for it know no NaN.
_ATTRIBUTES = (
    "SELECT trial_id, '{' || group_concat(json_quote(key) || ':' || value_json) || '}' FROM trial_%s_attributes "
    + _ITS
    + " GROUP BY 1"
)
_PARAMS = f"SELECT trial_id, param_name, param_value, distribution_json FROM trial_params {_ITS} ORDER BY param_id"
_VALUES = f"SELECT trial_id, value, value_type FROM trial_values {_ITS} ORDER BY trial_id, objective"
_BETWEEN = (
    f"SELECT trial_id, step, intermediate_value, intermediate_value_type FROM trial_intermediate_values {_ITS} "
    "ORDER BY trial_intermediate_value_id"
)
_INFINITE = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


def all_rows(storage: BaseStorage, study_id: int) -> list[FrozenTrial]:
    """What `storage.get_all_trials(study_id, deepcopy=False)` returns; not to be changed."""
    if not isinstance(storage, RDBStorage) or storage.engine.dialect.name != "sqlite":
        return storage.get_all_trials(study_id, deepcopy=False)
    if storage.get_current_version() != _FORM:
        return storage.get_all_trials(study_id, deepcopy=False)
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")  # or each statement would see another moment
        return _rows(connection, study_id)


def _rows(connection: Connection, study_id: int) -> list[FrozenTrial]:
    def found(statement: str) -> Any:
        return connection.exec_driver_sql(statement, (study_id,)).all()

    users, systems = (
        {trial: json.loads(text) for trial, text in found(_ATTRIBUTES % kind)} for kind in ("user", "system")
    )
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    kinds: dict[int, dict[str, Any]] = defaultdict(dict)
    distribution = cache(json_to_distribution)
    for trial, name, value, said in found(_PARAMS):
        kinds[trial][name] = distribution(said)
        params[trial][name] = kinds[trial][name].to_external_repr(value)
    values: dict[int, list[float]] = defaultdict(list)
    for trial, value, kind in found(_VALUES):
        values[trial].append(_INFINITE.get(kind, value))
    between: dict[int, dict[int, float]] = defaultdict(dict)
    for trial, step, value, kind in found(_BETWEEN):
        between[trial][step] = _INFINITE.get(kind, value)
    return [
        FrozenTrial(
            number=number,
            state=TrialState[state],
            value=None,
            values=values.get(trial),
            datetime_start=_local(start),
            datetime_complete=_local(complete),
            params=params.get(trial, {}),
            distributions=kinds.get(trial, {}),
            user_attrs=users.get(trial, {}),
            system_attrs=systems.get(trial, {}),
            intermediate_values=between.get(trial, {}),
            trial_id=trial,
        )
        for trial, number, state, start, complete in found(_TRIALS)
    ]


def _local(moment: str | None) -> datetime | None:
    """The local time of one that is kept in UTC."""
    if moment is None:
        return None
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
