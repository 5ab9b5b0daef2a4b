"""The ledger alone: what is written comes back, and nothing is ever half-written."""

import optuna
import pytest
from landscapes import tiny_net, tiny_space

from secateur.studies.trials.ledger import Ledger, make_ledger, positions
from secateur.studies.trials.rows import all_rows
from secateur.studies.trials.storage import check_sqlite, connect, disconnect, make_sqlite, sqlite_url
from secateur.studies.trials.trial import Failed, Scored, Trial

SPACE = tiny_space(tiny_net())
OBJECTIVES = ("error", "macs")
LIMITS = {"macs": 200_000.0}


def trial(number, candidate):
    return Trial(
        number=number,
        candidate=candidate,
        asked=SPACE.full,
        source="sampler",
        ranking="l2:0",
        weights="inherited",
        fidelity="short",
        costs={name: int(values[0]) for name, values in SPACE.cost_table([candidate]).items()},
        memory={"sampler": "note"},
    )


@pytest.fixture
def storage(tmp_path):
    make_sqlite(tmp_path / "study.db")
    opened = connect(sqlite_url(tmp_path / "study.db"))
    make_ledger(opened, "study", OBJECTIVES, {"macs": 0.5})
    yield opened
    disconnect(opened)


def ledger(storage):
    return Ledger(storage, "study", SPACE.axes, OBJECTIVES)


def test_a_trial_goes_from_running_to_parked_to_told(storage):
    first = ledger(storage)
    small = SPACE.uniform(width=0.5)
    proposed = first.add(trial(0, small))
    assert ledger(storage).trials == [proposed]
    assert not proposed.told and proposed.outcome is None and proposed.started > 1e9

    outcome = Scored(error=0.25, error_std=0.01, seconds=3.5, attributes={"rung": 0.5, "why": "so"})
    parked = first.park(proposed, outcome)
    assert ledger(storage).trials == [parked] and parked.outcome == outcome and not parked.told

    told = first.tell(parked, LIMITS, {"sampler": "note", "more": 1})
    assert ledger(storage).trials == [told] and told.told
    assert told.memory == {"sampler": "note", "more": 1}


def test_what_optuna_sees(storage):
    small, mine = SPACE.uniform(width=0.5), ledger(storage)
    mine.tell(mine.park(mine.add(trial(0, small)), Scored(error=0.25)), LIMITS, {})
    mine.tell(mine.park(mine.add(trial(1, SPACE.full)), Failed(reason="diverged")), LIMITS, {})
    rows = optuna.load_study(study_name="study", storage=storage).trials
    macs = SPACE.cost_table([small])["macs"][0]
    assert [row.state.name for row in rows] == ["COMPLETE", "FAIL"]
    assert rows[0].values == [0.25, macs]
    assert list(rows[0].params) == [axis.name for axis in SPACE.axes]
    assert rows[0].constraints == {"macs": pytest.approx((macs - 200_000) / 200_000)}
    assert rows[0].user_attrs["constraints"] == rows[0].constraints  # Optuna's dashboard reads only these
    assert rows[0].user_attrs["key"] == small.key
    assert rows[1].user_attrs["outcome"]["reason"] == "diverged"


def test_a_kill_between_constraint_and_telling_is_mended(storage):
    mine = ledger(storage)
    parked = mine.park(mine.add(trial(0, SPACE.full)), Scored(error=0.5))
    row = optuna.trial.Trial(optuna.load_study(study_name="study", storage=storage), 1)
    row.set_constraint("macs", 7.0)  # what the killed process had written; a second call would warn
    told = ledger(storage).tell(parked, LIMITS, {})
    assert told.told
    assert not told.within(LIMITS), "whether a budget is met is read from costs, not from stored constraints"


def test_numbers_follow_one_another(storage):
    with pytest.raises(ValueError, match="can't follow"):
        ledger(storage).add(trial(1, SPACE.full))


def test_rows_that_something_else_wrote_are_refused(storage):
    study = optuna.load_study(study_name="study", storage=storage)
    study.ask()
    with pytest.raises(ValueError, match="something else wrote there"):
        ledger(storage)


def test_a_storage_without_the_study_is_refused(storage):
    with pytest.raises(ValueError, match="holds no study called 'other'"):
        Ledger(storage, "other", SPACE.axes, OBJECTIVES)


def test_notes_and_later_latencies_come_back(storage):
    mine = ledger(storage)
    told = mine.tell(mine.park(mine.add(trial(0, SPACE.full)), Scored(error=0.5)), LIMITS, {})
    mine.note("budget", {"macs": 0.25})
    mine.note_latency(told, 1.5)
    assert mine.trials[0].measures["latency_ms"] == 1.5
    assert ledger(storage).trials == mine.trials
    assert ledger(storage).notes["budget"] == {"macs": 0.25}


def test_sqlite_keeps_a_write_ahead_log_and_waits(storage, tmp_path):
    with storage.engine.connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert pragma == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 60000}


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "study.db").write_text("SQLite it is not, but it is long enough to look at" * 20)
    with pytest.raises(ValueError, match="damaged"):
        check_sqlite(tmp_path / "study.db")


def test_parameters_are_the_choices_themselves(storage):
    mine, small = ledger(storage), SPACE.uniform(width=0.5, resolution=0.7)
    mine.add(trial(0, small))
    row = storage.get_all_trials(mine.study_id)[0]
    assert row.params == {axis.name: axis.shown(value) for axis, value in zip(SPACE.axes, small, strict=True)}
    assert row.params["resolution"] in {side for side, *_ in SPACE.resolutions}, "a side, and no place in a list"
    assert row.distributions["width:stem"] == optuna.distributions.IntDistribution(2, 8, step=2)
    assert row.user_attrs["macs"] == SPACE.costs([small]).macs[0] and row.user_attrs["source"] == "sampler"
    assert optuna.load_study(study_name="study", storage=storage).metric_names == list(OBJECTIVES)


def test_studies_of_before_keep_positions(storage):
    """Their rows have the proposal and the costs in tables, and go on with positions: Optuna takes no other kind."""
    study_id = storage.get_study_id_from_name("study")
    storage.set_study_user_attr(study_id, "parameters_are_choices", False)
    made = trial(0, SPACE.uniform(width=0.5))
    names = ("source", "ranking", "weights", "fidelity")
    proposal = {"asked": list(made.asked), **{name: getattr(made, name) for name in names}}
    storage.create_new_trial(
        study_id,
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=positions(SPACE.axes, made.candidate),
            distributions=ledger(storage)._distributions,
            user_attrs={"key": made.candidate.key, "proposal": proposal, "costs": made.costs},
        ),
    )
    mine = ledger(storage)
    assert [(one.candidate, one.costs, one.asked) for one in mine.trials] == [(made.candidate, made.costs, made.asked)]
    added = mine.add(trial(1, SPACE.smallest))
    assert storage.get_all_trials(study_id)[1].params == positions(SPACE.axes, SPACE.smallest)
    assert ledger(storage).trials[1].candidate == added.candidate == SPACE.smallest


def test_rows_read_at_once_are_those_that_optuna_reads(storage):
    """With all that Optuna may keep of a trial: states, infinities, kinds of parameters, odd names, other studies."""
    mine, small = ledger(storage), SPACE.uniform(width=0.5)
    mine.tell(mine.park(mine.add(trial(0, small)), Scored(error=0.25, attributes={"rung": 0.5})), LIMITS, {"more": 1})
    mine.tell(mine.park(mine.add(trial(1, SPACE.full)), Failed(reason='"diverged" at ×2')), LIMITS, {})
    mine.add(trial(2, SPACE.smallest))
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "other")
    other = optuna.load_study(study_name="other", storage=storage)
    for values in (0.5, float("inf"), None):
        asked = other.ask()
        asked.suggest_categorical("kind", ["a", None, 2.5])
        asked.suggest_float("wide", 1e-3, 1.0, log=True)
        asked.set_user_attr("odd \"name'", [float("nan").hex(), {"ä": [1, None, True]}])
        asked.set_user_attr("infinite", float("-inf"))
        for step, value in enumerate((0.1, float("inf"), float("-inf"))):
            asked.report(value, step)
        if values is not None:
            other.tell(asked, values)
    for study_id in (mine.study_id, other._study_id):
        assert all_rows(storage, study_id) == storage.get_all_trials(study_id) != []
    assert [row.state.name for row in all_rows(storage, mine.study_id)] == ["COMPLETE", "FAIL", "RUNNING"]


def test_tables_of_another_form_are_left_to_optuna(storage, monkeypatch):
    mine = ledger(storage)
    mine.add(trial(0, SPACE.full))
    monkeypatch.setattr("secateur.studies.trials.rows._rows", None)
    with pytest.raises(TypeError):
        ledger(storage)
    monkeypatch.setattr("secateur.studies.trials.rows._FORM", "of another day")
    assert ledger(storage).trials == mine.trials
