"""Characteristic functions by class, the frequencies that they are taken at, and the pool of feature networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddbench.contract import Trained
from ddbench.matching import spectrum
from ddbench.matching.pool import NetworkPool, pool_recipe
from ddbench.matching.spectrum import (
    GaussianFrequencies,
    SampledFrequencies,
    cf_discrepancy,
    characteristic,
    unit_length,
)
from ddbench.nets.build import build


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def features(classes: int = 3, n: int = 7, m: int = 4, width: int = 16) -> tuple[Tensor, Tensor]:
    real, synthetic = (unit_length(normal(classes, k, width, seed=k)) for k in (n, m))
    return real, synthetic.requires_grad_()


class TestDiscrepancy:
    def test_classes_do_not_meet(self) -> None:
        real, synthetic = features()
        frequencies = normal(3, 5, 16, seed=3)
        together = cf_discrepancy(real, synthetic, frequencies)
        apart = [
            cf_discrepancy(r[None], s[None], t[None])
            for r, s, t in zip(real, synthetic, frequencies, strict=True)
        ]
        assert together.shape == (3,)
        assert torch.allclose(together, torch.cat(apart))

    def test_it_is_the_formula_written_with_complex_numbers(self) -> None:
        real, synthetic = features()
        t = normal(3, 5, 16, seed=3)
        phi_r, phi_s = (torch.exp(1j * (x @ t.mT)).mean(1) for x in (real, synthetic))
        amp = (phi_r.abs() - phi_s.abs()) ** 2
        pha = 2 * (phi_r.abs() * phi_s.abs() - (phi_r * phi_s.conj()).real)
        expected = (0.3 * amp + 0.7 * pha).sqrt().mean(1)
        assert torch.allclose(cf_discrepancy(real, synthetic, t, 0.3, 0.7), expected, atol=1e-5)
        assert torch.allclose(amp + pha, (phi_r - phi_s).abs() ** 2, atol=1e-6)

    def test_at_frequency_zero_the_characteristic_function_is_one(self) -> None:
        cos, sin = characteristic(normal(2, 5, 3), torch.zeros(2, 1, 3))
        assert torch.equal(cos, torch.ones(2, 1)) and torch.equal(sin, torch.zeros(2, 1))

    def test_features_of_other_shapes_and_negative_weights_are_refused(self) -> None:
        with pytest.raises(
            ValueError,
            match=r"real features are \(2, 5, 3\), synthetic \(2, 4, 4\), frequencies \(2, 6, 3\); expected \(G, n, d\)",
        ):
            cf_discrepancy(normal(2, 5, 3), normal(2, 4, 4), normal(2, 6, 3))
        with pytest.raises(ValueError, match="weights are amplitude -1 and phase 1; expected none below 0"):
            cf_discrepancy(normal(2, 5, 3), normal(2, 4, 3), normal(2, 6, 3), -1, 1)


class TestGaussianFrequencies:
    def test_losses_and_gradients_are_those_of_the_classes_apart(self) -> None:
        real, synthetic = features()
        sampler = GaussianFrequencies(8, 16)
        values = sampler.pull(cf_discrepancy, real, synthetic, torch.Generator().manual_seed(5))
        rng = torch.Generator().manual_seed(5)
        for c in range(3):
            x = synthetic[c : c + 1].detach().requires_grad_()
            value = cf_discrepancy(real[c : c + 1], x, torch.empty(8, 16).normal_(generator=rng)[None])
            value.sum().backward()
            assert torch.allclose(values[c], value[0])
            assert torch.allclose(synthetic.grad[c], x.grad[0], atol=1e-7)
        assert not values.requires_grad

    def test_how_many_classes_go_together_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        outcomes = []
        for piece in (1, 4000, 1 << 26):
            monkeypatch.setattr(spectrum, "_PIECE_BYTES", piece)
            real, synthetic = features(5)
            values = GaussianFrequencies(8, 16).pull(
                cf_discrepancy, real, synthetic, torch.Generator().manual_seed(5)
            )
            outcomes.append((values, synthetic.grad))
        for values, grad in outcomes[1:]:
            assert torch.allclose(values, outcomes[0][0]) and torch.allclose(grad, outcomes[0][1], atol=1e-7)

    def test_no_frequency_is_refused(self) -> None:
        with pytest.raises(ValueError, match="frequencies is 0; expected at least 1"):
            GaussianFrequencies(0, 16)


def sampled(count: int = 64, width: int = 16, **how: float) -> SampledFrequencies:
    return SampledFrequencies(count, width, torch.Generator().manual_seed(0), **how)


class TestSamplingNetwork:
    def test_sixteen_frequencies_share_each_component(self) -> None:
        sampler = sampled(width=2048 // 16)
        t = sampler.draw(torch.Generator().manual_seed(1)).detach()
        assert t.shape == (64, 128)
        rng = torch.Generator().manual_seed(1)
        scales = sampler.network(torch.randn(4, 128, generator=rng)).detach()
        normal = torch.randn(4, 16, 128, generator=rng)
        assert torch.equal(t.view(4, 16, 128), scales[:, None] * normal)
        assert bool((scales.abs() < 1).all()) and float(scales.std()) > 0.1
        assert len(t.unique(dim=0)) == 64  # not four distinct rows, as released

    def test_its_weights_move_up_the_loss_of_a_fixed_batch(self) -> None:
        real, synthetic = features(1, 40, 10)
        sampler = sampled(256, lr=1e-2)
        before = [p.clone() for p in sampler.network.parameters()]

        def loss(r: Tensor, s: Tensor, t: Tensor) -> Tensor:
            return 300 * cf_discrepancy(r, s, t)

        def mean_loss() -> float:
            rng = torch.Generator().manual_seed(9)
            with torch.no_grad():
                return sum(float(loss(real, synthetic, sampler.draw(rng)[None])) for _ in range(20)) / 20

        first = mean_loss()
        rng = torch.Generator().manual_seed(2)
        for _ in range(40):
            sampler.pull(loss, real, synthetic, rng)
        assert all(
            not torch.equal(p, q)
            for p, q in zip(before, sampler.network.parameters(), strict=True)
            if p.any()
        )
        assert mean_loss() > 1.05 * first

    def test_each_class_sees_the_network_after_the_step_of_the_class_before(self) -> None:
        real, synthetic = features()
        sampler, twin = sampled(), sampled()
        values = sampler.pull(cf_discrepancy, real, synthetic, torch.Generator().manual_seed(5))
        rng = torch.Generator().manual_seed(5)
        velocity = [torch.zeros_like(p) for p in twin.network.parameters()]
        for c in range(3):
            x = synthetic[c : c + 1].detach().requires_grad_()
            twin.network.zero_grad()
            value = cf_discrepancy(real[c : c + 1], x, twin.draw(rng)[None])
            value.sum().backward()
            assert torch.allclose(values[c], value[0])
            assert torch.allclose(synthetic.grad[c], x.grad[0], atol=1e-7)
            with torch.no_grad():
                for p, v in zip(twin.network.parameters(), velocity, strict=True):
                    v.mul_(0.5).add_(p.grad)
                    p.add_(1e-3 * v)
        for p, q in zip(sampler.network.parameters(), twin.network.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-7)

    def test_one_class_at_a_time_or_all_at_once_is_the_same(self) -> None:
        real, synthetic = features()
        whole = sampled().pull(cf_discrepancy, real, synthetic, torch.Generator().manual_seed(5))
        sampler, rng = sampled(), torch.Generator().manual_seed(5)
        single = [
            sampler.pull(cf_discrepancy, real[c : c + 1], synthetic[c : c + 1].detach().requires_grad_(), rng)
            for c in range(3)
        ]
        assert torch.equal(whole, torch.cat(single))

    @pytest.mark.parametrize("count", [16, 40])
    def test_a_count_without_two_whole_components_is_refused(self, count: int) -> None:
        with pytest.raises(
            ValueError, match=f"frequencies is {count}; .* expected a multiple of 16 from 32 on"
        ):
            sampled(count)


def trained(index: int, with_initial: bool = True) -> Trained:
    nets = [
        build("ConvNetD1W4", (1, 8, 8), 3, torch.Generator().manual_seed(10 * index + i)) for i in range(2)
    ]
    initial = {k: v.detach() for k, v in nets[0].named_parameters()} if with_initial else {}
    return Trained(nets[1].requires_grad_(False).eval(), f"net{index}", 0.9, 1.0, initial=initial)


class TestPool:
    def test_a_blend_lies_on_the_line_between_start_and_end(self) -> None:
        nets = [trained(i) for i in range(3)]
        pool = NetworkPool(nets, "ConvNetD1W4", (1, 8, 8), 3)
        for index, share in ((0, 0.25), (2, 0.0), (1, 1.0)):
            blend, end = pool.blend(index, share)
            for name, p in blend.named_parameters():
                start, finish = nets[index].initial[name], nets[index].network.get_parameter(name)
                assert torch.allclose(p, share * start + (1 - share) * finish, atol=1e-7)
                assert torch.equal(end.get_parameter(name), finish)

    def test_every_draw_gives_the_same_two_modules_with_other_weights(self) -> None:
        pool = NetworkPool([trained(i) for i in range(3)], "ConvNetD1W4", (1, 8, 8), 3)
        rng = torch.Generator().manual_seed(0)
        first = pool.draw(rng)
        places = [p.data_ptr() for net in first for p in net.parameters()]
        before = [p.clone() for net in first for p in net.parameters()]
        second = pool.draw(rng)
        assert first[0] is second[0] and first[1] is second[1] and first[0] is not first[1]
        assert places == [p.data_ptr() for net in second for p in net.parameters()]
        assert not torch.equal(before[0], next(second[0].parameters()))
        assert not any(p.requires_grad for net in second for p in net.parameters())

    def test_every_network_and_all_shares_are_drawn(self) -> None:
        pool = NetworkPool([trained(i) for i in range(4)], "ConvNetD1W4", (1, 8, 8), 3)
        drawn: list[tuple[int, float]] = []
        pool.blend = lambda index, share: drawn.append((index, share))  # type: ignore[method-assign,func-returns-value]
        rng = torch.Generator().manual_seed(0)
        for _ in range(400):
            pool.draw(rng)
        counts = torch.tensor([i for i, _ in drawn]).bincount()
        shares = torch.tensor([s for _, s in drawn])
        assert len(counts) == 4 and int(counts.min()) > 70
        assert 0 <= float(shares.min()) < 0.02 and 0.98 < float(shares.max()) < 1
        assert abs(float(shares.mean()) - 0.5) < 0.05

    def test_an_empty_pool_and_networks_without_a_start_are_refused(self) -> None:
        with pytest.raises(ValueError, match="the pool has no networks; expected at least 1"):
            NetworkPool([], "ConvNetD1W4", (1, 8, 8), 3)
        with pytest.raises(
            ValueError, match="network net0 of the pool came without the state it started from"
        ):
            NetworkPool([trained(0, False)], "ConvNetD1W4", (1, 8, 8), 3)

    def test_few_epochs_keep_only_the_drops_that_there_can_be(self) -> None:
        assert [pool_recipe("ConvNet", e).milestones for e in (1, 2, 3, 4, 5, 60)] == [
            (),
            (1,),
            (2,),
            (2, 3),
            (3, 4),
            (40, 50),
        ]
