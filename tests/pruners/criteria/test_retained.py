"""Rank correlation of rankings with errors, by hand and in a study."""

import math

import pytest
import torch
from landscapes import Instant, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Search, Study
from secateur.pruners import retained
from secateur.pruners.criteria.retained import proxy_table
from secateur.studies.views.text import status_text

SPACE = tiny_space(tiny_net())


def tabled(candidates, errors, scores):
    costs = {name: SPACE.cost_table(candidates)[name].tolist() for name in ("macs", "params")}
    return proxy_table(SPACE, {"mine": scores}, candidates, errors, costs)


def test_a_proxy_that_orders_the_trials_as_their_errors_do_has_correlation_one():
    candidates = SPACE.sample(12, seed=1)
    scores = {group.name: torch.arange(1.0, group.units + 1) for group in SPACE.groups}
    kept = retained(SPACE, scores, candidates)
    assert len(set(kept)) > 8
    table = tabled(candidates, 1 - kept, scores)
    assert table.proxy[0] == "mine" and table.correlation[0] == pytest.approx(1) and table.trials.tolist() == [12] * 3
    table = tabled(candidates, kept, scores)
    assert dict(zip(table.proxy, table.correlation, strict=True))["mine"] == pytest.approx(-1)


def test_too_few_trials_and_negative_scores_give_no_number():
    candidates = SPACE.sample(3)
    scores = {group.name: -torch.ones(group.units) for group in SPACE.groups}
    table = tabled(candidates, [0.1 * i for i in range(len(candidates))], scores)
    assert table.proxy.tolist() == ["macs", "params"] and all(map(math.isnan, table.correlation))


def test_a_study_reports_the_proxies_of_its_seeds(tmp_path):
    model = tiny_net()
    study = Study.create(
        tmp_path / "a",
        model=model,
        task=tiny_task(),
        space=tiny_space(model),
        budget=Budget(macs=0.6),
        training=tiny_training(),
        search=Search(sampler="random", seeds=("full", "ranp-f", "uniform"), evaluator=Instant(tiny_space(model))),
    )
    study.run(12)
    table = study.proxies(["snip"])
    assert {"macs", "params", "snip"} < set(table.proxy) and table.proxy.str.startswith("ranp-f:").any()
    assert (table.correlation > 0.3).all() and (table.trials == 12).all()  # the landscape: every axis helps
    status = study.status()
    assert [row["proxy"] for row in status.proxies] == [name for name in table.proxy if name != "snip"]
    assert "ranp-f 0." in status_text(status) and "rank correlation" in status_text(status)
