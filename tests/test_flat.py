"""Networks as functions of one flat vector of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddbench.nets.build import build, init_parameters
from ddbench.nets.flat import Flat
from ddbench.nets.names import Shape

SHAPE: Shape = (3, 8, 8)


@pytest.mark.parametrize(
    "network, shape, classes, count",
    [
        ("ConvNet", (3, 32, 32), 10, 320_010),
        ("ConvNetD3", (3, 32, 32), 100, 504_420),
        ("ConvNetD4", (3, 64, 64), 200, 857_160),
        ("ConvNetD4", (3, 64, 64), 1000, 2_496_360),
        ("ConvNetD5", (3, 128, 128), 10, 615_690),
    ],
)
def test_sizes_are_those_of_mtts_networks(network: str, shape: Shape, classes: int, count: int) -> None:
    assert Flat(network, shape, classes).size == count


def test_the_order_is_block_by_block_weights_before_biases_and_the_classifier_last() -> None:
    flat = Flat("ConvNetD2W4", SHAPE, 5)
    assert list(flat.shapes.values()) == [
        *((4, 3, 3, 3), (4,), (4,), (4,)),
        *((4, 4, 3, 3), (4,), (4,), (4,)),
        *((5, 16), (5,)),
    ]
    net = build("ConvNetD2W4", SHAPE, 5, torch.Generator().manual_seed(0))
    assert torch.equal(flat.vector(net.state_dict()), nn.utils.parameters_to_vector(net.parameters()))


def test_a_vector_and_its_parts_are_inverse_and_parts_are_views() -> None:
    flat = Flat("ConvNetD1W4", SHAPE, 3)
    state = init_parameters("ConvNetD1W4", SHAPE, 3, torch.Generator().manual_seed(0))
    vector = flat.vector(state)
    parts = flat.parts(vector)
    assert list(parts) == list(flat.shapes) and all(torch.equal(parts[k], state[k]) for k in parts)
    vector.zero_()
    assert not any(p.any() for p in parts.values())
    assert all(p.any() for k, p in state.items() if k.endswith("weight")), "vector() is a copy"


def test_stacked_parameters_become_one_row_a_network() -> None:
    flat = Flat("ConvNetD1W4", SHAPE, 3)
    states = [init_parameters("ConvNetD1W4", SHAPE, 3, torch.Generator().manual_seed(i)) for i in range(4)]
    stacked = {name: torch.stack([s[name] for s in states]) for name in states[0]}
    assert torch.equal(flat.vector(stacked), torch.stack([flat.vector(s) for s in states]))


@pytest.mark.parametrize("network", ["ConvNetD2W4", "ConvNetD1W4LN", "ConvNetD1W4GN", "ConvNetD1W4NN", "MLP"])
def test_logits_are_those_of_the_network_and_differentiable_in_both(network: str) -> None:
    rng = torch.Generator().manual_seed(1)
    net, flat = build(network, SHAPE, 3, rng), Flat(network, SHAPE, 3)
    x = torch.randn(2, *SHAPE, generator=rng, requires_grad=True)
    vector = flat.vector(net.state_dict()).requires_grad_()
    logits = flat.logits(vector, x)
    assert torch.allclose(logits, net(x), atol=1e-6)
    for grad in torch.autograd.grad(logits.square().sum(), [vector, x]):
        assert bool(torch.isfinite(grad).all()) and bool(grad.any())


def test_a_vector_in_double_precision_gives_logits_in_double_precision() -> None:
    flat = Flat("ConvNetD1W4", SHAPE, 3)
    state = init_parameters("ConvNetD1W4", SHAPE, 3, torch.Generator().manual_seed(0))
    x = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert flat.logits(flat.vector(state).double(), x).dtype == torch.float64


def test_a_vector_of_another_length_is_refused() -> None:
    flat = Flat("ConvNetD1W4", SHAPE, 3)
    with pytest.raises(ValueError, match=rf"has shape \(7,\); expected \({flat.size},\) for this network"):
        flat.parts(torch.zeros(7))


def test_running_statistics_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"ConvNetBN has running statistics .* expected a network without, such as"
    ):
        Flat("ConvNetBN", (3, 32, 32), 10)


def test_networks_of_other_libraries_are_refused() -> None:
    with pytest.raises(
        ValueError, match="torchvision:resnet18 is another library's network; trajectories need"
    ):
        Flat("torchvision:resnet18", SHAPE, 3)
