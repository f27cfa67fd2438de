"""Coreset rules against the test vectors of their spec (DeepCore, arXiv:2204.08499); who labels random real images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import blobs

from ddbench import registry
from ddbench.contract import DistilledSet
from ddbench.matching.selection import class_pools, herding, k_center, random_choice
from ddbench.task import RunTask
from ddbench.train.priors import PriorRun, members_of

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


# ------------------------------------------------------------------------------------------------ who labels them


TRAIN = blobs("four", (3, 8, 8), 4, (20, 2)).train
NAMES = ("ConvNetD1W4BN", "ConvNetD2W4BN", "ConvNetD1W8BN")


def chosen(method: str = "random", seed: int = 0, ipc: int = 3, **settings: Any) -> DistilledSet:
    made = registry.make(method, {"squeeze": "quick", "networks": NAMES, **settings})
    return RunTask(TRAIN, ipc, seed).run_method(made)


def test_labels_change_nothing_of_the_choice() -> None:
    sets = [chosen(labels=labels, prior="equal") for labels in ("hard", "teacher", "committee")]
    assert len({tuple(made.tensors["indices"].tolist()) for made in sets}) == 1
    assert all(made.targets.ids is not None for made in sets) and sets[0].targets.labeller is None


def test_a_committee_labels_real_images_as_it_labels_cvdd_s_of_the_same_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = PriorRun(8, 2, 30)
    monkeypatch.setattr("ddbench.methods.random.PriorRun", lambda: short)
    real = chosen(labels="committee", seed=3)
    distilled = chosen("cvdd", 3, iterations=2, prior_ipc=8, prior_iterations=2, prior_epochs=30, ipc=1)
    ours, theirs = real.targets.labeller, distilled.targets.labeller
    assert ours is not None and theirs is not None
    assert ours.networks == theirs.networks and len({ref.weight for ref in ours.networks}) > 1
    assert ours.space.same_inputs(theirs.space)
    assert real.card.notes["priors"] == distilled.card.notes["priors"]
    assert real.card.notes["teachers"] == distilled.card.notes["teachers"]


def test_a_teacher_labels_real_images_as_it_labels_sre2l_s() -> None:
    real = chosen(labels="teacher")
    made = registry.make("sre2l", {"network": NAMES[0], "squeeze": "quick", "iterations": 1})
    distilled = RunTask(TRAIN, 1, 0).run_method(made)
    ours, theirs = real.targets.labeller, distilled.targets.labeller
    assert ours is not None and theirs is not None and ours.networks == theirs.networks
    assert [ref.weight for ref in ours.networks] == [1.0]
    assert real.card.cost.teacher_s == distilled.card.cost.teacher_s > 0


@pytest.mark.parametrize(("dataset", "network"), [("digits", "ConvNetD2W32BN"), ("mnist", "ConvNetW32BN")])
def test_the_networks_left_open_are_those_of_the_quick_recipes(dataset: str, network: str) -> None:
    side = 8 if dataset == "digits" else 28
    assert members_of("quick", (1, side, side))[0] == network
    rows = registry.recipes("sre2l")
    assert network in [row.get("network") for (_, data, _), row in rows.items() if data == dataset]


def test_settings_of_the_priors_are_those_of_cvdd() -> None:
    """Else the same committee would label real and distilled images with other weights."""
    cvdd = registry.get("methods", "cvdd")
    assert cvdd().prior_run() == PriorRun()
    for (recipe, _, _), row in registry.recipes("cvdd").items():
        assert not [name for name in row if name.startswith("prior_")], recipe
    assert cvdd().held_out == registry.get("methods", "random")().held_out


def test_unknown_labels_are_told() -> None:
    with pytest.raises(ValueError, match="labels is 'soft'; expected one of hard, teacher, committee"):
        chosen(labels="soft")
    with pytest.raises(ValueError, match="prior is 'test'; expected one of held-out, released, equal"):
        chosen(labels="committee", prior="test")
