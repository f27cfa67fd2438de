"""Networks of committees: the specs' counts, one forward each, sizes, and dropout with seeds of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from ddbench.nets import names
from ddbench.nets.build import build, embed, init_parameters, initialise_, multiply_adds, skeleton
from ddbench.nets.committee import MAKERS, Average, Dropout, _shuffled
from ddbench.nets.resnet import ResNet

CIFAR, MNIST, TINY, DIGITS = (3, 32, 32), (1, 28, 28), (3, 64, 64), (1, 8, 8)
NETWORKS = {
    # name: parameters for 10, 100, 200 classes (None: no source), batch norms, their channels, those of the first
    "ResNet18BN": ((11_173_962, 11_220_132, 11_271_432), 20, 4_800, 64),
    "ResNet50BN": ((23_520_842, 23_705_252, 23_910_152), 53, 26_560, 64),
    "ResNet101BN": ((42_512_970, 42_697_380, 42_902_280), 104, 52_672, 64),
    "MobileNetV2": ((2_296_922, 2_412_212, 2_540_312), 57, 17_544, 32),
    "ShuffleNetV2": ((352_042, 444_292, 546_792), 56, 3_976, 24),
    "DenseNet121": ((6_956_298, 7_048_548, 7_151_048), 120, 41_760, 64),
    "EfficientNetB0": ((3_599_686, 3_628_576, None), 49, 19_760, 32),
    "ShuffleNetG2": ((887_582, 959_672, None), 49, 9_888, 24),
}
WIDTHS = {
    **{"ResNet18BN": 512, "ResNet50BN": 2048, "ResNet101BN": 2048, "MobileNetV2": 1280},
    **{"ShuffleNetV2": 1024, "DenseNet121": 1024, "EfficientNetB0": 320, "ShuffleNetG2": 800},
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(shape, count=2, seed=0):
    return torch.randn(count, *shape, generator=seeded(seed))


def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def test_every_committee_network_is_listed_and_checked_here():
    assert set(MAKERS) < set(NETWORKS) < set(names.names())
    assert len(NETWORKS) == 8


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_batch_norms_are_those_of_the_papers(name):
    parameters, layers, channels, first = NETWORKS[name]
    for classes, count in zip((10, 100, 200), parameters, strict=True):
        for shape in (CIFAR, TINY):  # no count depends on the side
            net = skeleton(name, shape, classes)
            assert count is None or sum(p.numel() for p in net.parameters()) == count
    widths = [m.num_features for m in norms(net)]
    assert (len(widths), sum(widths), widths[0]) == (layers, channels, first)


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norms_run_in_the_order_in_which_they_are_registered(name):
    net = copy.deepcopy(skeleton(name, CIFAR, 10)).eval()
    registered, run = norms(net), []
    for norm in registered:
        norm.register_forward_hook(lambda module, _, out: run.append(module))
    net(torch.zeros(1, *CIFAR, device="meta"))
    if name == "EfficientNetB0":  # the expansion of its first block is there, but does not run
        left_out = registered.pop(1)
        assert left_out.num_features == 32
    assert len(run) == len(registered) and all(a is b for a, b in zip(run, registered, strict=True))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, CIFAR) for name in NETWORKS),
        *((n, TINY) for n in ("ResNet18BN", "ResNet50BN", "ShuffleNetV2", "MobileNetV2", "DenseNet121")),
    ],
)
def test_networks_run_and_embed_what_their_classifier_reads(name, shape):
    net = build(name, shape, 7, seeded(1)).eval()
    x = images(shape, count=1)
    sides = []
    handles = [
        m.register_forward_pre_hook(lambda _, inputs: sides.append(tuple(inputs[0].shape[2:])))
        for m in net.modules()
        if isinstance(m, Average)
    ]
    with torch.no_grad():
        features, logits = embed(net, x), net(x)
    for handle in handles:
        handle.remove()
    assert features.shape == (1, WIDTHS[name]) and logits.shape == (1, 7)
    assert torch.isfinite(logits).all()
    assert torch.equal(net.classifier(features), logits)
    halved = 16 if name == "EfficientNetB0" else 8
    assert set(sides) <= {(shape[1] // halved, shape[2] // halved)}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [DIGITS, MNIST, (3, 28, 28), (1, 32, 32), (3, 24, 40), (1, 7, 32)])
def test_other_sizes_run_or_are_refused_with_what_would_do(name, shape):
    least = 16 if name == "EfficientNetB0" else 8
    if min(shape[1:]) >= least:
        assert names.why_not(name, shape) is None
        net = skeleton(name, shape, 5)
        assert net(torch.zeros(2, *shape, device="meta")).shape == (2, 5)
        return
    fix = "use MLP, MobileNetV2 or ResNet18BN, which take 8x8," if min(shape[1:]) >= 8 else "use MLP"
    given = "x".join(map(str, shape))
    expected = f"{name} accepts sides from {least} on, not {given}; {fix} or a ConvNet"
    assert names.why_not(name, shape) == expected
    with pytest.raises(ValueError, match=f"^{expected}$"):
        build(name, shape, 5)


def test_a_resnet_of_50_layers_exists_with_batch_norm_only():
    with pytest.raises(LookupError, match=r"no network 'ResNet50'; nearest: .*ResNet50BN"):
        ResNet(CIFAR, 10, layers=50, norm="IN")


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_those_that_torch_counts(name):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(skeleton(name, CIFAR, 10)).eval()(torch.zeros(1, *CIFAR, device="meta"))
    assert 2 * multiply_adds(name, CIFAR, 10) == counter.get_total_flops()


def _torchvision(name):
    """The network of torchvision, with the stem for small images."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        if name == "ResNet50BN":
            net = models.resnet50(num_classes=10)
            net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        elif name == "ShuffleNetV2":
            net = models.shufflenet_v2_x0_5(num_classes=10)
            net.conv1[0].stride, net.maxpool = (1, 1), nn.Identity()
        else:
            net = models.densenet121(num_classes=10)
            net.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            net.features.norm0 = net.features.relu0 = net.features.pool0 = nn.Identity()
    return net


@pytest.mark.parametrize("name", ["ResNet50BN", "ShuffleNetV2", "DenseNet121"])
def test_with_equal_weights_the_logits_are_torchvisions(name):
    ours, theirs = build(name, CIFAR, 10, seeded(0)), _torchvision(name)
    with torch.no_grad():
        for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
            a.copy_(b)
        x = images((3, 16, 16), count=3)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)


def test_shuffling_takes_channels_of_all_groups_in_turn():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert _shuffled(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert _shuffled(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(_shuffled(x, 1), x)


@pytest.mark.parametrize("name", [n for n in MAKERS if n != "DenseNet121"])
def test_equal_seeds_give_equal_networks_of_pytorchs_laws(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (build(name, MNIST, 10, seeded(s)) for s in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    drawn = init_parameters(name, MNIST, 10, seeded(7))
    for (key, a), b in zip(one.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, drawn[key]), key
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    for module in one.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = module.weight[0].numel() ** -0.5
            assert 0.8 * bound < float(module.weight.detach().abs().max()) <= bound
    initialise_(other, seeded(7))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# dropout


def fresh(p=0.2, seed=0, rows=False):
    layer = Dropout(p, rows)
    layer.reseed(seeded(seed))
    return layer


def test_dropout_drops_its_share_and_scales_the_rest():
    x = torch.ones(200, 500)
    out = fresh()(x)
    assert set(out.unique().tolist()) == {0.0, 1.25}
    assert float((out == 0).float().mean()) == pytest.approx(0.2, abs=5 * (0.16 / 1e5) ** 0.5)
    for sums, n in (((out == 0).float().sum(0), 200), ((out == 0).float().sum(1), 500)):  # no stripes
        assert float(sums.var()) == pytest.approx(0.16 * n, rel=0.3)
    assert torch.equal(fresh().eval()(x), x) and torch.equal(fresh(0.0)(x), x)


def test_dropout_masks_follow_from_seed_and_pass():
    x = torch.ones(40, 50)
    one, same, other = fresh(0.5), fresh(0.5), fresh(0.5, seed=1)
    torch.manual_seed(0)
    first = [one(x) for _ in range(3)]
    torch.manual_seed(1)
    assert all(torch.equal(a, same(x)) for a in first)
    for a, b in ((first[0], first[1]), (first[1], first[2]), (first[0], other(x))):
        assert float((a == b).float().mean()) == pytest.approx(0.5, abs=0.06)  # independent
    assert one.passes == 3 and one.state_dict() == {}
    one.reseed(seeded(0))
    assert torch.equal(one(x), first[0])
    assert torch.equal(one.double()(x.double()), first[1].double())


def test_dropout_of_rows_keeps_or_drops_images():
    out = fresh(0.5, rows=True)(torch.ones(100, 2, 3, 3)).flatten(1)
    assert torch.equal(out, out[:, :1].expand(-1, 18))
    assert 30 <= int((out[:, 0] == 0).sum()) <= 70
    assert set(out.unique().tolist()) == {0.0, 2.0}


def test_stacked_dropouts_give_the_masks_of_single_ones():
    layers, x = [fresh(0.5, seed=s) for s in (1, 2)], torch.ones(6, 7)
    _, buffers = stack_module_state(layers)
    out = vmap(lambda b: functional_call(layers[0], b, (x,)))(buffers)
    assert torch.equal(out, torch.stack([layer(x) for layer in layers]))
    assert buffers["passes"].tolist() == [1, 1]


@pytest.mark.gpu
def test_dropout_masks_are_the_same_on_a_gpu():
    x, ours, theirs = torch.ones(300, 400), fresh(), fresh().cuda()
    for _ in range(3):
        assert torch.equal(ours(x), theirs(x.cuda()).cpu())


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_refuses_shares_out_of_range(p):
    with pytest.raises(ValueError, match=f"dropout probability is {p}; expected at least 0 and less than 1"):
        Dropout(p)


@pytest.mark.parametrize(
    "name", ["EfficientNetB0", "torchvision:mobilenet_v2", "torchvision:efficientnet_b0"]
)
def test_networks_with_dropout_train_the_same_whatever_the_global_random_state(name):
    x, found = images(CIFAR, count=3), []
    for state in (1, 2):
        torch.manual_seed(state)
        net = build(name, CIFAR, 10, seeded(5))
        before = torch.get_rng_state()
        with torch.no_grad():
            found.append((net(x), net(x)))
        assert torch.equal(before, torch.get_rng_state())
    (one, two), (again, also) = found
    assert torch.equal(one, again) and torch.equal(two, also)
    assert not torch.equal(one, two)
    initialise_(net, seeded(5))
    with torch.no_grad():
        assert torch.equal(net(x), one)
    assert not any("seed" in key or "passes" in key for key in net.state_dict())
    assert not any(type(m) is nn.Dropout for m in net.modules())


def test_efficientnet_has_one_dropout_of_a_fifth_before_its_classifier():
    (layer,) = (m for m in skeleton("EfficientNetB0", CIFAR, 10).modules() if isinstance(m, Dropout))
    assert (layer.p, layer.rows) == (0.2, False)
    net = build("EfficientNetB0", CIFAR, 10, seeded(0))
    features = net.embed(images(CIFAR))
    assert 0.1 < float((features == 0).float().mean()) < 0.3
