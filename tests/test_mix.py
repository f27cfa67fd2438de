"""CutMix of batches: the box, the pixels, the targets, and many batches at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ddbench.augment import mix as mix_module
from ddbench.augment.mix import CutMix, Mix, Mixes, mixed_images, mixed_targets
from ddbench.augment.views import cutmix_box

SIDES = st.integers(1, 40)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int, shape: tuple[int, int, int] = (3, 8, 8)) -> torch.Tensor:
    """Image i holds the number i + 1 everywhere."""
    return torch.arange(1.0, n + 1).view(-1, 1, 1, 1).expand(-1, *shape).clone()


class TestBox:
    @given(SIDES, SIDES, st.floats(0, 1), st.data())
    def test_it_is_the_one_of_the_spec_clipped_to_the_image(self, width, height, kept, data):
        x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        x1, y1, x2, y2 = cutmix_box(width, height, kept, x, y)
        cut = math.sqrt(1 - kept)
        for low, high, side, centre in ((x1, x2, width, x), (y1, y2, height, y)):
            half = int(side * cut) // 2
            assert (low, high) == (max(centre - half, 0), min(centre + half, side))
            assert 0 <= low <= high <= side
        assert (x2 - x1) * (y2 - y1) <= (1 - kept) * width * height + 1e-9

    def test_boxes_of_the_spec_by_hand(self):
        assert cutmix_box(32, 32, 0.75, 10, 20) == (2, 12, 18, 28)  # sides int(32 * 0.5) = 16, inside
        assert cutmix_box(32, 32, 0.75, 0, 31) == (0, 23, 8, 32)  # clipped on two sides: an area of 8 x 9
        assert cutmix_box(32, 16, 0.75, 16, 8) == (8, 4, 24, 12)  # each side in its own proportion
        assert cutmix_box(32, 32, 1.0, 5, 5) == (5, 5, 5, 5)
        assert cutmix_box(7, 7, 0.5, 3, 3) == (1, 1, 5, 5)  # int(7 * 0.7071) = 4


class TestDraw:
    @given(st.integers(0, 10_000), st.integers(1, 12), st.tuples(SIDES, SIDES), st.sampled_from([0.4, 1, 3]))
    def test_a_share_is_one_minus_the_clipped_area(self, seed, batch, size, alpha):
        height, width = size
        drawn = CutMix(1.0, alpha).draw(batch, (3, height, width), rng(seed))
        assert drawn is not None
        x1, y1, x2, y2 = drawn.box
        assert drawn.share == pytest.approx(1 - (x2 - x1) * (y2 - y1) / (height * width))
        assert 0 <= drawn.share <= 1
        assert sorted(drawn.partners.tolist()) == list(range(batch))

    def test_the_numbers_leave_the_generator_in_the_documented_order(self):
        own, other = rng(5), rng(5)
        drawn = CutMix(1.0).draw(6, (3, 20, 30), own)
        assert drawn is not None
        assert float(torch.rand((), generator=other)) < 1
        kept = float(torch.rand((), generator=other, dtype=torch.float64))
        assert torch.equal(drawn.partners, torch.randperm(6, generator=other))
        x = int(torch.randint(0, 30, (), generator=other))
        y = int(torch.randint(0, 20, (), generator=other))
        assert drawn.box == cutmix_box(30, 20, kept, x, y)
        assert torch.equal(own.get_state(), other.get_state())

    def test_about_half_of_the_batches_are_mixed(self):
        source, n = rng(1), 4000
        drawn = [CutMix(0.5).draw(2, (3, 200, 200), source) for _ in range(n)]
        mixed = sum(d is not None for d in drawn)
        assert mixed / n == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(n))

    @pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
    def test_kept_shares_follow_the_beta_law(self, alpha):
        source = rng(2)
        found = torch.tensor([mix_module._beta(alpha, source) for _ in range(4000)])
        variance = 1 / (4 * (2 * alpha + 1))
        assert float(found.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(variance / 4000))
        assert float(found.var()) == pytest.approx(variance, rel=0.1)
        assert 0 <= float(found.min()) and float(found.max()) <= 1

    def test_probability_zero_and_one_are_never_and_always(self):
        source = rng(3)
        assert all(CutMix(0.0).draw(2, (1, 8, 8), source) is None for _ in range(20))
        assert all(CutMix(1.0).draw(2, (1, 8, 8), source) is not None for _ in range(20))

    def test_settings_out_of_range_are_named(self):
        with pytest.raises(ValueError, match=r"probability of CutMix is 1.5; expected a number from 0 to 1"):
            CutMix(1.5)
        with pytest.raises(ValueError, match=r"alpha of CutMix is 0; expected a number above 0, at most 10"):
            CutMix(0.5, 0)


class TestOneBatch:
    def test_the_box_is_the_partners_and_the_rest_stays(self):
        x = pixels(3)
        out = mixed_images(x, Mix(torch.tensor([1, 2, 0]), (2, 4, 5, 8), 1 - 12 / 64))
        assert bool((out[:, :, 4:8, 2:5] == torch.tensor([2.0, 3, 1]).view(3, 1, 1, 1)).all())
        outside = torch.ones(8, 8, dtype=torch.bool)
        outside[4:8, 2:5] = False
        assert torch.equal(out[..., outside], x[..., outside])
        assert torch.equal(x, pixels(3)), "the batch itself is left alone"
        assert mixed_images(x, None) is x

    @given(st.integers(0, 1000), st.integers(1, 8), st.integers(2, 5))
    def test_cross_entropy_with_mixed_targets_is_the_two_weighed(self, seed, batch, classes):
        source = rng(seed)
        logits = torch.randn(batch, classes, generator=source, dtype=torch.float64)
        y = torch.randint(0, classes, (batch,), generator=source)
        drawn = CutMix(1.0).draw(batch, (3, 16, 16), source)
        assert drawn is not None
        p = mixed_targets(y, None, classes, drawn, torch.float64)
        assert torch.allclose(p.sum(1), torch.ones(batch, dtype=torch.float64))
        share = drawn.share
        want = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[drawn.partners])
        got = -(p * F.log_softmax(logits, 1)).sum(1).mean()
        assert float(got) == pytest.approx(float(want), abs=1e-12)

    def test_soft_targets_are_mixed_as_they_are_and_their_absence_is_named(self):
        soft = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        drawn = Mix(torch.tensor([1, 0]), (0, 0, 4, 4), 0.75)
        got = mixed_targets(None, soft, 2, drawn)
        assert torch.allclose(got, torch.tensor([[0.725, 0.275], [0.375, 0.625]]))
        assert mixed_targets(None, soft, 2, None) is soft
        with pytest.raises(ValueError, match=r"CutMix got neither label ids nor soft targets; expected one"):
            mixed_targets(None, None, 2, drawn)


class TestManyBatches:
    @given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5), st.tuples(SIDES, SIDES))
    def test_they_are_mixed_as_each_alone(self, seed, groups, batch, size):
        source = rng(seed)
        shape = (2, *size)
        x = torch.randn(groups, batch, *shape, generator=source, dtype=torch.float64)
        ids = torch.randint(0, 3, (groups, batch), generator=source)
        weights = torch.rand(groups, batch, generator=source, dtype=torch.float64)
        drawn = [CutMix(0.5).draw(batch, shape, source) for _ in range(groups)]
        together = Mixes.of(drawn, batch)
        assert torch.equal(
            together.images(x), torch.stack([mixed_images(a, d) for a, d in zip(x, drawn, strict=True)])
        )
        hard = F.one_hot(ids, 3).double()
        alone = [mixed_targets(y, None, 3, d, torch.float64) for y, d in zip(ids, drawn, strict=True)]
        assert torch.allclose(together.rows(hard), torch.stack(alone), rtol=0, atol=1e-15)
        for got, w, d in zip(together.rows(weights), weights, drawn, strict=True):
            want = w if d is None else d.share * w + (1 - d.share) * w[d.partners]
            assert torch.allclose(got, want, rtol=0, atol=1e-15)

    def test_batches_that_are_not_mixed_keep_their_bits(self):
        x = torch.randn(2, 3, 1, 8, 8, generator=rng())
        none = Mixes.of([None, None], 3)
        assert torch.equal(none.images(x), x) and torch.equal(none.rows(x[..., 0, 0, 0]), x[..., 0, 0, 0])
