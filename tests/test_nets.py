"""Networks: exact parameter counts, embeddings, initial laws, names, and what the engine needs of them."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from ddbench.nets import names
from ddbench.nets.build import build, embed, init_parameters, initialise_, skeleton
from ddbench.nets.convnet import ConvNet

CIFAR, MNIST, TINY, SUBSET, DIGITS = (3, 32, 32), (1, 28, 28), (3, 64, 64), (3, 128, 128), (1, 8, 8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(shape, count=2, seed=0, dtype=torch.float32):
    return torch.randn(count, *shape, generator=seeded(seed)).to(dtype)


COUNTS = [
    *[
        (name, CIFAR, 10, count)
        for name, count in {
            "MLP": 411_146,
            "ConvNet": 320_010,
            "LeNet": 62_006,
            "AlexNet": 1_872_202,
            "AlexNetBN": 1_874_122,
            "VGG11": 9_231_114,
            "VGG11BN": 9_231_114,
            "ResNet18": 11_173_962,
            "ResNet18BN": 11_173_962,
            "ResNet18_AP": 11_250_762,
            "ResNet18BN_AP": 11_250_762,
            "ConvNetD1": 331_530,
            "ConvNetD2": 233_610,
            "ConvNetD3": 320_010,
            "ConvNetD4": 452_490,
            "ConvNetW32": 24_714,
            "ConvNetW64": 86_282,
            "ConvNetW128": 320_010,
            "ConvNetW256": 1_229_834,
            "ConvNetNN": 319_242,
            "ConvNetBN": 320_010,
            "ConvNetGN": 320_010,
            "ConvNetMP": 320_010,
            "ConvNetLN": 663_306,
            "ConvNetNP": 1_610_250,
        }.items()
    ],
    ("ConvNet", CIFAR, 100, 504_420),
    ("AlexNet", CIFAR, 100, 2_148_772),
    ("VGG11", CIFAR, 100, 9_277_284),
    ("ResNet18", CIFAR, 100, 11_220_132),
    ("LeNet", CIFAR, 100, 69_656),
    ("MLP", CIFAR, 100, 422_756),
    ("MLP", MNIST, 10, 118_282),
    ("ConvNet", MNIST, 10, 317_706),
    ("LeNet", MNIST, 10, 61_706),
    ("AlexNet", MNIST, 10, 1_865_802),
    ("VGG11", MNIST, 10, 9_229_962),
    ("ResNet18", MNIST, 10, 11_172_810),
    ("ResNet18BN_AP", MNIST, 10, 11_213_770),
    ("ConvNet", TINY, 200, 1_938_120),
    ("ConvNetD4", TINY, 200, 857_160),
    ("ConvNetD5", SUBSET, 10, 615_690),
    ("ConvNetD6", SUBSET, 100, 794_340),
    ("ResNetAP10", (3, 224, 224), 10, 4_910_922),
]


@pytest.mark.parametrize(("name", "shape", "classes", "count"), COUNTS)
def test_parameter_count_is_the_published_one(name, shape, classes, count):
    net = skeleton(name, shape, classes)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count


def test_plain_convnet_has_14_tensors_in_the_order_of_published_trajectories():
    net = build("ConvNet", CIFAR, 10)
    assert [p.ndim for p in net.parameters()] == [4, 1, 1, 1] * 3 + [2, 1]
    assert sum(p.ndim > 1 for p in net.parameters()) == 4
    assert [(m.num_groups, m.eps) for m in net.modules() if isinstance(m, nn.GroupNorm)] == [(128, 1e-5)] * 3


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("MLP", CIFAR, 128),
        ("MLP", DIGITS, 128),
        ("LeNet", CIFAR, 84),
        ("LeNet", MNIST, 84),
        ("AlexNet", CIFAR, 3072),
        ("AlexNetBN", MNIST, 3072),
        ("VGG11", CIFAR, 512),
        ("VGG11BN", MNIST, 512),
        ("ResNet18", CIFAR, 512),
        ("ResNet18BN", MNIST, 512),
        ("ResNet18BN", DIGITS, 512),
        ("ResNet18_AP", CIFAR, 8192),
        ("ResNet18BN_AP", MNIST, 4608),
        ("ConvNet", CIFAR, 2048),
        ("ConvNet", MNIST, 2048),
        ("ConvNet", DIGITS, 128),
        ("ConvNetD2W32", DIGITS, 128),
        ("ConvNetNP", DIGITS, 8192),
        ("ConvNet", (3, 24, 40), 128 * 3 * 5),
        ("ResNetAP10", TINY, 512),
    ],
)
def test_embedding_is_flat_and_is_what_the_classifier_reads(name, shape, width):
    net = build(name, shape, 7, seeded(1))
    x = images(shape)
    features = net.embed(x)
    assert features.shape == (2, width)
    net.eval()
    assert torch.equal(net.classifier(net.embed(x)), net(x))
    assert net(x).shape == (2, 7)
    assert torch.equal(embed(net, x), net.embed(x))


@pytest.mark.parametrize("name", names.names())
def test_every_documented_network_is_canonical_and_trains_one_step(name):
    assert names.canonical(name) == name
    shape = {"ConvNetD6": SUBSET, "ResNetAP10": TINY}.get(name, CIFAR)
    net = build(name, shape, 10, seeded(0))
    F.cross_entropy(net(images(shape)), torch.tensor([1, 2])).backward()
    unused = ("trunk.3.expand.",) if name == "EfficientNetB0" else ()
    for key, p in net.named_parameters():
        assert (p.grad is None) == key.startswith(unused), key
        assert p.grad is None or torch.isfinite(p.grad).all(), key


def test_documented_networks_are_37():
    assert len(names.names()) == len(set(names.names())) == 37


def test_all_720_convnets_of_the_search_space_have_names_that_build():
    seen = set()
    for depth in (1, 2, 3, 4):
        for width in (32, 64, 128, 256):
            for activation in ("AS", "AR", "AL"):
                for norm in names.NORMS:
                    for pool in names.POOLINGS:
                        name = f"ConvNetD{depth}W{width}{activation}{norm}{pool}"
                        variant = names.parse_convnet(name)
                        assert variant == names.Variant(depth, width, activation, norm, pool)
                        assert names.parse_convnet(variant.name) == variant
                        seen.add(names.canonical(name))
                        if width == 32:
                            assert len(skeleton(name, CIFAR, 10).blocks) == depth
    assert len(seen) == 720


def test_convnet_variants_are_the_layers_that_they_name():
    net = build("ConvNetD2W64ASwishBNMP", CIFAR, 10)
    kinds = [type(m) for m in net.blocks[1].children()]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.SiLU, nn.MaxPool2d]
    assert net.blocks[1].conv.weight.shape == (64, 64, 3, 3)
    assert build("ConvNetAL", CIFAR, 10).blocks[0].activation.negative_slope == 0.01
    assert isinstance(build("ConvNetAS", CIFAR, 10).blocks[0].activation, nn.Sigmoid)
    assert build("ConvNetLN", CIFAR, 10).blocks[1].norm.normalized_shape == (128, 16, 16)
    assert build("ConvNetGN", CIFAR, 10).blocks[1].norm.num_groups == 4
    assert isinstance(build("ConvNetNN", CIFAR, 10).blocks[0].norm, nn.Identity)


def test_first_padding_is_3_for_grey_28_and_1_for_everything_else_unless_given():
    assert build("ConvNet", MNIST, 10).blocks[0].conv.padding == (3, 3)
    assert build("ConvNet", MNIST, 10).blocks[1].conv.padding == (1, 1)
    for shape in (DIGITS, CIFAR, (3, 28, 28), (1, 32, 32)):
        assert build("ConvNet", shape, 10).blocks[0].conv.padding == (1, 1)
    wide = ConvNet(DIGITS, 10, names.Variant(width=8), padding=3)
    assert wide.feature_maps(images(DIGITS))[0][0].shape == (2, 8, 12, 12)


def test_feature_maps_are_after_the_activation_and_before_the_pooling_of_each_block():
    net = build("ConvNetBN", CIFAR, 10, seeded(3))
    x = images(CIFAR)
    maps, last = net.feature_maps(x)
    assert [m.shape for m in maps] == [(2, 128, 32, 32), (2, 128, 16, 16), (2, 128, 8, 8)]
    assert all((m >= 0).all() for m in maps)
    assert torch.equal(maps[1], net.blocks[1](F.avg_pool2d(maps[0], 2)))
    assert torch.equal(last, F.avg_pool2d(maps[-1], 2).flatten(1))
    assert torch.equal(last, net.embed(x))
    assert [m.shape[2] for m in build("ConvNetD4", MNIST, 10).feature_maps(images(MNIST))[0]] == [
        32,
        16,
        8,
        4,
    ]


@pytest.mark.parametrize("name", ["ConvNet", "LeNet", "AlexNetBN", "VGG11", "ResNet18"])
def test_no_activation_works_in_place(name):
    for module in build(name, CIFAR, 10).modules():
        assert not getattr(module, "inplace", False)


@pytest.mark.parametrize("name", ["ResNet18", "ResNet18BN"])
@pytest.mark.parametrize("shape", [CIFAR, MNIST])
def test_resnet18_pools_4x4_windows_where_the_published_one_runs(name, shape):
    net = build(name, shape, 10, seeded(0)).eval()
    x = images(shape)
    maps = net.blocks(F.relu(net.norm(net.conv(x))))
    assert maps.shape[2:] == (4, 4)
    torch.testing.assert_close(net.embed(x), F.avg_pool2d(maps, 4).flatten(1))


def test_resnet18_with_instance_norm_still_sees_the_image_at_its_smallest_side():
    for name, side in (("ResNet18", 9), ("ResNet18_AP", 16), ("ResNet18BN", 8), ("ResNet18BN_AP", 8)):
        net = build(name, (1, side, side), 3, seeded(0))
        one, two = net(images((1, side, side), count=2))
        assert not torch.allclose(one, two), name


def test_resnet_ap10_pools_where_its_source_does_and_has_12_convolutions():
    net = skeleton("ResNetAP10", (3, 224, 224), 10)
    assert sum(p.dim() == 4 for p in net.parameters()) == 12
    assert all(m.stride == (1, 1) for m in net.modules() if isinstance(m, nn.Conv2d))
    net, sides = build("ResNetAP10", TINY, 3, seeded(0)), []
    for layer in (net.pool, *net.blocks):
        layer.register_forward_hook(lambda _m, _i, out: sides.append(tuple(out.shape[1:])))
    one, two = net(images(TINY))
    assert sides == [(64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert not torch.allclose(one, two)


def test_resnet_ap10_draws_normal_convolutions_by_their_outputs():
    net = build("ResNetAP10", TINY, 10, seeded(0))
    for key, p in net.named_parameters():
        values = p.detach().flatten()
        if p.dim() == 4:
            sigma = math.sqrt(2 / (p.shape[0] * p.shape[2] * p.shape[3]))
            assert float(values.std()) == pytest.approx(sigma, rel=5 / math.sqrt(2 * len(values))), key
            assert values.abs().max() > 3 * sigma, key  # no uniform law
    weight = net.classifier.weight.detach()
    assert 0.99 / math.sqrt(512) < float(weight.abs().max()) <= 1 / math.sqrt(512)
    drawn = init_parameters("ResNetAP10", TINY, 10, seeded(0))
    assert all(torch.equal(drawn[key], p) for key, p in net.named_parameters())


# weights


@pytest.mark.parametrize(
    "name", ["ConvNet", "MLP", "VGG11BN", "timm:resnet10t", "torchvision:mobilenet_v3_small"]
)
def test_equal_seeds_give_equal_weights_and_the_global_random_state_stays(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [build(name, CIFAR, 10, seeded(s)) for s in (7, 7, 8)]
    assert torch.equal(before, torch.get_rng_state())
    one, same, other = (nn.utils.parameters_to_vector(n.parameters()) for n in nets)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_weights_do_not_depend_on_the_global_seed_and_no_generator_means_seed_0():
    torch.manual_seed(1)
    one = build("ConvNet", DIGITS, 10)
    torch.manual_seed(2)
    two = build("ConvNet", DIGITS, 10, seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_one_generator_gives_a_new_network_at_each_call():
    rng = seeded(0)
    one, two = build("MLP", DIGITS, 10, rng), build("MLP", DIGITS, 10, rng)
    assert not torch.equal(one.classifier.weight, two.classifier.weight)


@pytest.mark.parametrize("name", ["ConvNet", "ConvNetLN", "LeNet", "AlexNetBN", "ResNet18BN"])
def test_initial_law_is_pytorchs_own_tensor_by_tensor(name):
    ours = build(name, CIFAR, 10, seeded(0))
    theirs = build(name, CIFAR, 10, seeded(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in theirs.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()
    for (key, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        a, b = a.detach().flatten(), b.detach().flatten()
        if a.unique().numel() == 1:
            assert torch.equal(a, b), key
            continue
        parent = ours.get_submodule(key.rpartition(".")[0])
        bound = 1 / math.sqrt(parent.weight[0].numel())
        assert a.abs().max() <= bound and b.abs().max() <= bound * (1 + 1e-6), key
        sigma = bound / math.sqrt(3)
        assert abs(a.mean()) < 5 * sigma / math.sqrt(len(a)), key
        assert a.std(unbiased=False) == pytest.approx(sigma, abs=5 * sigma / math.sqrt(len(a))), key
        if len(a) > 1000:
            assert a.abs().max() > 0.99 * bound, key
            grid = torch.linspace(0.05, 0.95, 19)
            some_a, some_b = a[:100_000], b[:100_000]  # quantile has a size limit
            gap = (some_a.quantile(grid) - some_b.quantile(grid)).abs()
            assert gap.max() < 10 * bound / math.sqrt(len(some_a)), key


def test_initialise_redraws_in_place_and_resets_running_statistics():
    net = build("ConvNetBN", DIGITS, 10, seeded(1))
    where = [p.data_ptr() for p in net.parameters()]
    net(images(DIGITS))
    net.blocks[0].norm.weight.data.fill_(3)
    assert net.blocks[0].norm.num_batches_tracked == 1
    initialise_(net, seeded(2))
    fresh = build("ConvNetBN", DIGITS, 10, seeded(2))
    assert [p.data_ptr() for p in net.parameters()] == where
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[key]), key
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


def test_initialise_draws_the_same_weights_in_float64():
    net = build("ConvNet", DIGITS, 10).double()
    initialise_(net, seeded(4))
    fresh = build("ConvNet", DIGITS, 10, seeded(4))
    assert all(torch.equal(a, b.double()) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))


def test_initialise_works_on_another_librarys_network_with_that_librarys_law():
    net = build("timm:resnet10t", CIFAR, 10, seeded(1))
    where = [p.data_ptr() for p in net.parameters()]
    net(images(CIFAR))
    initialise_(net, seeded(2))
    fresh = build("timm:resnet10t", CIFAR, 10, seeded(2)).state_dict()
    assert [p.data_ptr() for p in net.parameters()] == where
    assert all(torch.equal(tensor, fresh[key]) for key, tensor in net.state_dict().items())


def test_initialise_refuses_parameters_whose_law_it_does_not_know():
    net = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
    with pytest.raises(ValueError, match=r"initial law of 1.weight \(PReLU\) is not known; expected Linear"):
        initialise_(net, seeded(0))


@pytest.mark.parametrize("name", ["ConvNet", "ResNet18BN", "LeNet"])
def test_init_parameters_are_those_of_build_in_the_same_order(name):
    drawn = init_parameters(name, CIFAR, 10, seeded(9))
    built = dict(build(name, CIFAR, 10, seeded(9)).named_parameters())
    assert list(drawn) == list(built)
    assert all(torch.equal(drawn[key], built[key]) for key in built)


# transforms


@pytest.mark.parametrize("name", ["ConvNet", "ConvNetLN", "ConvNetD2W32ASwishGNMP", "MLP", "ResNet18"])
def test_stacked_students_give_the_losses_and_gradients_of_single_ones(name):
    shape = CIFAR if name == "ResNet18" else DIGITS
    drawn = [init_parameters(name, shape, 10, seeded(s)) for s in (1, 2)]
    stacked = {key: torch.stack([d[key] for d in drawn]).double() for key in drawn[0]}
    net = skeleton(name, shape, 10)
    x, y = images(shape, dtype=torch.float64), torch.tensor([3, 4])

    def loss(parameters, x):
        return F.cross_entropy(functional_call(net, parameters, (x,)), y)

    gradients = vmap(grad(loss), in_dims=(0, None))(stacked, x)
    for i, seed in enumerate((1, 2)):
        single = build(name, shape, 10, seeded(seed)).double()
        F.cross_entropy(single(x), y).backward()
        for key, p in single.named_parameters():
            torch.testing.assert_close(gradients[key][i], p.grad, msg=key)


def test_stacked_students_with_batch_norm_keep_their_own_running_statistics():
    nets = [build("ConvNetBN", DIGITS, 10, seeded(s)) for s in (1, 2)]
    parameters, buffers = stack_module_state(nets)
    net, x = skeleton("ConvNetBN", DIGITS, 10), images(DIGITS, count=4)
    logits = vmap(lambda p, b: functional_call(net, (p, b), (x,)))(parameters, buffers)
    for i, single in enumerate(nets):
        torch.testing.assert_close(logits[i], single(x))
        torch.testing.assert_close(
            buffers["blocks.0.norm.running_mean"][i], single.blocks[0].norm.running_mean
        )


def test_gradients_of_gradients_reach_the_images():
    net = build("ConvNetW32", DIGITS, 10).double()
    x = images(DIGITS, dtype=torch.float64).requires_grad_()
    inner = torch.autograd.grad(
        F.cross_entropy(net(x), torch.tensor([0, 1])), [*net.parameters()], create_graph=True
    )
    (outer,) = torch.autograd.grad(sum(g.square().sum() for g in inner), x)
    assert torch.isfinite(outer).all() and outer.abs().max() > 0


# other libraries


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm:resnet10t", (1, 32, 32)),
        ("timm:vit_tiny_patch16_224", CIFAR),
        ("timm:mobilenetv3_small_050", CIFAR),
        ("torchvision:mobilenet_v3_small", (1, 32, 32)),
        ("torchvision:shufflenet_v2_x0_5", CIFAR),
    ],
)
def test_networks_of_other_libraries_take_any_channels_and_embed_what_their_last_layer_reads(name, shape):
    net = build(name, shape, 7, seeded(0))
    assert net.training
    net.eval()
    x = images(shape)
    logits = net(x)
    assert logits.shape == (2, 7)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    torch.testing.assert_close(last(embed(net, x)), logits)


def test_embedding_hook_is_gone_afterwards():
    net = build("torchvision:shufflenet_v2_x0_5", CIFAR, 5, seeded(0))
    embed(net, images(CIFAR))
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_network_without_linear_layer_has_no_embedding():
    with pytest.raises(ValueError, match="Sequential has no linear layer, so no embedding; choose another"):
        embed(nn.Sequential(nn.Conv2d(1, 1, 1)), images(DIGITS))


def test_another_librarys_network_that_cannot_take_the_images_says_so():
    with pytest.raises(ValueError, match="torchvision:alexnet does not accept 3x32x32 images .*; choose"):
        build("torchvision:alexnet", CIFAR, 10)


@pytest.mark.parametrize(
    ("name", "near"), [("timm:resnet18s", "timm:resnet18"), ("torchvision:resnet81", "torchvision:resnet18")]
)
def test_unknown_names_of_other_libraries_get_near_ones(name, near):
    with pytest.raises(LookupError, match=rf"no network '{name}'; nearest: .*{near}.* \(see: "):
        build(name, CIFAR, 10)


# names


def test_canonical_leaves_out_every_default():
    assert names.canonical("ConvNetD3W128ARINAP") == "ConvNet"
    assert names.canonical("ConvNetD3BN") == "ConvNetBN"
    assert names.canonical("ConvNetD4W64ALGNMP") == "ConvNetD4W64ALGNMP"
    assert names.canonical("timm:resnet18") == "timm:resnet18"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ConvNt", r"^no network 'ConvNt'; nearest: ConvNet.* \(see: ddbench list networks\)$"),
        ("resnet18", r"^no network 'resnet18'; nearest: ResNet18, .* \(see: ddbench list networks\)$"),
        ("ConvNetBND4", r"^no network 'ConvNetBND4'; nearest: ConvNetD4BN \(see: ddbench list networks\)$"),
        ("ConvNetD0", r"^no network 'ConvNetD0'; nearest: ConvNetD\d"),
        ("ConvNetBNBN", r"^no network 'ConvNetBNBN'; nearest: .*ConvNetBN"),
        ("zzz", r"^no network 'zzz' \(see: ddbench list networks\)$"),
        ("timm:", r"^no network 'timm:'; nearest: timm: \(see"),
        ("", r"^no network '' \(see"),
    ],
)
def test_an_unknown_network_gets_the_nearest_names(name, message):
    with pytest.raises(LookupError, match=message):
        names.canonical(name)
    with pytest.raises(LookupError, match=message):
        build(name, CIFAR, 10)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "ConvNetD4",
            DIGITS,
            r"^ConvNetD4 halves its images 4 times, but 1x8x8 images can be halved 3 times; "
            r"use depth 3 \(D3\) or less, or no pooling \(NP\)$",
        ),
        ("ConvNetD5", (3, 28, 28), "3x28x28 images can be halved 4 times; use depth 4"),
        ("ConvNetD6", MNIST, "1x28x28 images can be halved 5 times; use depth 5"),
        ("LeNet", DIGITS, "^LeNet accepts 32x32 images or 1x28x28, not 1x8x8; use MLP, ConvNet"),
        ("AlexNetBN", TINY, "^AlexNetBN accepts 32x32 images or 1x28x28, not 3x64x64"),
        ("VGG11", (3, 28, 28), "^VGG11 accepts 32x32 images or 1x28x28, not 3x28x28"),
        (
            "ResNet18",
            DIGITS,
            "^ResNet18 accepts sides from 9 on, not 1x8x8; use MLP or ResNet18BN, which",
        ),
        ("ResNet18_AP", DIGITS, "^ResNet18_AP accepts sides from 16 on, not 1x8x8"),
        ("ResNetAP10", CIFAR, "^ResNetAP10 accepts sides from 64 on, not 3x32x32; use ResNet18BN or a Conv"),
        ("ResNet18BN", (3, 7, 7), "^ResNet18BN accepts sides from 8 on, not 3x7x7; use MLP or a ConvNet$"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_what_would(name, shape, message):
    with pytest.raises(ValueError, match=message):
        build(name, shape, 10)
    assert names.why_not(name, shape) is not None


def test_why_not_agrees_with_building_for_every_network_and_shape():
    for name in names.names():
        for shape in (DIGITS, MNIST, CIFAR, (1, 32, 32), (3, 28, 28), TINY, (3, 3, 3), (3, 16, 9)):
            if names.why_not(name, shape) is None:
                skeleton(name, shape, 10)
            else:
                with pytest.raises(ValueError, match=rf"^{name} "):
                    skeleton(name, shape, 10)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"width 30 cannot be split into the 4 groups of norm GN; use a mul"):
        names.canonical("ConvNetW30GN")
    with pytest.raises(ValueError, match=r"image shape is \(3, 32\); expected \(C, H, W\), each at least 1"):
        build("MLP", (3, 32), 10)
    with pytest.raises(ValueError, match="classes is 0; expected at least 1"):
        build("MLP", CIFAR, 0)
    with pytest.raises(ValueError, match="ConvNet norm is 'instance'; expected one of IN, NN, BN, LN, GN"):
        names.Variant(norm="instance")
    with pytest.raises(ValueError, match="depth is 0 and width 128; both must be at least 1"):
        names.Variant(depth=0)
    with pytest.raises(ValueError, match="is for ddbench's own networks, not 'timm:resnet18'"):
        init_parameters("timm:resnet18", CIFAR, 10)


@pytest.mark.parametrize(
    ("name", "single", "same"),
    [
        ("ConvNetBN", "ConvNet", "ConvNetBN"),
        ("ConvNetASwishBN", "ConvNetASwish", "ConvNetASwishBN"),
        ("ConvNetD4BN", "ConvNetD4", "ConvNetD4BN"),
        ("ConvNetBNMP", "ConvNet", "ConvNetBNMP"),
        ("VGG11BN", "VGG11", "VGG11BN"),
        ("AlexNetBN", "AlexNet", "AlexNetBN"),
        ("ResNet18BN_AP", "ResNet18", "ResNet18BN_AP"),
        ("ResNet18_AP", "ResNet18_AP", "ResNet18_AP"),
        ("ConvNet", "ConvNet", "ConvNet"),
        ("ResNet50BN", "ResNet50BN", "ResNet50BN"),
        ("ResNet101BN", "ResNet101BN", "ResNet101BN"),
        ("DenseNet121", "DenseNet121", "DenseNet121"),
        ("timm:resnet18", "timm:resnet18", "timm:resnet18"),
    ],
)
def test_evaluation_mode_s_cuts_at_bn_and_ss_keeps_the_name(name, single, same):
    assert names.evaluation_mode(name, "S") == single
    assert names.evaluation_mode(name, "SS") == same


def test_evaluation_mode_refuses_other_modes_and_names():
    with pytest.raises(ValueError, match=r"mode is 'M'; expected S or SS \(pools M, B are lists\)"):
        names.evaluation_mode("ConvNet", "M")
    with pytest.raises(LookupError, match="no network 'ConvNt'"):
        names.evaluation_mode("ConvNt", "S")


def test_pools_hold_known_names():
    assert names.POOLS["M"] == ["MLP", "ConvNet", "LeNet", "AlexNet", "VGG11", "ResNet18"]
    assert names.POOLS["B"] == ["ConvNetBN", "ConvNetASwishBN", "AlexNetBN", "VGG11BN", "ResNet18BN"]
    assert all(names.canonical(n) == n for pool in names.POOLS.values() for n in pool)


def test_names_are_listed_without_torch():
    code = "import sys, ddbench.nets.names as n; n.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "side", "found"),
    [
        ("ConvNet", 32, "ConvNet"),
        ("ConvNet", 64, "ConvNetD4"),
        ("ConvNetBN", 64, "ConvNetD4BN"),
        ("ConvNet", 128, "ConvNetD5"),
        ("ConvNet", 224, "ConvNetD6"),
        ("ConvNetD2W32", 64, "ConvNetD2W32"),
        ("MLP", 64, "MLP"),
        ("ResNet18", 224, "ResNet18"),
        ("ResNet18BN", 64, "ResNet18BN"),
        ("ResNet18BN", 65, "torchvision:resnet18"),
        ("ResNet18BN", 224, "torchvision:resnet18"),
        ("ResNet50BN", 128, "torchvision:resnet50"),
        ("ResNet101BN", 224, "torchvision:resnet101"),
        ("ResNet101BN", 32, "ResNet101BN"),
        ("MobileNetV2", 224, "torchvision:mobilenet_v2"),
        ("ShuffleNetV2", 224, "torchvision:shufflenet_v2_x1_0"),
        ("DenseNet121", 224, "torchvision:densenet121"),
        ("EfficientNetB0", 224, "torchvision:efficientnet_b0"),
        ("ShuffleNetG2", 224, "ShuffleNetG2"),
        ("torchvision:resnet18", 32, "torchvision:resnet18"),
    ],
)
def test_a_default_network_gets_the_fields_form_for_the_image_side(name, side, found):
    assert names.for_side(name, side) == found
