"""Detectors as they come: heads that keep anchors by shape, read strides off a tensor, and pick the best boxes."""

import os
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from detectors import detector
from networks import image
from zoo import import_torchvision

from secateur import Space, build, verify


@pytest.mark.parametrize(("best", "ran"), [(20, (2, 3, 64, 64)), (0, (5, 3, 32, 32))])
def test_a_detector_is_traced_as_it_comes(best, ran):
    model = detector(best, ran)
    space = Space.trace(model, image(1, 3, 64, 64).double(), resolutions=(64, 48), divisor=4)
    assert [len(stage.blocks) for stage in space.stages] == [2, 1, 1]
    assert space.resolutions == ((48, 48), (64, 64)) and not space.unpriced and not space.uncounted
    for side in (64, 48):
        x = image(2, 3, side, side).double()
        for candidate in (space.uniform(0.5), space.smallest):
            assert verify(model, space, candidate, x) < 1e-12
        boxes, raw = build(model, space, space.uniform(0.5, depth=0.5))(x)
        assert boxes.shape == model(x)[0].shape and set(raw) == {"boxes", "maps"}
    assert space.cost_table([space.uniform(0.5)])["macs"][0] < 0.5 * space.full_costs["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n", "yolov10n", "yolo11n-seg", "yolo26n-pose"])
def test_ultralytics_own_networks(name, monkeypatch, tmp_path):
    for key, value in {"YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false", "YOLO_CONFIG_DIR": str(tmp_path)}.items():
        monkeypatch.setitem(os.environ, key, value)
    if find_spec("ultralytics") is None:
        pytest.skip("Ultralytics is not installed")
    import_torchvision()
    tasks = import_module("ultralytics.nn.tasks")
    kind = {"seg": tasks.SegmentationModel, "pose": tasks.PoseModel}.get(
        name[name.find("-") + 1 :], tasks.DetectionModel
    )
    model = kind(f"{name}.yaml", ch=3, verbose=False).eval()
    model(image(2, 3, 128, 128))
    space = Space.trace(model, image(1, 3, 160, 160), resolutions=(160, 128))
    assert space.stages and len(space.resolutions) == 2
    model = model.double()
    for side in (160, 128):
        assert verify(model, space, space.uniform(0.5, depth=0.5), torch.rand(2, 3, side, side).double()) < 1e-12
