"""A study's measured latencies: kept on disk, gone on with after a kill, and never mixed with another device's."""

import json

import landscapes
import numpy as np
import pytest
import torch
from torch import nn

from secateur import Space
from secateur.evaluators import Latency, Timing
from secateur.evaluators.latency.latency_model import calibration
from secateur.spaces import build
from secateur.studies.disk.files import FormatError
from secateur.studies.outcomes.latency import Latencies

MODEL = landscapes.tiny_net()
SPACE = landscapes.tiny_space(MODEL)
CPU = torch.device("cpu")


class Device:
    """A device that takes a millisecond a thousand parameters and one for the call; it may be switched off."""

    def __init__(self, groups: int = 1000):
        self.left, self.sizes = groups, []

    def __call__(self, calls, options):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.sizes.append(len(calls))
        assert all(inputs[0].shape[0] == options.batch for _, inputs in calls)
        return [Timing(1 + sum(p.numel() for p in network.parameters()) / 1000, 0.1) for network, _ in calls]


def latencies(folder, device=None, **options):
    measure = Device() if device is None else device
    return Latencies(folder, model=MODEL, space=SPACE, device=CPU, options=Latency(**options), measure=measure)


def test_a_study_calibrates_once(tmp_path):
    device, told = Device(), []
    found = latencies(tmp_path, device)
    found.calibrate(20, progress=lambda done, total: told.append((done, total)))
    assert device.sizes == [8, 8, 4] and told == [(8, 20), (16, 20), (20, 20)]
    assert [row.candidate for row in found.rows] == calibration(SPACE, 20)
    off = Device(groups=0)
    again = latencies(tmp_path, off)
    again.calibrate(20)
    assert again.rows == found.rows and off.sizes == []


def test_a_killed_calibration_goes_on_where_it_stood(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        latencies(tmp_path, Device(groups=2)).calibrate(20)
    device = Device()
    resumed = latencies(tmp_path, device)
    assert len(resumed.rows) == 16
    resumed.calibrate(20)
    whole = latencies(tmp_path / "other")
    (tmp_path / "other").mkdir()
    whole.calibrate(20)
    assert device.sizes == [4] and resumed.rows == whole.rows
    assert [path.name for path in tmp_path.glob("*.json")] == [resumed.path.name]  # nothing half-written beside it


def test_the_model_learns_from_rows_and_trials(tmp_path):
    found = latencies(tmp_path)
    found.calibrate(24)
    unseen = [one for one in SPACE.sample(40, seed=9) if one not in calibration(SPACE, 24)]
    encoded, exact = SPACE.encode(unseen), [timing.ms for timing in found.measure(unseen)]
    model = found.model()
    # Parameters are weights, which are a term, and biases and norms, which are not.
    assert np.median(np.abs(model.predict(encoded) / exact - 1)) < 0.03
    more = found.model(told=zip(unseen, exact, strict=True))
    assert more.rows == model.rows + len(unseen) == 24 + len(unseen)
    assert np.array_equal(found.model().coefficients, model.coefficients)


def test_other_conditions_begin_anew_and_the_old_ones_stay(tmp_path):
    first = latencies(tmp_path)
    first.calibrate(4)
    for options in ({"threads": 7}, {"batch": 2}, {"dtype": "float64"}, {"channels_last": True}):
        other = latencies(tmp_path, **options)
        assert other.rows == [] and other.path != first.path
        other.calibrate(2)
    elsewhere = Space.trace(MODEL, torch.zeros(1, 1, 12, 12), divisor=4)
    assert Latencies(tmp_path, model=MODEL, space=elsewhere, device=CPU).rows == []
    assert latencies(tmp_path).rows == first.rows
    assert latencies(tmp_path, repeats=7).rows == first.rows  # more calls, the same thing
    assert first.conditions["device"] and first.conditions["dtype"] == "float32"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found["conditions"].update(device="another"),
        lambda found: found["rows"][0].update(latency_ms=0.0),
        lambda found: found["rows"][0].update(latency_ms=None),
        lambda found: found["rows"][0].update(candidate=[1, 2]),
        lambda found: found["rows"][0].pop("spread"),
        lambda found: found.pop("rows"),
    ],
)
def test_an_edited_file_is_refused(tmp_path, spoil):
    found = latencies(tmp_path)
    found.calibrate(2)
    kept = json.loads(found.path.read_text())
    spoil(kept)
    found.path.write_text(json.dumps(kept))
    with pytest.raises(FormatError, match=f"{found.path.name} was edited; remove it"):
        latencies(tmp_path)


def test_a_truncated_file_and_another_format_are_refused(tmp_path):
    found = latencies(tmp_path)
    found.calibrate(2)
    whole = found.path.read_text()
    found.path.write_text(whole[:-20])
    with pytest.raises(FormatError, match="not valid JSON"):
        latencies(tmp_path)
    found.path.write_text(whole.replace("secateur-latencies", "else"))
    with pytest.raises(FormatError, match="not of this secateur's latencies"):
        latencies(tmp_path)


def test_a_limit_that_nothing_meets_is_said_with_the_range(tmp_path):
    found = latencies(tmp_path)
    for ask in (found.reachable, found.model):
        with pytest.raises(ValueError, match="calibrate"):
            ask()
    found.calibrate(10)
    least, most = found.reachable()
    assert most == max(row.latency_ms for row in found.rows) > least
    found.check_limit(least)
    found.check_limit(0.95 * least)
    with pytest.raises(
        ValueError, match=rf"latency_ms=0.5 is below every one of 10 .* {least:.3g} to {most:.3g} ms on"
    ):
        found.check_limit(0.5)


def test_real_networks_on_this_machine(tmp_path):
    found = Latencies(tmp_path, model=MODEL, space=SPACE, device=CPU, options=Latency(threads=1, repeats=6))
    found.calibrate(4)
    assert len(found.rows) == 4 and all(row.latency_ms > 0 <= row.spread for row in found.rows)
    assert MODEL.training
    timing = found.measure([SPACE.smallest], [build(MODEL, SPACE, SPACE.smallest)])[0]
    assert timing.ms < 100 * found.rows[1].latency_ms


def test_a_call_takes_inputs_by_name_in_the_networks_dtype():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 6)
            self.last = nn.Linear(6, 2)

        def forward(self, *, image, scale):
            return self.last(torch.relu(self.layer(image))) * scale

    model = Named()
    space = Space.trace(model, {"image": torch.zeros(1, 4), "scale": torch.ones(1, 1)}, divisor=1)
    network, inputs = space.call(model.double(), space.full, batch=3)
    assert [tuple(tensor.shape) for tensor in inputs] == [(3, 4), (3, 1)]
    assert network(*inputs).shape == (3, 2) and inputs[0].dtype == torch.float64
