"""The classic evaluation against a loop written from its description (arXiv:2006.05929, 2102.08259, 2110.04181).

``tests/plain.py`` shares the plan with the engine; here epochs, drop and test are counted as the description counts them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs

from ddbench.augment.dsa import DSA
from ddbench.codecs import items
from ddbench.contract import DistilledSet, RealData, Space, Targets
from ddbench.nets.build import build
from ddbench.protocols.rows import ROWS
from ddbench.protocols.train import RowProtocol
from ddbench.seeding import Generators
from ddbench.train.engine import EngineOptions, test_accuracy, train_students

E = 6
"""The description's number of epochs, here a small one."""


@pytest.fixture(scope="module")
def real() -> RealData:
    """More test images than a batch of 256, the last batch a short one, and not all of them easy."""
    data = blobs("hard", (1, 8, 8), 3, (12, 101), flip=False)
    noise = 90 * torch.randn(data.test.images.shape, generator=torch.Generator().manual_seed(1))
    images = (data.test.images + noise).clamp(0, 255).to(torch.uint8)
    return RealData(data.train, replace(data.test, images=images, fingerprint=""))


def as_described(
    x: torch.Tensor, y: torch.Tensor, network: str, batch: int, rng: Generators
) -> torch.nn.Module:
    net = build(network, (1, 8, 8), 3, rng("weights")).double()
    velocity = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    dsa, lr = DSA.classic(flip=False), 0.01
    for ep in range(E + 1):
        net.train()
        for rows in torch.randperm(len(x), generator=rng("order")).split(batch):
            seen = dsa.apply(x[rows], dsa.draw(len(rows), (1, 8, 8), rng("augment")))
            loss = F.cross_entropy(net(seen), y[rows])
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for (name, p), g in zip(net.named_parameters(), gradients, strict=True):
                    velocity[name] = 0.9 * velocity[name] + g + 5e-4 * p  # all of them, biases and norms too
                    p -= lr * velocity[name]
        if ep == E // 2 + 1:
            lr *= 0.1
            velocity = {name: torch.zeros_like(v) for name, v in velocity.items()}
    return net


@pytest.mark.parametrize("name", ["dc-dsa", "datadam"])
@pytest.mark.parametrize("path", ["plain", "stacked"])
@pytest.mark.parametrize("network", ["ConvNetD2W8", "ConvNetD2W8BN"])
def test_a_student_is_the_one_of_the_description(real: RealData, name: str, path: str, network: str) -> None:
    row = ROWS[name].plan
    high = {"dc-dsa": 502, "datadam": 902}[name]
    assert (row.epochs, row.milestones) == (2 * (high - 2) + 1, (high,))  # E + 1 and E // 2 + 2
    plan = row.changed(epochs=E + 1, milestones=(E // 2 + 2,), batch=10)
    space = real.train.space
    x, y = space.real_to_input(real.train.images).double(), real.train.labels
    set_ = DistilledSet({"images": x}, Targets(ids=y), space)
    options = EngineOptions(precision="float64", path=path)
    protocol = RowProtocol(replace(ROWS[name], plan=plan))
    crew = [Generators(3), Generators(4)]
    found = protocol.evaluate(set_, real, network, crew, options)
    assert found.engine == path
    for score, seed in zip(found.scores, (3, 4), strict=True):
        net = as_described(x, y, network, 10, Generators(seed)).eval()
        with torch.no_grad():
            logits = net(space.real_to_input(real.test.images).double())
        assert score.value == int((logits.argmax(1) == real.test.labels).sum()) / 303
        assert 0.34 < score.value < 1, "neither chance nor everything: the number means something"


def test_students_are_tested_with_running_statistics_on_every_test_image(real: RealData) -> None:
    """With batch norm, eval mode and train mode disagree; the 47 images of the last short batch count too."""
    space = real.train.space
    set_ = DistilledSet(
        {"images": space.real_to_input(real.train.images)}, Targets(ids=real.train.labels), space
    )
    plan = ROWS["dc-dsa"].plan.changed(epochs=3, milestones=(2,))
    trained = train_students(items(set_, real.train), plan, "ConvNetD2W8BN", [Generators(0)])
    net = build("ConvNetD2W8BN", (1, 8, 8), 3)
    net.load_state_dict(dict(trained.states[0]))
    inputs = space.real_to_input(real.test.images)
    right = {}
    for mode in (True, False):
        with torch.no_grad():
            parts = [net.train(mode)(part).argmax(1) for part in inputs.split(256)]
        right[mode] = int((torch.cat(parts) == real.test.labels).sum())
        net.load_state_dict(dict(trained.states[0]))
    assert right[True] != right[False]
    assert test_accuracy(trained, real.test, space) == [right[False] / 303]


def test_real_test_images_go_through_the_space_of_the_set(real: RealData) -> None:
    own = real.train.space
    other = Space("input", (0.0,), (1.0,))
    plan = ROWS["dc-dsa"].plan.changed(epochs=4, milestones=(3,))
    protocol = RowProtocol(replace(ROWS["dc-dsa"], plan=plan))
    values = {}
    for name, space in (("own", own), ("other", other)):
        images = space.real_to_input(real.train.images)
        set_ = DistilledSet({"images": images}, Targets(ids=real.train.labels), space)
        trained = protocol.evaluate(set_, real, "MLP", [Generators(0)]).scores[0].value
        wrong = protocol.evaluate(set_.changed(space=own), real, "MLP", [Generators(0)]).scores[0].value
        values[name] = (trained, wrong)
    assert values["own"][0] == values["own"][1]
    assert values["other"][0] != values["other"][1]
