"""SRe2L against its description (arXiv:2306.13092): losses, bounds, schedule, optimiser, and the loop written out."""

import itertools

import pytest
import torch
from plain_recovery import CLASSES, SHAPE, plain_cell, toy_data, toy_teacher
from torch import nn

from ddbench import registry
from ddbench.contract import Space
from ddbench.matching.recovery import Recovery, mean_norm, observed, pixel_bounds, to_bytes, total_variation
from ddbench.nets.build import skeleton
from ddbench.task import RunTask
from ddbench.train.squeeze import squeeze_recipe
from ddbench.train.squeezed import kept

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY = ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


class Plain(nn.Module):
    """A batch norm alone, or the spec's net of two."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x).flatten(1)


def norm(mean, var):
    made = nn.BatchNorm2d(len(mean)).eval()
    made.running_mean.copy_(torch.tensor(mean))
    made.running_var.copy_(torch.tensor(var))
    return made


def conv(weight):
    made = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(made.weight, weight)
    return made


class TestBatchNormLoss:
    def test_one_layer_is_a_sum_of_unsquared_norms_of_biased_statistics(self):
        x = (torch.arange(16.0) / 4).view(1, 2, 2, 2, 2)
        assert x[0].mean((0, 2, 3)).tolist() == [1.375, 2.375]
        assert x[0].var((0, 2, 3), unbiased=False).tolist() == [1.078125, 1.078125]
        _, distance = observed(Plain(norm([0.5, -1.0], [2.0, 1.0])).eval(), x, first_weight=1)
        assert distance.item() == pytest.approx(4.411761, abs=1e-6)

    def test_the_first_layer_counts_ten_times(self):
        net = Plain(conv(1.0), norm([0.0], [1.0]), nn.ReLU(), conv(2.0), norm([0.0], [1.0])).eval()
        x = torch.tensor([[-1.0, 1.0], [3.0, 5.0]]).view(1, 1, 1, 2, 2)
        first, both = observed(net, x, 1.0)[1].item(), observed(net, x)[1].item()
        assert both - first == pytest.approx(9 * 6.0, abs=1e-5)
        assert first - 6.0 == pytest.approx(18.249832, abs=1e-5)
        assert both == pytest.approx(78.249832, abs=1e-5) and 0.01 * both == pytest.approx(0.782498, abs=1e-6)

    def test_it_is_zero_where_the_statistics_are_those_of_training(self):
        x = torch.randn(1, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        own = norm(x[0].mean((0, 2, 3)).tolist(), x[0].var((0, 2, 3), unbiased=False).tolist())
        assert observed(Plain(own).eval(), x)[1].item() == pytest.approx(0, abs=1e-5)

    def test_it_reads_every_norm_of_resnet18_the_stem_first(self):
        norms = [
            m for m in skeleton("ResNet18BN", (3, 32, 32), 10).modules() if isinstance(m, nn.BatchNorm2d)
        ]
        assert (len(norms), sum(n.num_features for n in norms)) == (20, 4800)
        assert norms[0] is skeleton("ResNet18BN", (3, 32, 32), 10).norm

    def test_gradients_flow_through_the_statistics_only(self):
        net = toy_teacher().network
        x = torch.randn(1, 3, *SHAPE, dtype=torch.float64, requires_grad=True)
        observed(net, x)[1].sum().backward()
        assert x.grad.abs().max() > 0 and all(p.grad is None for p in net.parameters())

    def test_networks_with_norms_that_never_run_are_no_trouble(self):
        class Idle(Plain):
            def __init__(self):
                super().__init__(norm([0.0], [1.0]))
                self.idle = norm([5.0], [5.0])

        x = torch.randn(1, 2, 1, 3, 3)
        assert torch.equal(observed(Idle().eval(), x)[1], observed(Plain(norm([0.0], [1.0])).eval(), x)[1])


def test_the_image_priors_have_deepinversions_form():
    one = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(1, 1, 1, 2, 2)
    two = torch.cat([one, 2 * one], 1)
    assert total_variation(one).item() == pytest.approx(19.831310, abs=1e-5)
    assert total_variation(two).item() == pytest.approx(44.344154, abs=1e-5)
    assert mean_norm(two).item() == pytest.approx(13.829317, abs=1e-5)


@pytest.mark.parametrize(
    ("statistics", "low", "high"),
    [
        (IMAGENET, (-2.117904, -2.035714, -1.804444), (2.248908, 2.428571, 2.64)),
        (TINY, (-2.086012, -1.978366, -1.757294), (2.258036, 2.436645, 2.663572)),
        (CIFAR, (-2.429066, -2.418255, -2.221393), (2.514088, 2.59679, 2.753731)),
    ],
)
def test_images_are_clamped_to_what_real_pixels_are(statistics, low, high):
    black, white = pixel_bounds(Space("input", *statistics), torch.zeros(1, dtype=torch.float64))
    assert black.flatten().tolist() == pytest.approx(low, abs=1e-6)
    assert white.flatten().tolist() == pytest.approx(high, abs=1e-6)


def test_bytes_are_truncated():
    grey = to_bytes(torch.zeros(1, 3, 1, 1), Space("input", *IMAGENET))
    assert grey.flatten().tolist() == [123, 116, 103]


def test_the_learning_rate_falls_by_half_a_cosine():
    made = Recovery(iterations=4000, lr=0.25)
    for it, rate in ((0, 0.25), (1000, 0.21338835), (2000, 0.125), (3000, 0.03661165)):
        assert made.lr_at(it) == pytest.approx(rate, abs=1e-8)
    assert made.lr_at(3999) == pytest.approx(3.9e-8, abs=1e-9)


def test_adam_forgets_the_size_of_gradients_quickly():
    x = torch.zeros(3, dtype=torch.float64)
    adam = torch.optim.Adam([x], lr=0.25, betas=(0.5, 0.9))
    for gradient, after in (((1.0, -3.0, 0.0), (-0.25, 0.25, 0.0)), ((1.0, 1.0, 0.0), (-0.5, 0.288078, 0.0))):
        x.grad = torch.tensor(gradient, dtype=torch.float64)
        adam.step()
        assert x.tolist() == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize(
    ("network", "classes", "parameters"),
    [
        ("ResNet18BN", 10, 11_173_962),
        ("ResNet18BN", 100, 11_220_132),
        ("ResNet18BN", 200, 11_271_432),
        ("ResNet50BN", 10, 23_520_842),
        ("ResNet50BN", 100, 23_705_252),
        ("ResNet50BN", 200, 23_910_152),
        ("ResNet101BN", 10, 42_512_970),
        ("ResNet101BN", 100, 42_697_380),
        ("ResNet101BN", 200, 42_902_280),
    ],
)
def test_the_networks_have_the_small_stem(network, classes, parameters):
    assert sum(p.numel() for p in skeleton(network, (3, 32, 32), classes).parameters()) == parameters


class TestMethod:
    def made(self, monkeypatch, ipc=2, **settings):
        teacher = toy_teacher()
        method = registry.make(
            "sre2l", dict(network="ConvNetD2W4BN", squeeze="quick", classes_at_once=3, **settings)
        )
        task = RunTask(toy_data(), ipc, 7)
        monkeypatch.setattr(task, "teachers", lambda recipe: [teacher])
        return method, task, teacher

    def test_it_is_the_loop_written_out(self, monkeypatch):
        method, task, teacher = self.made(monkeypatch, iterations=5, lr=0.2, bn_weight=0.5, roll=(-1, 2))
        distilled = method.distill(task)
        settings = method.recovery(flip=True)
        images = distilled.tensors["images"].view(CLASSES, 2, *SHAPE)
        for number, run in itertools.product(range(2), (torch.tensor([0, 1, 2]), torch.tensor([3]))):
            chance = RunTask(toy_data(), 2, 7).rng(f"recover-{number}-{int(run[0])}")
            start = torch.randn(len(run), *SHAPE, generator=chance)
            want = plain_cell([teacher], [1.0], start, run, chance, settings, [0.08] * 5, teacher.space)
            assert torch.equal(images[run, number], to_bytes(want, teacher.space))

    def test_the_teacher_labels_and_the_ids_are_kept_beside_it(self, monkeypatch):
        method, task, teacher = self.made(monkeypatch, iterations=1)
        distilled = method.distill(task)
        assert distilled.targets.ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        (ref,) = distilled.targets.labeller.networks
        assert (ref.architecture, ref.source, ref.key) == ("ConvNetD2W4BN", "cache", teacher.fingerprint)
        assert distilled.tensors["images"].dtype == torch.uint8 and distilled.space.stored == "uint8"
        assert distilled.targets.labeller.space.same_inputs(distilled.space)

    def test_ids_are_different_and_fewer_of_them_are_the_first_of_more(self, monkeypatch):
        sets = []
        for ipc in (1, 3):
            method, task, _ = self.made(monkeypatch, ipc, iterations=3)
            sets.append(method.distill(task).tensors["images"].view(CLASSES, ipc, *SHAPE))
        assert torch.equal(sets[0][:, 0], sets[1][:, 0])
        assert not torch.equal(sets[1][:, 0], sets[1][:, 1])

    def test_digits_are_never_mirrored(self, monkeypatch):
        method, task, _ = self.made(monkeypatch, iterations=1)
        assert method.recovery(task.train.flip).flip and not method.recovery(toy_data(flip=False).flip).flip

    @pytest.mark.parametrize("channels", [1, 3])
    def test_images_may_go_through_the_jpeg_of_the_authors_files(self, channels):
        ramp = torch.arange(32).view(1, 1, 1, 32).expand(2, channels, 32, 32) * 8
        smooth = ramp.to(torch.uint8).contiguous()
        jpeg = kept(smooth, "jpeg75")
        assert jpeg.shape == smooth.shape and jpeg.dtype == torch.uint8
        apart = (jpeg.int() - smooth.int()).abs().float()
        assert 0 < apart.mean() < 4 and kept(smooth, "uint8") is smooth
        with pytest.raises(ValueError, match="stored is 'png'; expected uint8 or jpeg75"):
            kept(smooth, "png")

    def test_a_teacher_without_batch_norm_is_refused_before_anything_is_trained(self, monkeypatch):
        method = registry.make("sre2l", dict(network="ConvNetD2", squeeze="quick"))
        task = RunTask(toy_data(), 1, 0)
        monkeypatch.setattr(task, "teachers", lambda recipe: pytest.fail("trained"))
        with pytest.raises(ValueError, match="ConvNetD2 has no batch norm"):
            method.distill(task)


def test_rows_are_those_of_the_released_scripts():
    rows = registry.recipes("sre2l")
    table = {
        "imagenet1k": (100, 0.25, 4000, 0.01, (0, 32), True),
        "tiny_imagenet": (100, 0.1, 4000, 1.0, (-4, 4), True),
        "cifar100": (100, 0.25, 1000, 0.01, (0, 4), False),
        "cifar10": (10, 0.25, 1000, 0.01, (0, 4), False),
    }
    for dataset, (batch, lr, iterations, weight, roll, crop) in table.items():
        row = {k: v for k, v in rows["authors", dataset, None].items() if k != "source"}
        method = registry.make("sre2l", row)
        found = method.recovery(flip=True)
        assert (found.classes_at_once, found.lr, found.iterations, found.bn_weight) == (
            batch,
            lr,
            iterations,
            weight,
        )
        assert (found.roll, found.crop, found.flip, found.first_weight, found.milestone) == (
            roll,
            crop,
            crop,
            10.0,
            0.0,
        )
        assert (found.tv_weight, found.l2_weight) == (0.0, 0.0)
    assert rows["authors", "imagenet1k", None]["network"] == "torchvision:resnet18"


def test_teachers_are_squeezed_as_the_table_says():
    tiny = squeeze_recipe("sre2l", "ResNet18BN", "tiny_imagenet")
    assert (tiny.lr, tiny.momentum, tiny.weight_decay, tiny.batch, tiny.epochs) == (0.2, 0.9, 1e-4, 256, 50)
    assert (tiny.schedule, tiny.warmup, tiny.warmup_from, tiny.augment) == ("cosine", 5, 0.01, "resized-flip")
    assert (tiny.mean, tiny.std) == TINY
    cifar = squeeze_recipe("sre2l", "ResNet18BN", "cifar100")
    assert (cifar.lr, cifar.momentum, cifar.weight_decay, cifar.batch, cifar.epochs) == (
        0.1,
        0.9,
        5e-4,
        128,
        200,
    )
    assert (cifar.schedule, cifar.warmup, cifar.augment) == ("cosine", 0, "crop-flip")
    assert (cifar.mean, cifar.std) == CIFAR
    large = squeeze_recipe("sre2l", "ResNet18BN", "imagenet1k")
    assert (large.network, large.weights) == ("torchvision:resnet18", "IMAGENET1K_V1")
