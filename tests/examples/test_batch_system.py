"""Trials as jobs of a batch system, each trained by Lightning: several at once, and none done twice."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from example_runs import ROOT, quotes

from secateur.studies.views.view import View

FOLDER = ROOT / "examples" / "batch_system"
pytestmark = [
    pytest.mark.skipif(find_spec("pytorch_lightning") is None, reason="pytorch-lightning is not installed"),
    pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed"),
]
# Lightning's metrics import torchvision, which may be built for another PyTorch: the example itself stands beside it.
RUNS = """
import runpy, sys
sys.path[:0] = [{folder!r}, {named!r}]
import by_name
by_name.importable()
runpy.run_path({folder!r} + "/run.py", run_name="__main__")
"""


@pytest.mark.slow
def test_jobs_of_an_array_share_the_trials(tmp_path):
    """The script is run as Slurm would, twice at once."""
    program = tmp_path / "recipe"
    program.mkdir()
    (program / "run.py").write_text(RUNS.format(folder=str(FOLDER), named=str(ROOT / "examples" / "timm_model")))
    env = os.environ | {"OMP_NUM_THREADS": "1", "RECIPE": str(program), "TRIALS": "2", "RUN": "jobs"}
    env |= {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}
    begun = [sys.executable, program / "run.py", "begin", "--out", "jobs", "--tiny"]
    subprocess.run(begun, check=True, capture_output=True, cwd=tmp_path, env=env)
    job = ["bash", FOLDER / "array.sbatch", "--tiny"]
    jobs = [subprocess.Popen(job, stderr=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    for one in jobs:
        said = one.communicate()[1]
        assert one.returncode == 0, said[-3000:]
    trials = View(tmp_path / "jobs").all_trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3] and all(trial.scored for trial in trials)
    assert len({trial.candidate for trial in trials}) == 4, "a network was tried twice"


def test_what_the_page_quotes_stands_in_the_files():
    assert len(quotes("batch_system.md", "batch_system")) == 2
