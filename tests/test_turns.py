"""One optimiser that steps once a class: a round with all gradients at once equals the loop of single steps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddbench.matching.turns import Turns

Make = Callable[[Tensor], torch.optim.Optimizer]
MAKERS: dict[str, Make] = {
    "sgd": lambda x: torch.optim.SGD([x], lr=0.1),
    "momentum": lambda x: torch.optim.SGD([x], lr=0.1, momentum=0.5),
    "decay": lambda x: torch.optim.SGD([x], lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda x: torch.optim.SGD([x], lr=0.1, momentum=0.9, nesterov=True),
    "fused sgd": lambda x: torch.optim.SGD([x], lr=0.1, momentum=0.5, fused=True),
    "adam": lambda x: torch.optim.Adam([x], lr=0.1),
    "adamw": lambda x: torch.optim.AdamW([x], lr=0.1, weight_decay=0.05),
    "amsgrad": lambda x: torch.optim.AdamW([x], lr=0.1, amsgrad=True),
    "fused adamw": lambda x: torch.optim.AdamW([x], lr=0.1, weight_decay=0.05, fused=True),
}


def slope(row: Tensor, c: int) -> Tensor:
    """Gradient of class c's loss where its row stands: another function for every class."""
    return torch.sin((c + 1) * row) + 0.3 * row * row.mean()


def all_slopes(seen: Tensor) -> Tensor:
    return torch.stack([slope(row, c) for c, row in enumerate(seen)])


def one_by_one(images: Tensor, optimiser: torch.optim.Optimizer) -> None:
    for c in range(len(images)):
        gradient = torch.zeros_like(images)
        gradient[c] = slope(images[c], c)
        images.grad = gradient
        optimiser.step()


@pytest.mark.parametrize("name", MAKERS)
def test_rounds_equal_single_steps(name: str) -> None:
    start = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1))
    ours, plain = start.clone(), start.clone()
    our_optimiser, plain_optimiser = MAKERS[name](ours), MAKERS[name](plain)
    turns = Turns(our_optimiser, ours)
    for _ in range(4):
        turns.round(all_slopes)
        one_by_one(plain, plain_optimiser)
        assert torch.allclose(ours, plain, atol=1e-6), name
    for key, value in plain_optimiser.state[plain].items():
        assert torch.allclose(
            torch.as_tensor(our_optimiser.state[ours][key]), torch.as_tensor(value), atol=1e-6
        )


def test_shared_momentum_moves_the_pixels_of_other_classes() -> None:
    images = torch.zeros(3)
    Turns(torch.optim.SGD([images], lr=0.1, momentum=0.5), images).round(torch.ones_like)
    assert images.tolist() == pytest.approx([-0.175, -0.15, -0.1], abs=1e-6)


def test_shared_adamw_state_moves_and_decays_the_pixels_of_other_classes() -> None:
    images = torch.zeros(2)
    Turns(torch.optim.AdamW([images], lr=1e-3, weight_decay=5e-4), images).round(torch.ones_like)
    assert images.tolist() == pytest.approx([-0.001670, -0.000744], abs=1e-6)


def test_a_class_comes_to_rest_at_twice_the_step_of_its_gradient() -> None:
    images = torch.zeros(12)
    turns = Turns(torch.optim.SGD([images], lr=0.1, momentum=0.5), images)
    seen: list[Tensor] = []

    def gradients(at: Tensor) -> Tensor:
        seen.append(at.clone())
        return torch.ones_like(at)

    turns.round(gradients)
    turns.round(gradients)
    # at its next turn, a whole round later, almost none of its momentum is left
    assert torch.allclose(seen[1] - seen[0], torch.full((12,), -0.2), atol=1e-4)


def test_gradients_are_asked_for_once_a_round_with_autograd_on() -> None:
    images, calls = torch.zeros(3, 2), []

    def gradients(seen: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return torch.ones_like(seen)

    Turns(torch.optim.SGD([images], lr=0.1), images).round(gradients)
    assert calls == [True]


def test_a_round_goes_on_from_a_restored_optimiser() -> None:
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    first, second = start.clone(), start.clone()
    one = MAKERS["adamw"](first)
    turns = Turns(one, first)
    turns.round(all_slopes)
    second.copy_(first)
    two = MAKERS["adamw"](second)
    again = Turns(two, second)
    two.load_state_dict(copy.deepcopy(one.state_dict()))  # else both would share its tensors
    turns.round(all_slopes)
    again.round(all_slopes)
    assert torch.equal(first, second)


def test_an_optimiser_of_other_tensors_is_refused() -> None:
    images, other = torch.zeros(2), torch.zeros(2)
    with pytest.raises(
        ValueError, match="the optimiser has 2 parameters; expected the images of all classes as its"
    ):
        Turns(torch.optim.SGD([images, other], lr=0.1), images)
    with pytest.raises(ValueError, match="has 1 parameters that are not the images; expected"):
        Turns(torch.optim.SGD([other], lr=0.1), images)
