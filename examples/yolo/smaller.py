"""An Ultralytics network made smaller, trained by its own trainer, and written as ONNX by Ultralytics and by us."""

import torch
from ultralytics import YOLO

import secateur as sc
from secateur.pruners import METHODS, Request


def within(full, side, macs):
    """The space of a network, and the candidate that a method proposes at a share of the multiply-adds, with scores."""
    space = sc.Space.trace(full, torch.rand(1, 3, side, side))
    limits = {"macs": macs * space.full_costs["macs"]}
    proposal = METHODS["l2"]().propose(Request(full, space, limits))
    return space, proposal.candidate, proposal.scores


def trained(yolo, network, **settings):
    """The checkpoint of a network trained by the trainer of the YOLO's task."""
    trainer = yolo.task_map[yolo.task]["trainer"](overrides={"model": yolo.overrides["model"], **settings})
    trainer.model = network  # a trainer that has a module makes none from the YAML file
    trainer.train()
    return trainer.best


def written(folder, checkpoint, full, space, candidate, scores, nms=False):
    """Its ONNX files: theirs, and ours in a folder that `sc.load` reads. `nms=None`: all boxes, for an NMS of yours."""
    theirs = YOLO(checkpoint).export(format="onnx", imgsz=space.traced_side[0], nms=nms, simplify=False)
    network = YOLO(checkpoint).model
    for one in (full, network):
        one.end2end = nms is False
        one.model[-1].export = True  # answers are the boxes alone, without what the loss reads
    sc.save(folder, network, model=full, space=space, candidate=candidate, scores=scores, formats=["onnx"])
    return {"theirs": theirs, "ours": folder / "model.onnx"}
