"""Coreset rules against the test vectors of their spec (DeepCore, arXiv:2204.08499)."""

from __future__ import annotations

import pytest
import torch
from conftest import blobs

from ddbench.matching.selection import class_pools, herding, k_center, random_choice

P = torch.tensor([(0, 0), (1, 0.2), (0.3, 1), (4, 4.1), (5, 3.8), (9, 0.5), (-2, 3)])


def test_herding_picks_the_nearest_to_the_residual_and_not_the_farthest() -> None:
    assert herding(P, 4).tolist() == [1, 3, 2, 4]


def test_k_center_from_the_first_point() -> None:
    assert k_center(P, 4, first=0).tolist() == [0, 5, 3, 6]


@pytest.mark.parametrize("scale", [0.01, 3.0, 1e4])
def test_scaling_all_features_changes_no_selection(scale: float) -> None:
    x = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    assert herding(scale * x, 20).tolist() == herding(x, 20).tolist()
    assert k_center(scale * x, 20, 3).tolist() == k_center(x, 20, 3).tolist()


def test_greedy_choices_are_nested() -> None:
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(1))
    assert herding(x, 10).tolist() == herding(x, 25).tolist()[:10]
    assert k_center(x, 10, 2).tolist() == k_center(x, 25, 2).tolist()[:10]


def test_all_points_can_be_chosen_even_when_they_coincide() -> None:
    same = torch.ones(6, 3)
    assert herding(same, 6).tolist() == [0, 1, 2, 3, 4, 5]  # ties go to the lowest index
    assert k_center(same, 6, first=2).tolist() == [2, 0, 1, 3, 4, 5]


def test_both_agree_with_the_rule_written_out() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mean, chosen = x.mean(0), []
    for t in range(1, 13):
        residual = t * mean - x[chosen].sum(0)
        chosen.append(
            min((i for i in range(40) if i not in chosen), key=lambda i: float((residual - x[i]).norm()))
        )
    assert herding(x, 12).tolist() == chosen
    centers = [7]
    while len(centers) < 12:
        distance = torch.cdist(x, x[centers]).min(1).values
        centers.append(max((i for i in range(40) if i not in centers), key=lambda i: float(distance[i])))
    assert k_center(x, 12, first=7).tolist() == centers


def test_random_differs_by_seed_and_gives_distinct_members_of_each_class() -> None:
    train = blobs("three", (1, 4, 4), 3, (9, 1)).train
    pools = class_pools(train, 4)
    one, two = (random_choice(pools, 4, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert one.tolist() != two.tolist() and len(set(one.tolist())) == 12
    assert train.labels[one].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_counts_and_starts_outside_the_points_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"features are \(7, 2\) and count is 8; expected \(n, d\) and 1 to n"
    ):
        herding(P, 8)
    with pytest.raises(ValueError, match="count is 0"):
        k_center(P, 0, 0)
    with pytest.raises(ValueError, match="the first center is point 7 of 7; expected 0 to 6"):
        k_center(P, 2, 7)
