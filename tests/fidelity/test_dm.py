"""Distribution matching against the numbers and the text of its paper and code (arXiv:2110.04181)."""

from __future__ import annotations

import plain_matching
import pytest
import torch
from conftest import blobs

from ddbench import registry
from ddbench.augment.dsa import DSA
from ddbench.matching.features import RandomNetworks, class_mean_distance, embedding_features
from ddbench.task import RunTask


def of_one_class(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_the_loss_of_the_spec_is_three() -> None:
    real, synthetic = of_one_class([[1, 2, 3], [3, 2, 1]]), of_one_class([[1, 1, 1]])
    assert float(class_mean_distance(real, synthetic)) == pytest.approx(3.0, abs=1e-6)


def test_the_loss_depends_on_class_means_only() -> None:
    rng = torch.Generator().manual_seed(0)
    real, synthetic = torch.rand(2, 6, 5, generator=rng), torch.rand(2, 4, 5, generator=rng)
    loss = class_mean_distance(real, synthetic)
    assert float(class_mean_distance(real, real[:, torch.randperm(6, generator=rng)])) == pytest.approx(
        0, abs=1e-12
    )
    assert torch.allclose(class_mean_distance(real, torch.cat([synthetic, synthetic], 1)), loss)
    assert torch.allclose(class_mean_distance(real, synthetic.flip(1)), loss)
    spread = torch.randn(2, 1, 5, generator=rng)
    moved = torch.cat([synthetic[:, :2] + spread, synthetic[:, 2:] - spread], 1)
    assert torch.allclose(class_mean_distance(real, moved), loss, atol=1e-5)
    assert torch.allclose(class_mean_distance(3 * real, 3 * synthetic), 9 * loss)


def test_classes_and_coordinates_are_summed_not_averaged() -> None:
    real, synthetic = torch.zeros(4, 3, 7), torch.ones(4, 2, 7)
    assert float(class_mean_distance(real, synthetic)) == 28.0


def test_the_siamese_draw_does_not_depend_on_the_batch() -> None:
    dsa = DSA.classic()
    x = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for seed in range(60):
        few, many = (
            dsa.apply(x[:n], dsa.draw(n, (3, 32, 32), torch.Generator().manual_seed(seed), shared=True))
            for n in (3, 40)
        )
        assert torch.allclose(few, many[:3], atol=1e-5), seed


def test_the_embedding_is_what_the_last_pooling_gives() -> None:
    net = RandomNetworks("ConvNet", (3, 32, 32), 10).draw(torch.Generator().manual_seed(0))
    (embedding,) = embedding_features(net, torch.zeros(2, 3, 32, 32))
    assert embedding.shape == (2, 2048)


def test_the_mirrored_view_of_fyi_gives_the_loss_and_gradient_of_its_spec() -> None:
    x = torch.tensor([[[[[0.2, 0.8]]]]], requires_grad=True)  # one class, one 1x1x2 image [a, b]
    r = torch.tensor([0.1, 0.4])
    both = torch.cat([x, x.flip(-1)], 1).flatten(2)
    loss = class_mean_distance(r.view(1, 1, 2), both)
    loss.backward()
    assert loss.item() == pytest.approx((0.5 - 0.1) ** 2 + (0.5 - 0.4) ** 2)
    assert float(x.grad[..., 0]) == pytest.approx(float(x.grad[..., 1]))


@pytest.mark.parametrize("network", ["ConvNetD1W4", "ConvNetD1W4BN"])
def test_two_steps_equal_the_algorithm_written_out_class_by_class(network: str) -> None:
    """Fresh network every step, sum over classes, SGD with momentum 0.5; batch norm sees all classes at once."""
    train = blobs("three", (1, 8, 8), 3, (12, 2)).train
    task, twin = RunTask(train, 2, 5), RunTask(train, 2, 5)
    made = registry.get("methods", "dm")(network=network, iterations=2, batch_real=4, image_lr=3.0)
    got = made.distill(task).tensors["images"]

    pools = [train.of_class(c) for c in range(3)]

    def pick(name: str, count: int) -> list[torch.Tensor]:
        return [p[torch.randperm(len(p), generator=twin.rng(name))[:count]] for p in pools]

    def inputs(indices: torch.Tensor) -> torch.Tensor:
        return (train.images[indices].float() / 255 - train.mean[0]) / train.std[0]

    images = torch.stack([inputs(i) for i in pick("init", 2)])
    velocity = torch.zeros_like(images)
    net = RandomNetworks(network, train.shape, 3)
    dsa = DSA.classic(flip=True)
    for _ in range(2):
        psi = net.draw(twin.rng("network"))
        leaf = images.clone().requires_grad_()
        batches = [inputs(i) for i in pick("batches", 4)]
        draws = [dsa.draw(1, train.shape, twin.rng("augment"), shared=True) for _ in range(3)]
        real = [dsa.apply(batches[c], draws[c]) for c in range(3)]
        synthetic = [dsa.apply(leaf[c], draws[c]) for c in range(3)]
        if "BN" in network:
            r = psi.embed(torch.cat(real)).view(3, 4, -1).mean(1)
            s = psi.embed(torch.cat(synthetic)).view(3, 2, -1).mean(1)
        else:
            r = torch.stack([psi.embed(b).mean(0) for b in real])
            s = torch.stack([psi.embed(b).mean(0) for b in synthetic])
        ((r.detach() - s) ** 2).sum().backward()
        velocity = 0.5 * velocity + leaf.grad
        images = images - 3.0 * velocity
    assert torch.allclose(got, images.flatten(0, 1), atol=1e-4)
    assert not torch.allclose(got, torch.zeros_like(got), atol=0.1)


@pytest.mark.parametrize("network", ["ConvNetD1W4", "ConvNetD1W4BN"])
def test_losses_of_three_steps_are_those_of_the_plain_loop(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = blobs("three", (1, 8, 8), 3, (12, 2)).train
    task = RunTask(train, 2, 5)
    losses: list[torch.Tensor] = []
    monkeypatch.setattr(task, "log", lambda loss: losses.append(loss))
    registry.get("methods", "dm")(network=network, iterations=3, batch_real=4).distill(task)
    twin = plain_matching.dm(train, 2, 5, network, 4)
    assert [float(x) for x in losses] == pytest.approx([next(twin) for _ in range(3)], rel=1e-4)


def test_every_step_has_a_network_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = RandomNetworks.draw

    def seen(self: RandomNetworks, generator: torch.Generator) -> torch.nn.Module:
        net = draw(self, generator)
        drawn.append(next(net.parameters()).clone())
        return net

    monkeypatch.setattr(RandomNetworks, "draw", seen)
    train = blobs("three", (1, 8, 8), 3, (12, 2)).train
    registry.get("methods", "dm")(network="ConvNetD1W4", iterations=3, batch_real=4).distill(
        RunTask(train, 1, 5)
    )
    assert len(drawn) == 3 and len({float(w.sum()) for w in drawn}) == 3


def test_the_gradient_of_an_image_shrinks_with_ipc() -> None:
    """2 / ipc times the difference of means, which is why image_lr grows at 100 images a class."""
    real = torch.zeros(1, 3, 4)
    for ipc in (1, 10, 100):
        synthetic = torch.ones(1, ipc, 4, requires_grad=True)
        class_mean_distance(real, synthetic).backward()
        assert torch.allclose(synthetic.grad, torch.full((1, ipc, 4), 2 / ipc))


def test_the_defaults_and_recipes_are_the_authors() -> None:
    fields = {f.name: f.default for f in registry.facts("methods", "dm").fields}
    assert fields["iterations"].replace("_", "") == "20000"
    assert (fields["batch_real"], fields["momentum"]) == ("256", "0.5")
    rows = registry.recipes("dm")
    for dataset in ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "tiny_imagenet"):
        for ipc in (1, 10, 50):
            assert rows["authors", dataset, ipc]["image_lr"] == 1.0
    for ipc in (100, 200, 500, 1000, 1250):
        assert rows["authors", "cifar10", ipc]["image_lr"] == 10.0
    assert rows["authors", "cifar100", 125]["image_lr"] == 1.0
    assert rows["authors", "tiny_imagenet", 1]["network"] == "ConvNetD4"
    assert all(row["source"] for row in rows.values())
