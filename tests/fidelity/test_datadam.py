"""DataDAM against the numbers and the text of its paper and code (arXiv:2310.00093)."""

from __future__ import annotations

import plain_matching
import pytest
import torch
import torch.nn.functional as F
from conftest import blobs

from ddbench import registry
from ddbench.matching.features import (
    RandomNetworks,
    attention_features,
    attention_maps,
    class_mean_distance,
)
from ddbench.task import RunTask

F_MAPS = torch.arange(16.0).reshape(2, 2, 2, 2) - 6
G_MAPS = torch.tensor([[[[1.0, -2], [0, 3]], [[2, 0], [1, -1]]]])


@pytest.mark.parametrize(
    ("p", "of_f", "of_g", "distance"),
    [
        (
            1,
            [[0.696311, 0.522233, 0.348155, 0.348155], [0.356348, 0.445435, 0.534522, 0.623610]],
            [0.547723, 0.365148, 0.182574, 0.730297],
            0.141241,
        ),
        (
            4,
            [[0.887484, 0.423449, 0.173168, 0.055468], [0.148118, 0.280206, 0.491320, 0.811265]],
            [0.199380, 0.187652, 0.011728, 0.961716],
            0.510229,
        ),
    ],
)
def test_the_maps_and_the_distance_of_the_spec(
    p: int, of_f: list[list[float]], of_g: list[float], distance: float
) -> None:
    f, g = attention_maps(F_MAPS, p), attention_maps(G_MAPS, p)
    assert torch.allclose(f, torch.tensor(of_f), atol=1e-6)
    assert torch.allclose(g, torch.tensor([of_g]), atol=1e-6)
    assert float(class_mean_distance(f[None], g[None])) == pytest.approx(distance, abs=1e-6)
    made = registry.get("methods", "datadam")()
    nothing = torch.zeros(1, 1, 3)
    assert float(made.loss((f[None], nothing), (g[None], nothing))) == pytest.approx(100 * distance, abs=1e-4)


@pytest.mark.parametrize(("p", "distance"), [(1, 0.464160), (4, 2.479259)])
def test_two_classes_reversed_against_each_other(p: int, distance: float) -> None:
    maps = attention_maps(F_MAPS, p)
    as_two = class_mean_distance(maps[:, None], maps.flip(0)[:, None])
    assert float(as_two) == pytest.approx(distance, abs=1e-5)
    assert float(class_mean_distance(maps[None], maps.flip(0)[None])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_maps_have_unit_length_and_no_sign_or_scale(p: int) -> None:
    maps = attention_maps(F_MAPS, p)
    assert torch.allclose(maps.norm(dim=1), torch.ones(2)) and bool((maps >= 0).all())
    assert torch.allclose(attention_maps(-3.5 * F_MAPS, p), maps, atol=1e-6)
    assert bool(torch.isfinite(attention_maps(torch.zeros(1, 2, 2, 2), p)).all())


def test_without_normalisation_the_maps_are_plain_sums_of_powers() -> None:
    assert attention_maps(G_MAPS, 1, normalise=False).tolist() == [[3.0, 2.0, 1.0, 4.0]]
    assert attention_maps(G_MAPS, 2, normalise=False).tolist() == [[5.0, 4.0, 1.0, 10.0]]


def test_a_power_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"power of the attention maps is 0\.5; expected at least 1"):
        attention_maps(F_MAPS, 0.5)


def test_all_blocks_but_the_last_give_attention_and_the_last_pooling_the_embedding() -> None:
    net = RandomNetworks("ConvNetBN", (3, 32, 32), 10).draw(torch.Generator().manual_seed(0))
    features = attention_features(net, torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert [tuple(f.shape) for f in features] == [(3, 1024), (3, 256), (3, 2048)]


def test_four_blocks_at_64x64_match_three_maps() -> None:
    net = RandomNetworks("ConvNetD4W4BN", (3, 64, 64), 200).draw(torch.Generator().manual_seed(0))
    features = attention_features(net, torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert [tuple(f.shape) for f in features] == [(3, 4096), (3, 1024), (3, 256), (3, 4 * 4 * 4)]


def test_attention_is_taken_before_pooling_and_the_embedding_after_it() -> None:
    net = RandomNetworks("ConvNetD2W4", (1, 8, 8), 2).draw(torch.Generator().manual_seed(0))
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    first = F.relu(net.blocks[0].norm(net.blocks[0].conv(x)))
    second = F.relu(net.blocks[1].norm(net.blocks[1].conv(F.avg_pool2d(first, 2))))
    attention, embedding = attention_features(net, x)
    assert torch.allclose(attention, attention_maps(first), atol=1e-6)
    assert torch.allclose(embedding, F.avg_pool2d(second, 2).flatten(1), atol=1e-6)


def test_maps_are_normalised_before_they_are_averaged() -> None:
    first, second = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    second[..., 0, 0] = 100.0
    maps = attention_maps(torch.cat([first, second]))
    mean_of_unit = torch.tensor([0.75, 0.25, 0.25, 0.25])
    assert torch.allclose(maps.mean(0), mean_of_unit)
    assert not torch.allclose(attention_maps((first + second) / 2)[0], mean_of_unit / mean_of_unit.norm())


def test_identical_batches_also_permuted_in_their_classes_have_no_loss() -> None:
    made = registry.get("methods", "datadam")()
    net = RandomNetworks("ConvNetD2W4BN", (1, 8, 8), 2).draw(torch.Generator().manual_seed(0))
    x = torch.rand(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def of(images: torch.Tensor) -> list[torch.Tensor]:
        return [f.view(2, 4, -1) for f in attention_features(net, images.flatten(0, 1))]

    assert float(made.loss(of(x), of(x))) == 0.0
    assert float(made.loss(of(x), of(x[:, [2, 0, 3, 1]]))) < 1e-9
    assert float(made.loss(of(x), of(x.flip(0)))) > 1e-3


def test_with_batch_norm_chunks_of_classes_would_change_the_features() -> None:
    net = RandomNetworks("ConvNetD1W4BN", (1, 8, 8), 2).draw(torch.Generator().manual_seed(0))
    x = (
        torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        * torch.arange(8)[:, None, None, None]
    )
    (whole,), (part,) = attention_features(net, x), attention_features(net, x[:4])
    assert not torch.allclose(whole[:4], part, atol=1e-2)


def test_attention_needs_a_convnet_and_says_which() -> None:
    net = RandomNetworks("MLP", (1, 8, 8), 2).draw(torch.Generator())
    with pytest.raises(
        ValueError,
        match=r"this network has no feature maps of blocks; attention matching needs a ConvNet: choose ConvNetBN, "
        r"or ConvNetD4BN for 64x64 images \(see: ddbench list networks\)",
    ):
        attention_features(net, torch.zeros(2, 1, 8, 8))


def test_the_loss_weighs_attention_by_100_and_the_output_by_100_lambda() -> None:
    made = registry.get("methods", "datadam")()
    real = (torch.zeros(1, 2, 3), torch.zeros(1, 2, 5))
    synthetic = (torch.full((1, 1, 3), 0.5), torch.ones(1, 1, 5))
    assert float(made.loss(real, synthetic)) == pytest.approx(100 * 0.75 + 100 * 0.01 * 5)
    assert float(made.loss(real, real)) == 0.0


def test_the_mean_squared_error_of_the_table_divides_by_coordinates_not_by_classes() -> None:
    made = registry.get("methods", "datadam")(error="mean")
    real = (torch.zeros(2, 2, 3), torch.zeros(2, 2, 5))
    synthetic = (torch.full((2, 1, 3), 0.5), torch.ones(2, 1, 5))
    assert float(made.loss(real, synthetic)) == pytest.approx(100 * 2 * 0.25 + 100 * 0.01 * 2 * 1)
    with pytest.raises(ValueError, match="error is 'mse'; expected sum or mean"):
        registry.get("methods", "datadam")(error="mse")


@pytest.mark.parametrize(("network", "p"), [("ConvNetD2W4BN", 1.0), ("ConvNetD2W4", 4.0)])
def test_a_step_equals_the_loss_written_out(network: str, p: float) -> None:
    train = blobs("three", (1, 8, 8), 3, (12, 2)).train
    task, twin = RunTask(train, 2, 5), RunTask(train, 2, 5)
    made = registry.get("methods", "datadam")(
        network=network, iterations=1, batch_real=4, power=p, augment="none"
    )
    got = made.distill(task).tensors["images"]

    pools = [train.of_class(c) for c in range(3)]

    def inputs(name: str, count: int) -> torch.Tensor:
        i = torch.cat([q[torch.randperm(len(q), generator=twin.rng(name))[:count]] for q in pools])
        return (train.images[i].float() / 255 - train.mean[0]) / train.std[0]

    images, real = inputs("init", 2).requires_grad_(), inputs("batches", 4)
    net = RandomNetworks(network, train.shape, 3).draw(twin.rng("network"))

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = F.relu(net.blocks[0].norm(net.blocks[0].conv(x)))
        second = F.relu(net.blocks[1].norm(net.blocks[1].conv(F.avg_pool2d(first, 2))))
        flat = (first**p).sum(1).flatten(1)
        maps = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return maps.view(3, len(x) // 3, -1).mean(1), F.avg_pool2d(second, 2).view(3, len(x) // 3, -1).mean(1)

    with torch.no_grad():
        wanted = forward(real)
    found = forward(images)
    loss = 100 * ((wanted[0] - found[0]) ** 2).sum() + 100 * 0.01 * ((wanted[1] - found[1]) ** 2).sum()
    loss.backward()
    assert torch.allclose(got, (images - images.grad).detach(), atol=1e-4)
    assert float(images.grad.abs().max()) > 1e-3


def test_the_defaults_and_recipes_are_the_released_code_and_the_paper() -> None:
    made = registry.get("methods", "datadam")()
    assert (made.network, made.power, made.batch_real) == ("ConvNetBN", 1.0, 64)
    assert (made.factor, made.task_balance, made.normalise, made.error) == (100.0, 0.01, True, "sum")
    assert (made.iterations, made.image_lr, made.momentum) == (20_000, 1.0, 0.5)
    rows = registry.recipes("datadam")
    for ipc in (1, 10, 50):
        for dataset, depth in (("cifar10", ""), ("cifar100", ""), ("tiny_imagenet", "D4")):
            assert rows["authors", dataset, ipc]["network"] == f"ConvNet{depth}BN"
            paper = rows["paper", dataset, ipc]
            assert (paper["network"], paper["power"], paper["iterations"]) == (f"ConvNet{depth}", 4.0, 8_000)
            assert paper["error"] == "mean"
    for dataset, ipc in (("cifar10", 100), ("cifar100", 100)):
        assert rows["authors", dataset, ipc]["image_lr"] == 10.0
    assert all(row["source"] for row in rows.values())


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_losses_of_three_steps_are_those_of_the_plain_loop(
    power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = blobs("three", (1, 8, 8), 3, (12, 2)).train
    task = RunTask(train, 2, 5)
    losses: list[torch.Tensor] = []
    monkeypatch.setattr(task, "log", lambda loss: losses.append(loss))
    made = registry.get("methods", "datadam")(
        network="ConvNetD2W4BN", iterations=3, batch_real=4, power=power
    )
    made.distill(task)
    twin = plain_matching.datadam(train, 2, 5, "ConvNetD2W4BN", 4, power)
    assert [float(x) for x in losses] == pytest.approx([next(twin) for _ in range(3)], rel=1e-4)
