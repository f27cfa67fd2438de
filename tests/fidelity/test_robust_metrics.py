"""LRS, ARS and BEARD's ratios against every number of their specification.  Source: arXiv:2505.13300, arXiv:2411.09265."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.protocols.attacks import (
    attack_efficiency,
    robustness_efficiency,
    robustness_ratio,
    robustness_ratio_rome,
)
from ddbench.protocols.robust import ars, lrs, normaliser

FRACTION = st.floats(0, 1)

# ------------------------------------------------------------------------------------------------ LRS and ARS


@pytest.mark.parametrize(
    ("alpha", "want"),
    [
        (-1, 0.0),
        (-0.5, 0.101536),
        (-0.25, 0.174830),
        (-0.1, 0.228454),
        (0, 0.268941),
        (0.1, 0.313687),
        (0.25, 0.389783),
        (1, 1.0),
    ],
)
def test_the_normaliser_gives_the_table(alpha, want):
    assert normaliser(alpha) == pytest.approx(want, abs=5e-7)


@pytest.mark.parametrize(
    ("real_hard", "syn_hard", "syn_any", "rdm_any", "w", "want"),
    [
        (0.848, 0.489, 0.489, 0.310, 0.5, 0.232323),
        (0.848, 0.400, 0.668, 0.450, 0.5, 0.222722),
        (0.565, 0.015, 0.213, 0.283, 0.5, 0.155534),
        (0.80, 0.80, 0.80, 0.80, 0.5, 0.268941),
        (1, 0, 0, 1, 0.5, 0.0),
        (0, 1, 1, 0, 0.5, 1.0),
        (0.848, 0.489, 0.489, 0.310, 0, 0.140612),
        (0.848, 0.489, 0.489, 0.310, 1, 0.352340),
    ],
)
def test_lrs_of_four_accuracies_is_that_of_the_table(real_hard, syn_hard, syn_any, rdm_any, w, want):
    assert lrs(real_hard, syn_hard, syn_any, rdm_any, w) == pytest.approx(want, abs=5e-7)


@pytest.mark.parametrize(
    ("syn_aug", "rdm_aug", "syn_naug", "rdm_naug", "g", "want"),
    [
        (0.489, 0.310, 0.400, 0.280, 0.5, 0.337548),
        (0.213, 0.283, 0.150, 0.200, 0.5, 0.244165),
        (0.5, 0.5, 0.5, 0.5, 0.5, 0.268941),
        (0.60, 0.40, 0.30, 0.40, 0.25, 0.258437),
    ],
)
def test_ars_of_four_accuracies_is_that_of_the_table(syn_aug, rdm_aug, syn_naug, rdm_naug, g, want):
    assert ars(syn_aug, rdm_aug, syn_naug, rdm_naug, g) == pytest.approx(want, abs=5e-7)


def test_the_mean_is_of_scores_and_not_the_score_of_means():
    assert (normaliser(-0.1) + normaliser(-0.2)) / 2 == pytest.approx(0.210136, abs=5e-7)
    assert normaliser(-0.15) == pytest.approx(0.209678, abs=5e-7)


def test_percentages_are_refused_as_the_released_package_should_have():
    # into the exponent they would go as alpha = -9 and 17.9
    assert (math.exp(-9) - math.exp(-1)) / (math.e - math.exp(-1)) == pytest.approx(-0.156, abs=5e-4)
    with pytest.raises(ValueError, match=r"real_hard is 84.8; expected a fraction in \[0, 1\], not percent"):
        lrs(84.8, 48.9, 48.9, 31.0)
    with pytest.raises(ValueError, match=r"g is 2; expected a fraction"):
        ars(0.5, 0.5, 0.5, 0.5, g=2)


@given(FRACTION, FRACTION, FRACTION, FRACTION, FRACTION)
def test_lrs_lies_between_zero_and_one_and_w_chooses_what_counts(real, hard, own, rdm, w):
    assert -1e-12 <= lrs(real, hard, own, rdm, w) <= 1 + 1e-12
    assert lrs(real, hard, own, rdm, 0) == lrs(real, hard, 0.3, 0.7, 0), "w 0 ignores the gain over random"
    assert lrs(real, hard, own, rdm, 1) == lrs(0.2, 0.9, own, rdm, 1), "w 1 ignores the distance from real"


def test_lrs_rises_with_the_set_and_falls_with_what_it_is_held_against():
    steps = [0.1, 0.3, 0.5, 0.9]
    for place, sign in ((0, -1), (1, 1), (2, 1), (3, -1)):
        values = []
        for step in steps:
            four = [0.8, 0.5, 0.5, 0.4]
            four[place] = step
            values.append(lrs(*four))
        assert all(sign * (b - a) > 0 for a, b in pairwise(values))


# ------------------------------------------------------------------------------------------------ BEARD


def test_the_small_cases_of_beard():
    assert robustness_ratio(60, [30, 20, 10]) == pytest.approx(20)
    assert robustness_ratio_rome(60, [30, 20, 10]) == pytest.approx(44.4444, abs=5e-5)
    assert attack_efficiency(2, [3, 5, 10]) == pytest.approx(50)
    assert robustness_efficiency(20, 50) == pytest.approx(35)


def test_the_ratio_measures_the_spread_of_attacks_and_not_robustness():
    assert robustness_ratio(60, [59, 59, 59]) == pytest.approx(0, abs=1e-9)
    assert robustness_ratio(60, [59, 59, 0]) == pytest.approx(65.56, abs=5e-3)


def test_ratios_of_nothing_are_zero_or_refused():
    assert robustness_ratio(60, [60, 60]) == 0
    assert attack_efficiency(2, [2, 2]) == 0
    with pytest.raises(ValueError, match="clean accuracy is 0; expected above 0"):
        robustness_ratio_rome(0, [0])
    for ratio in (robustness_ratio, attack_efficiency):
        with pytest.raises(ValueError, match="no attacks; expected at least one"):
            ratio(60, [])


def test_rome_plus_takes_off_what_attacks_add():
    plain = robustness_ratio_rome(50, [60, 40])
    assert plain == 100
    assert robustness_ratio_rome(50, [60, 40], plus=True) == plain - 5


CLEAN = {1: (44.95, 2.25), 10: (61.73, 2.29), 50: (69.95, 2.31)}
"""Mean clean accuracy (percent) and seconds by ipc: BACON on CIFAR-10, from the logs in BEARD's repository."""
UNTARGETED = {
    1: ([24.51, 20.78, 33.72, 11.49, 13.68, 17.64], [3.12, 8.79, 8.77, 1647.63, 74.66, 762.71]),
    10: ([33.27, 26.45, 44.05, 16.11, 11.84, 23.85], [2.84, 8.29, 8.46, 2102.68, 73.91, 1086.94]),
    50: ([38.16, 28.86, 50.80, 18.28, 8.31, 27.00], [3.68, 12.21, 9.18, 2374.80, 76.49, 968.53]),
}
TARGETED = {
    1: ([29.59, 30.61, 33.73, 36.58], [3.01, 8.52, 8.71, 73.94]),
    10: ([39.13, 40.10, 44.06, 44.93], [2.85, 8.32, 8.50, 73.75]),
    50: ([44.68, 45.59, 50.81, 44.71], [3.01, 11.96, 12.22, 75.82]),
}


@pytest.mark.parametrize(
    ("logs", "ipcs", "ratio", "rome", "efficiency", "index"),
    [
        (TARGETED, (1,), 19.78, 90.63, 29.70, 24.74),
        (TARGETED, (10,), 12.94, 88.33, 29.48, 21.21),
        (TARGETED, (50,), 6.99, 87.86, 31.89, 19.44),
        (TARGETED, (1, 10, 50), 36.83, 84.37, 29.83, 33.33),
        (UNTARGETED, (1,), 26.34, 59.18, 25.24, 25.79),
        (UNTARGETED, (10,), 28.24, 53.13, 25.94, 27.09),
        (UNTARGETED, (50,), 32.87, 47.87, 24.10, 28.48),
        (UNTARGETED, (1, 10, 50), 32.87, 50.49, 21.53, 27.20),
    ],
)
def test_the_logs_of_beard_give_its_published_ratios(logs, ipcs, ratio, rome, efficiency, index):
    clean = sum(CLEAN[i][0] for i in ipcs) / len(ipcs)
    clean_s = sum(CLEAN[i][1] for i in ipcs) / len(ipcs)
    accuracies = [a for i in ipcs for a in logs[i][0]]
    seconds = [s for i in ipcs for s in logs[i][1]]
    found, took = robustness_ratio(clean, accuracies), attack_efficiency(clean_s, seconds)
    assert found == pytest.approx(ratio, abs=0.0051)
    assert robustness_ratio_rome(clean, accuracies) == pytest.approx(rome, abs=0.0051)
    assert took == pytest.approx(efficiency, abs=0.0051)
    assert robustness_efficiency(found, took) == pytest.approx(index, abs=0.0051)
