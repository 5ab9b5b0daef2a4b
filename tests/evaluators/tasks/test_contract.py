"""Our tasks keep the contract that every task must."""

import networks
import pytest
import tasks
import torch
from landscapes import tiny_net, tiny_task
from torch import nn

from secateur.evaluators import Augment, Classification
from secateur.testing import TaskContract


class TestClassification(TaskContract):
    @pytest.fixture(autouse=True, params=[None, (6, 6)])
    def shown(self, request):
        self.resolution = request.param

    def task(self):
        return tasks.classification()

    def model(self):
        return networks.Plain(4, 3)


class TestAugmented(TestClassification):
    def task(self):
        return tasks.classification(augment=Augment(shift=0.2, flip=True), label_smoothing=0.1)


class TestSegmentation(TaskContract):
    @pytest.fixture(autouse=True, params=[None, (4, 4)])
    def shown(self, request):
        self.resolution = request.param

    def task(self):
        return tasks.segmentation(augment=Augment(flip=True))

    def model(self):
        return nn.Conv2d(3, 4, 3, 2, 1)


class TestDecodedOnDemand(TaskContract):
    def task(self):
        pictures = Pictures()
        return Classification(train=pictures, validation=pictures, test=pictures, batch=8, classes=3)

    def model(self):
        return networks.Plain(4, 3)


class Pictures:
    """Decoded when they are asked for."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index)), index % 3


class TestToys(TaskContract):
    def task(self):
        return tiny_task()

    def model(self):
        return tiny_net()
