"""What matching methods share: sampling, views, networks drawn in place, chunks that change nothing."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from functools import partial

import plain_matching
import pytest
import torch
import torch._dynamo.utils as dynamo
from conftest import blobs
from torch import Tensor

from ddbench import compute, registry
from ddbench.contract import ImageData, RealData, TeacherRecipe, Trained
from ddbench.matching.features import (
    RandomNetworks,
    Siamese,
    attention_features,
    class_mean_distance,
    embedding_features,
    fast_features,
    features_of,
    images_that_fit,
    match,
)
from ddbench.matching.sampling import RealBatches, class_labels, initial_images, viewed
from ddbench.matching.selection import class_pools
from ddbench.nets.build import build
from ddbench.task import RunTask

CPU = torch.device("cpu")


@dataclass
class Mirrored(RunTask):
    """A task under a made-up wrapper: every synthetic batch with its mirror images, originals first."""

    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])


@dataclass
class FirstOnly(RunTask):
    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images[:-1], labels[:-1]


def step(
    task: RunTask, network: str = "ConvNetD1W4", features=embedding_features, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(loss, gradient) of one matching step with ipc images of each class."""
    train = task.train
    images = initial_images(task, "noise").requires_grad_()
    networks = RandomNetworks(network, train.shape, train.classes)
    loss = match(
        task,
        networks,
        networks.draw(task.rng("network")),
        images,
        class_labels(task),
        RealBatches(train, 5, CPU),
        Siamese("dsa", train),
        features,
        lambda r, s: sum(map(class_mean_distance, r, s), torch.zeros(())),
    )
    assert images.grad is not None
    return loss, images.grad


class TestSampling:
    def test_pools_are_the_classes_in_order(self, gauss3: RealData) -> None:
        pools = class_pools(gauss3.train, 12)
        assert [p.tolist() for p in pools] == [gauss3.train.of_class(c).tolist() for c in range(3)]

    def test_too_many_images_a_class_name_the_class_and_the_limit(self, gauss3: RealData) -> None:
        with pytest.raises(
            ValueError,
            match="class 0 has 12 training images but ipc is 13; lower --ipc to 12 or choose a larger data set",
        ):
            class_pools(gauss3.train, 13)

    def test_an_empty_class_and_an_ipc_below_one_are_refused(self, gauss3: RealData) -> None:
        gap = gauss3.train.subset((gauss3.train.labels != 1).nonzero().squeeze(1))
        with pytest.raises(ValueError, match="class 1 of gauss3 has no training images; every class needs"):
            class_pools(gap, 1)
        with pytest.raises(ValueError, match="ipc is 0; expected at least 1 image a class"):
            class_pools(gauss3.train, 0)

    def test_a_batch_has_distinct_images_of_each_class(self, gauss3: RealData) -> None:
        real = RealBatches(gauss3.train, 7, CPU)
        rng = torch.Generator().manual_seed(0)
        first, second = real.draw(rng), real.draw(rng)
        assert first.shape == (3, 7) and first.tolist() != second.tolist()
        for c, row in enumerate(first.tolist()):
            assert len(set(row)) == 7
            assert gauss3.train.labels[row].tolist() == [c] * 7
        images = real.images(first)
        expected = gauss3.train.space.real_to_input(gauss3.train.images[first[2]])
        assert images.shape == (3, 7, 3, 16, 16) and torch.equal(images[2], expected)

    def test_every_class_gives_as_many_as_the_smallest_has(self) -> None:
        train = blobs("two", (1, 4, 4), 2, (9, 1)).train
        short = train.subset(torch.cat([train.of_class(0), train.of_class(1)[:4]]))
        real = RealBatches(short, 256, CPU)
        assert real.batch == 4 and real.draw(torch.Generator()).shape == (2, 4)

    def test_a_batch_made_smaller_is_noted_with_the_class_that_made_it_so(self) -> None:
        train = blobs("two", (1, 4, 4), 2, (9, 1)).train
        short = train.subset(torch.cat([train.of_class(0), train.of_class(1)[:4]]))
        notes = {}
        RealBatches(short, 256, CPU, notes.__setitem__)
        assert notes == {
            "batch_real": "batch_real is 256 but class 1 has 4 images, so every class gives 4 a step"
        }
        notes.clear()
        RealBatches(short, 4, CPU, notes.__setitem__)
        assert notes == {}

    @pytest.mark.parametrize("method", ["dm", "datadam"])
    def test_a_batch_made_smaller_stands_in_the_card(self, method: str) -> None:
        train = blobs("three", (1, 8, 8), 3, (6, 1)).train
        made = registry.get("methods", method)(network="ConvNetD1W4BN", iterations=1, batch_real=7)
        notes = RunTask(train, 1, 0).run_method(made).card.notes
        assert (
            notes["batch_real"] == "batch_real is 7 but class 0 has 6 images, so every class gives 6 a step"
        )

    def test_a_batch_below_one_is_refused(self, gauss3: RealData) -> None:
        with pytest.raises(ValueError, match="batch_real is 0; expected at least 1 real image a class"):
            RealBatches(gauss3.train, 0, CPU)

    def test_first_images_are_real_ones_or_noise(self, gauss3: RealData) -> None:
        real = initial_images(RunTask(gauss3.train, 4, 0), "real")
        everything = gauss3.train.space.real_to_input(gauss3.train.images)
        for c in range(3):
            found = [int((everything == x).all((1, 2, 3)).nonzero()[0, 0]) for x in real[c]]
            assert len(set(found)) == 4 and gauss3.train.labels[found].tolist() == [c] * 4
        noise = initial_images(RunTask(gauss3.train, 40, 0), "noise")
        assert noise.shape == (3, 40, 3, 16, 16)
        assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
        with pytest.raises(ValueError, match="init is 'smart'; expected one of real, noise"):
            initial_images(RunTask(gauss3.train, 1, 0), "smart")


class TestViews:
    def test_without_a_wrapper_images_pass_as_they_are(self, gauss3: RealData) -> None:
        task = RunTask(gauss3.train, 2, 0)
        images = initial_images(task, "real")
        assert torch.equal(viewed(task, images, class_labels(task)), images)

    def test_a_doubling_wrapper_gives_each_class_its_images_and_then_their_mirrors(
        self, gauss3: RealData
    ) -> None:
        task = Mirrored(gauss3.train, 2, 0)
        images = initial_images(task, "real")
        seen = viewed(task, images, class_labels(task))
        assert torch.equal(seen, torch.cat([images, images.flip(-1)], 1))

    def test_the_loss_uses_what_the_view_made(self, gauss3: RealData) -> None:
        sizes = []

        def spy(net: torch.nn.Module, x: Tensor) -> tuple[Tensor, ...]:
            sizes.append((len(x), x.requires_grad))
            return embedding_features(net, x)

        plain, _ = step(RunTask(gauss3.train, 2, 0), features=spy)
        doubled, _ = step(Mirrored(gauss3.train, 2, 0), features=spy)
        assert sizes == [(15, False), (6, True), (15, False), (12, True)]
        assert not torch.allclose(plain, doubled)

    def test_a_mirroring_view_cannot_tell_an_image_from_its_mirror(self) -> None:
        train = blobs("two", (1, 8, 8), 2, (8, 1)).train
        task = Mirrored(train, 2, 0)
        net = RandomNetworks("ConvNetD1W4", train.shape, 2).draw(torch.Generator().manual_seed(0))
        images, labels = initial_images(task, "real"), class_labels(task)
        means = [
            embedding_features(net, viewed(task, x, labels).flatten(0, 1))[0].view(2, 4, -1).mean(1)
            for x in (images, images.flip(-1))
        ]
        assert torch.allclose(*means, atol=1e-5)

    def test_a_view_with_uneven_classes_is_refused(self, gauss3: RealData) -> None:
        with pytest.raises(
            ValueError, match=r"made 5 images with \[2, 2, 1\] of each class out of 6 images of 3"
        ):
            step(FirstOnly(gauss3.train, 2, 0))


class TestNetworks:
    def test_every_draw_is_the_same_module_with_other_weights(self) -> None:
        networks = RandomNetworks("ConvNetD1W4BN", (1, 8, 8), 2)
        rng = torch.Generator().manual_seed(0)
        first = networks.draw(rng)
        places = [p.data_ptr() for p in first.parameters()]
        before = [p.clone() for p in first.parameters()]
        second = networks.draw(rng)
        assert second is first and second.training
        assert [p.data_ptr() for p in second.parameters()] == places
        assert not torch.equal(before[0], next(second.parameters()))
        assert not any(p.requires_grad for p in second.parameters())

    def test_only_batch_norm_counts_as_batch_norm(self) -> None:
        assert RandomNetworks("ConvNetD1W4BN", (1, 8, 8), 2).batch_norm
        assert not RandomNetworks("ConvNetD1W4", (1, 8, 8), 2).batch_norm

    def test_the_size_of_an_image_is_that_of_all_layer_outputs(self) -> None:
        # conv, norm, activation 4x8x8 each, pooled 4x4x4, 2 logits, in float32
        assert RandomNetworks("ConvNetD1W4", (1, 8, 8), 2).image_bytes == 4 * (3 * 256 + 64 + 2)

    def test_the_memory_limit_decides_how_many_images_fit(self, gauss2: RealData) -> None:
        networks = RandomNetworks("ConvNetD1W4", (1, 8, 8), 2)
        assert images_that_fit(RunTask(gauss2.train, 1, 0, memory_limit_mib=1.0), networks) == 2**20 // 3336
        assert images_that_fit(RunTask(gauss2.train, 1, 0, memory_limit_mib=1e-6), networks) == 1
        assert images_that_fit(RunTask(gauss2.train, 1, 0), networks) == 2**30 // 3336


def in_pieces(n: int, fit: int) -> list[int]:
    """Sizes of the batches in which features of n images are taken."""
    sizes = []

    def spy(net: torch.nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(x))
        return (x.flatten(1),)

    x = torch.rand(1, n, 1, 2, 2)
    (out,) = features_of(torch.nn.Identity(), x, spy, fit)
    assert torch.equal(out, x.flatten(2))
    return sizes


class TestFeatures:
    def test_batches_are_few_of_one_size_and_change_nothing(self) -> None:
        assert in_pieces(10, 10) == [10] and in_pieces(10, 99) == [10]
        assert in_pieces(10, 4) == [4, 4, 4]
        assert in_pieces(1024, 500) == [342, 342, 342]
        assert in_pieces(5, 1) == [1, 1, 1, 1, 1]

    def test_short_runs_and_gpus_take_the_features_as_they_are(self) -> None:
        digits = RandomNetworks("ConvNetD2W32", (1, 8, 8), 10)
        assert fast_features(embedding_features, digits, 100 * 740) is embedding_features
        meta = RandomNetworks("ConvNetD1W4", (1, 8, 8), 2)
        meta.module.to("meta")
        assert fast_features(embedding_features, meta, 10**12) is embedding_features

    def test_long_runs_take_compiled_features_and_the_same_settings_one_function(self) -> None:
        cifar = RandomNetworks("ConvNet", (3, 32, 32), 10)
        first, second, other = (
            fast_features(partial(attention_features, p=p), cifar, 20_000 * 740) for p in (1.0, 1.0, 4.0)
        )
        assert first.program is second.program is not other.program
        assert other.program is not fast_features(embedding_features, cifar, 20_000 * 740).program

    @pytest.mark.parametrize("network", ["ConvNetD1W4", "ConvNetD1W4BN"])
    def test_compiled_features_are_the_plain_ones_for_every_draw_and_never_compiled_again(
        self, network: str
    ) -> None:
        networks = RandomNetworks(network, (1, 8, 8), 2)
        features = partial(attention_features, p=2.0)
        fast = fast_features(features, networks, 10**12)
        rng = torch.Generator().manual_seed(0)
        compiled = None
        for _ in range(3):
            net, twin = networks.draw(rng), copy.deepcopy(networks.module)
            real, x = torch.rand(6, 1, 8, 8, generator=rng), torch.rand(4, 1, 8, 8, generator=rng)
            with torch.no_grad():
                for got, expected in zip(fast(net, real), features(twin, real), strict=True):
                    assert torch.allclose(got, expected, atol=1e-5) and not got.requires_grad
            gradients = []
            for call, which in ((fast, net), (features, twin)):
                leaf = x.clone().requires_grad_()
                sum((f * f.detach().cos()).sum() for f in call(which, leaf)).backward()
                gradients.append(leaf.grad)
            assert torch.allclose(*gradients, atol=1e-5) and float(gradients[1].abs().max()) > 1e-3
            for buffer, expected in zip(net.buffers(), twin.buffers(), strict=True):
                assert torch.allclose(buffer, expected, atol=1e-5)  # the trial left no trace
            seen = dict(dynamo.counters["stats"])
            assert compiled in (None, seen)
            compiled = seen
        assert len(fast.program.warmed) == 2

    def test_without_a_compiler_the_plain_features_go_on(self, monkeypatch, caplog) -> None:
        networks = RandomNetworks("ConvNetD1W4", (1, 8, 8), 2)
        monkeypatch.setattr(compute, "_broken", False)
        monkeypatch.setattr(compute, "COMPILED", {})

        def no_compiler(function):
            def call(*_):
                raise RuntimeError("no C++ compiler here")

            return call

        monkeypatch.setattr(compute, "compile_", no_compiler)
        fast = fast_features(embedding_features, networks, 10**12)
        net, x = networks.draw(torch.Generator().manual_seed(0)), torch.rand(2, 1, 8, 8)
        with caplog.at_level("WARNING", "ddbench"):
            assert torch.equal(fast(net, x)[0], embedding_features(net, x)[0])
            assert torch.equal(fast(net, x)[0], embedding_features(net, x)[0])
        assert [r.getMessage() for r in caplog.records] == [
            "torch.compile does not work here (no C++ compiler here); training goes on uncompiled, only slower"
        ]
        assert fast_features(embedding_features, networks, 10**12) is embedding_features


@pytest.fixture(scope="module")
def five() -> ImageData:
    return blobs("five", (1, 8, 8), 5, (9, 1)).train


class TestOneStep:
    @pytest.mark.parametrize("features", [embedding_features, attention_features])
    @pytest.mark.parametrize("images_at_once", [1, 2, 4, 7, 11, 24])
    @pytest.mark.parametrize("kind", [RunTask, Mirrored])
    def test_chunks_give_the_loss_and_gradient_of_the_whole(
        self, five: ImageData, features, images_at_once: int, kind: type[RunTask]
    ) -> None:
        size = RandomNetworks("ConvNetD2W4", five.shape, 5).image_bytes
        limit = (images_at_once + 0.5) * size / 2**20
        whole = step(kind(five, 2, 3), "ConvNetD2W4", features)
        parts = step(kind(five, 2, 3, memory_limit_mib=limit), "ConvNetD2W4", features)
        assert torch.allclose(whole[0], parts[0], rtol=1e-5)
        assert torch.allclose(whole[1], parts[1], atol=1e-5)
        assert float(whole[1].abs().max()) > 1e-3

    def test_batch_norm_sees_all_classes_whatever_the_memory_and_says_so(self, five: ImageData) -> None:
        tasks = [RunTask(five, 2, 3), RunTask(five, 2, 3, memory_limit_mib=0.01)]
        whole, small = (step(task, "ConvNetD1W4BN") for task in tasks)
        assert torch.equal(whole[1], small[1])
        assert not tasks[0]._notes
        assert re.fullmatch(
            "batch norm takes its statistics from all classes at once: 25 real images may need about 0 MiB, more than the "
            "limit of 0.01 MiB; a smaller batch_real needs less",
            tasks[1]._notes["memory"],
        )

    def test_each_class_has_a_draw_of_its_own(self, five: ImageData) -> None:
        draws = Siamese("dsa", five).draw(5, torch.Generator().manual_seed(0))
        assert len({repr(d.steps) for d in draws}) == 5
        assert all(len(p) == 1 for d in draws for _, p in d.steps)

    def test_without_flips_none_is_drawn(self, five: ImageData) -> None:
        rng = torch.Generator().manual_seed(0)
        names = {n for d in Siamese("dsa", replace(five, flip=False)).draw(200, rng) for n in d.operations}
        assert names == {"color", "crop", "cutout", "scale", "rotate"}

    def test_augment_none_leaves_images_alone(self, five: ImageData) -> None:
        siamese = Siamese("none", five)
        x = torch.rand(5, 2, 1, 8, 8)
        assert siamese.apply(x, siamese.draw(5, torch.Generator())) is x
        with pytest.raises(
            ValueError, match="augment is 'dsaa'; expected one of none, dsa, dsa-flip, diffaug:NAMES"
        ):
            Siamese("dsaa", five)

    def test_data_on_disk_give_what_data_in_memory_give(self, five: ImageData, tmp_path) -> None:
        size = five.images.numel()
        mapped = torch.from_file(str(tmp_path / "images"), shared=True, size=size, dtype=torch.uint8)
        mapped.copy_(five.images.flatten())
        on_disk = replace(five, images=mapped.view(five.images.shape))
        assert torch.equal(step(RunTask(on_disk, 2, 3))[1], step(RunTask(five, 2, 3))[1])


class Pooled(RunTask):
    """A task whose pool is made of untrained networks."""

    def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
        pairs = [
            [build("ConvNetD2W4", self.train.shape, 3, seeded(2 * i + j)) for j in (0, 1)] for i in (0, 1)
        ]
        return [
            Trained(end, str(i), 0.0, 0.0, initial=start.state_dict()) for i, (start, end) in enumerate(pairs)
        ]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestPlainTwins:
    """The loops that benchmarks hold speed against compute what the methods compute (dm and datadam: in fidelity/)."""

    train = blobs("three", (3, 16, 16), 3, (24, 2)).train

    def losses(self, task: RunTask, method: str, **settings) -> list[float]:
        found: list[Tensor] = []
        task.log = lambda **values: found.append(values["loss"])
        registry.get("methods", method)(network="ConvNetD2W4", **settings).distill(task)
        return [float(loss) for loss in found]

    def test_dsa(self) -> None:
        got = self.losses(RunTask(self.train, 2, 5), "dsa", iterations=2, outer=3, inner=2, batch_real=4)
        twin = plain_matching.dsa(self.train, 2, 5, "ConvNetD2W4", outer=3, inner=2, batch_real=4)
        assert got == pytest.approx([next(twin) for _ in range(2)], rel=1e-4)

    def test_ncfm_without_its_sampling_network(self) -> None:
        task = Pooled(self.train, 2, 5)
        settings = {"sampler": "gaussian", "frequencies": 32, "batch_real": 5, "pool": 2}
        pairs = []
        for trained in task.teachers(TeacherRecipe()):
            start = copy.deepcopy(trained.network)
            start.load_state_dict(trained.initial)
            pairs.append((start, trained.network))
        twin = plain_matching.ncfm(self.train, 2, 5, pairs, batch_real=5, frequencies=32)
        got = self.losses(task, "ncfm", iterations=3, **settings)
        assert got == pytest.approx([next(twin) for _ in range(3)], rel=1e-4)
