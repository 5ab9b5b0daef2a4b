"""Whatever dies, hangs or goes away, the table of trials is that of an undisturbed run."""

import chaos
import pandas as pd
import pytest
from killing import table

from secateur import Serial

TRIALS, TIMEOUT_S = 200, 2.0

RUNNERS = {
    "serial": ["--runner", "serial"],
    "processes": ["--runner", "processes", "--workers", 2],
    "ray": ["--runner", "ray", "--workers", 2],
    "tune": ["--runner", "tune", "--workers", 2],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    study = chaos.study_in(tmp_path_factory.mktemp("undisturbed") / "study")
    study.run(TRIALS, runner=Serial(timeout_s=TIMEOUT_S))
    return study


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNNERS)
def test_two_hundred_trials_whatever_strikes(tmp_path, undisturbed, kind):
    if kind in ("ray", "tune"):
        pytest.importorskip("ray")
    folder = tmp_path / "study"
    chaos.study_in(folder)
    struck = chaos.disturb(
        folder,
        [*RUNNERS[kind], "--timeout", TIMEOUT_S],
        trials=TRIALS,
        say=print,
    )
    assert struck["drivers"] == 5 and struck["locks"] == 2
    assert (struck["workers"] > 3) == (kind != "serial")
    study = chaos.study_in(folder)
    found = study.trials()
    assert list(found.trial) == list(range(TRIALS)) and set(found.state) == {"complete", "failed"}
    assert found.key.nunique() == TRIALS
    assert set(found.reason.dropna()) == {"ValueError: a bad network", "timed out: not finished within 2 s"}
    pd.testing.assert_frame_equal(table(study), table(undisturbed))
    assert chaos.gone_within(folder, 30), chaos.left(folder)
    assert not [path for path in folder.rglob("*") if "partial" in path.name]
    assert not (folder / "slots.json").exists()
