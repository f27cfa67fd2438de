"""What matching methods share: sampling, views, networks drawn in place, chunks that change nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from conftest import blobs
from torch import Tensor

from ddbench.contract import ImageData, RealData
from ddbench.matching.features import (
    RandomNetworks,
    Siamese,
    attention_features,
    class_mean_distance,
    embedding_features,
    images_that_fit,
    match,
)
from ddbench.matching.sampling import RealBatches, class_labels, initial_images, viewed
from ddbench.matching.selection import class_pools
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

    def test_batch_norm_sees_all_classes_whatever_the_memory(self, five: ImageData) -> None:
        whole = step(RunTask(five, 2, 3), "ConvNetD1W4BN")
        small = step(RunTask(five, 2, 3, memory_limit_mib=1e-6), "ConvNetD1W4BN")
        assert torch.equal(whole[1], small[1])

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
        with pytest.raises(ValueError, match="augment is 'dsaa'; expected one of none, dsa, dsa-flip, dc"):
            Siamese("dsaa", five)

    def test_data_on_disk_give_what_data_in_memory_give(self, five: ImageData, tmp_path) -> None:
        size = five.images.numel()
        mapped = torch.from_file(str(tmp_path / "images"), shared=True, size=size, dtype=torch.uint8)
        mapped.copy_(five.images.flatten())
        on_disk = replace(five, images=mapped.view(five.images.shape))
        assert torch.equal(step(RunTask(on_disk, 2, 3))[1], step(RunTask(five, 2, 3))[1])
