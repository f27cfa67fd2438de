"""Names of the networks, without torch: listing, checking, pools, and which image sides each accepts.

ConvNet names follow one grammar, each part optional and in this order::

    ConvNet[D<depth>][W<width>][AS|AR|AL|ASwish][NN|BN|LN|IN|GN][NP|MP|AP]

A: sigmoid, ReLU, leaky ReLU (slope 0.01), swish. N: no norm, batch, layer (over C, H, W), instance (GroupNorm
with one channel a group), GroupNorm with 4 groups. P: no, maximum, average pooling. What is left out is depth
3, width 128, ReLU, instance norm, average pooling; ``ConvNet`` and ``ConvNetD3IN`` are one network, whose
canonical name is ``ConvNet``. ``timm:NAME`` and ``torchvision:NAME`` are names too; those libraries check
NAME when the network is built.

Source: the networks of Zhao, Mopuri and Bilen, arXiv:2006.05929, and Zhao and Bilen, arXiv:2110.04181; those of CV-DD's
(arXiv:2501.07575) and INFER's (arXiv:2408.06927) committees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from ddbench.registry import nearest

Shape = tuple[int, int, int]

ACTIVATIONS = ("AR", "AS", "AL", "ASwish")
NORMS = ("IN", "NN", "BN", "LN", "GN")
POOLINGS = ("AP", "NP", "MP")

_FIXED = (
    "MLP",
    "LeNet",
    "AlexNet",
    "AlexNetBN",
    "VGG11",
    "VGG11BN",
    "ResNet18",
    "ResNet18BN",
    "ResNet18_AP",
    "ResNet18BN_AP",
    "ResNetAP10",
    *("ResNet50BN", "ResNet101BN"),
    *("MobileNetV2", "ShuffleNetV2", "DenseNet121", "EfficientNetB0", "ShuffleNetG2"),
)
_LARGE = {
    "ResNet18BN": "torchvision:resnet18",
    "ResNet50BN": "torchvision:resnet50",
    "ResNet101BN": "torchvision:resnet101",
    "MobileNetV2": "torchvision:mobilenet_v2",
    "ShuffleNetV2": "torchvision:shufflenet_v2_x1_0",
    "DenseNet121": "torchvision:densenet121",
    "EfficientNetB0": "torchvision:efficientnet_b0",
}
"""Networks for small images and what the field uses above 64 pixels."""
_BATCH_NORM_ONLY = ("ResNet50BN", "ResNet101BN")
_HALVINGS = {
    **dict.fromkeys(("MobileNetV2", "ShuffleNetV2", "DenseNet121", "ShuffleNetG2", *_BATCH_NORM_ONLY), 3),
    "EfficientNetB0": 4,
}
_CONVNETS = (
    *("ConvNet", "ConvNetD1", "ConvNetD2", "ConvNetD4", "ConvNetD5", "ConvNetD6"),
    *("ConvNetW32", "ConvNetW64", "ConvNetW256", "ConvNetAS", "ConvNetAL", "ConvNetASwish"),
    *("ConvNetNN", "ConvNetBN", "ConvNetLN", "ConvNetGN", "ConvNetNP", "ConvNetMP", "ConvNetASwishBN"),
)
LIBRARIES = ("timm", "torchvision")

GRAMMAR = "ConvNet[D<depth>][W<width>][AS|AR|AL|ASwish][NN|BN|LN|IN|GN][NP|MP|AP]"

POOLS: dict[str, list[str]] = {
    "M": ["MLP", "ConvNet", "LeNet", "AlexNet", "VGG11", "ResNet18"],
    "B": ["ConvNetBN", "ConvNetASwishBN", "AlexNetBN", "VGG11BN", "ResNet18BN"],
}
"""Cross-architecture pools: ``M`` (DC, DSA) and ``B`` (DM)."""

_TOKEN = re.compile(r"D(?P<D>[1-9]\d*)|W(?P<W>[1-9]\d*)|(?P<A>ASwish|AS|AR|AL)|(?P<N>[NBLIG]N)|(?P<P>[NMA]P)")


@dataclass(frozen=True)
class Variant:
    """What one ConvNet name says: depth and width (counts), activation, norm, pooling as in the grammar."""

    depth: int = 3
    width: int = 128
    activation: str = "AR"
    norm: str = "IN"
    pooling: str = "AP"

    def __post_init__(self) -> None:
        for field, value, valid in (
            ("activation", self.activation, ACTIVATIONS),
            ("norm", self.norm, NORMS),
            ("pooling", self.pooling, POOLINGS),
        ):
            if value not in valid:
                raise ValueError(f"ConvNet {field} is {value!r}; expected one of {', '.join(valid)}")
        if self.depth < 1 or self.width < 1:
            raise ValueError(f"ConvNet depth is {self.depth} and width {self.width}; both must be at least 1")
        if self.norm == "GN" and self.width % 4:
            raise ValueError(
                f"ConvNet width {self.width} cannot be split into the 4 groups of norm GN; "
                "use a multiple of 4"
            )

    @property
    def name(self) -> str:
        """The canonical name, which leaves out every default."""
        parts = [
            "" if self.depth == 3 else f"D{self.depth}",
            "" if self.width == 128 else f"W{self.width}",
            "" if self.activation == "AR" else self.activation,
            "" if self.norm == "IN" else self.norm,
            "" if self.pooling == "AP" else self.pooling,
        ]
        return "ConvNet" + "".join(parts)


def names() -> list[str]:
    """The documented names of our own networks; further ConvNets follow ``GRAMMAR``."""
    return [*_CONVNETS, *_FIXED]


def parse_convnet(name: str) -> Variant | None:
    """The variant that a ConvNet name means, or None when the name does not follow the grammar."""
    tokens = _tokens(name)
    if tokens is None or [k for k, _ in tokens] != sorted((k for k, _ in tokens), key="DWANP".index):
        return None
    return _variant(tokens)


def canonical(name: str) -> str:
    """The one spelling of a network's name: ``ConvNetD3W128`` -> ``ConvNet``.

    ``timm:NAME`` and ``torchvision:NAME`` pass unchecked, since checking them means importing torch.

    Raises:
        LookupError: no such network; the message names the nearest ones.
        ValueError: a ConvNet whose parts contradict each other (width 30 in 4 groups).
    """
    if name in _FIXED:
        return name
    library, colon, model = name.partition(":")
    if colon and library in LIBRARIES and model:
        return name
    variant = parse_convnet(name)
    if variant is None:
        unknown(name)
    return variant.name


def unknown(name: str, among: Iterable[str] | None = None, see: str = "ddbench list networks") -> NoReturn:
    """Raise the LookupError for a name that no network has, with up to three near names out of ``among``."""
    hint = ""
    if among is None:
        among = [*names(), *(f"{library}:" for library in LIBRARIES)]
        tokens = _tokens(name)
        if tokens:  # right parts in the wrong order
            hint = f"nearest: {_variant(tokens).name}"
    hint = hint or nearest(name, among)
    raise LookupError(f"no network {name!r}{'; ' + hint if hint else ''} (see: {see})")


def evaluation_mode(name: str, mode: str) -> str:
    """The network that judges a set distilled with network ``name``.

    Mode ``SS`` keeps the name. Mode ``S`` cuts it at "BN", and everything behind goes too, as in the
    published code: ConvNetBN -> ConvNet, AlexNetBN -> AlexNet (which has no norm), ResNet18BN_AP -> ResNet18
    (strided), ConvNetBNMP -> ConvNet. S is the default of DC and DSA, SS that of DM and DataDAM. ResNet50BN and
    ResNet101BN, which exist with batch norm only, keep their names.

    Raises:
        LookupError: no such network.
        ValueError: the mode is neither S nor SS.
    """
    if mode not in ("S", "SS"):
        raise ValueError(
            f"evaluation mode is {mode!r}; expected S or SS (pools {', '.join(POOLS)} are lists)"
        )
    name = canonical(name)
    if mode == "SS" or ":" in name or name in _BATCH_NORM_ONLY:
        return name
    return canonical(name.split("BN")[0])


def for_side(name: str, side: int) -> str:
    """A protocol's default network in the form that the field gives images of ``side`` pixels.

    A ConvNet where no depth is named: 3 blocks up to 32 pixels, 4 at 64, 5 at 128, 6 above.  A ResNet with batch norm or
    a committee's network: above 64 pixels torchvision's of that architecture (ShuffleNetV2 of width 1.0), except
    ShuffleNetG2, which has none.  All others stay as they are.
    """
    if side > 64 and name in _LARGE:
        return _LARGE[name]
    variant = parse_convnet(name)
    if variant is None or re.match(r"ConvNetD\d", name):
        return name
    depth = 3 if side <= 32 else 4 if side <= 64 else 5 if side <= 128 else 6
    return canonical(name.replace("ConvNet", f"ConvNetD{depth}", 1))


def first_padding(shape: Shape) -> int:
    """Padding of the first 3x3 convolution: 3 for 1x28x28 images, which so become 32x32; 1 for all others.

    The published code pads by 3 whenever there is one channel, because its only grey sets are 28x28; at other
    sides (digits, 8x8) that would only add empty border.
    """
    return 3 if tuple(shape) == (1, 28, 28) else 1


def why_not(name: str, shape: Shape) -> str | None:
    """None when network ``name`` accepts images of ``shape`` (C, H, W), otherwise the reason in words.

    LeNet, AlexNet and VGG11 have heads for 32x32 images, or 1x28x28 padded to that. ResNet18 averages its
    last maps, which at 32x32 is the published 4x4 pooling, and ResNet18_AP flattens them; ResNetAP10 averages them
    too, at a 32nd of the side: all take any image whose last maps have a pixel or, where norm is per image and map
    (IN), more than one: normed alone, a pixel is zero whatever the image shows. The deep ResNets and the committees'
    networks average their last maps, at an 8th of the side, EfficientNetB0 at a 16th. Networks of other libraries are
    tried out when they are built.
    """
    name = canonical(name)
    c, h, w = (int(n) for n in shape)
    given = f"{c}x{h}x{w}"
    if min(c, h, w) < 1:
        return f"{name} was given images of shape {given}; each number must be at least 1"
    variant = parse_convnet(name)
    if variant is not None:
        return convnet_why_not(variant, (c, h, w), first_padding((c, h, w)))
    if name.startswith(("LeNet", "AlexNet", "VGG11")):
        if (h, w) == (32, 32) or (c, h, w) == (1, 28, 28):
            return None
        return (
            f"{name} accepts 32x32 images or 1x28x28, not {given}; use MLP, ConvNet or ResNet18BN, or resize"
        )
    if name == "ResNetAP10":
        if min(h, w) >= 64:
            return None
        return f"{name} accepts sides from 64 on, not {given}; use ResNet18BN or a ConvNet, or resize"
    if name in _HALVINGS:
        least = 2 ** _HALVINGS[name]
        if min(h, w) >= least:
            return None
        other = ", MobileNetV2 or ResNet18BN, which take 8x8," if 8 <= min(h, w) else ""
        return f"{name} accepts sides from {least} on, not {given}; use MLP{other} or a ConvNet"
    if name.startswith("ResNet18"):
        pooled, batch = name.endswith("_AP"), "BN" in name
        least = 8 if batch else 16 if pooled else 9
        if min(h, w) >= least:
            return None
        other = " or ResNet18BN, which takes 8x8," if min(h, w) >= 8 else ""
        return f"{name} accepts sides from {least} on, not {given}; use MLP{other} or a ConvNet"
    return None


def convnet_why_not(variant: Variant, shape: Shape, padding: int) -> str | None:
    """As ``why_not``, for a ConvNet whose first convolution pads by ``padding`` pixels."""
    _, h, w = shape
    side = min(h, w) + 2 * (padding - 1)
    if variant.pooling == "NP":
        return None if side >= 1 else f"{variant.name} with first padding {padding} leaves nothing of {h}x{w}"
    if side >> variant.depth >= 1:
        return None
    most = max(side, 1).bit_length() - 1
    fix = f"use depth {most} (D{most}) or less" if most else "use larger images"
    return (
        f"{variant.name} halves its images {variant.depth} times, but {shape[0]}x{h}x{w} images "
        f"can be halved {most} times; {fix}, or no pooling (NP)"
    )


def _tokens(name: str) -> list[tuple[str, str]] | None:
    """The parts behind "ConvNet" as (group, text), in their order; None if one is strange or given twice."""
    if not name.startswith("ConvNet"):
        return None
    at, found = len("ConvNet"), []
    while at < len(name):
        match = _TOKEN.match(name, at)
        if match is None:
            return None
        group = str(match.lastgroup)
        found.append((group, match[group]))
        at = match.end()
    return found if len({group for group, _ in found}) == len(found) else None


def _variant(tokens: list[tuple[str, str]]) -> Variant:
    given = dict(tokens)
    return Variant(
        depth=int(given.get("D", 3)),
        width=int(given.get("W", 128)),
        activation=given.get("A", "AR"),
        norm=given.get("N", "IN"),
        pooling=given.get("P", "AP"),
    )
