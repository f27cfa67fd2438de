"""Networks from names, and their weights from a generator: same name, shape and seed, same bits.

Our own networks get PyTorch's default laws: weights and biases of convolutions and linear layers uniform in
+-1/sqrt(fan_in), norms 1 and 0; those with ``normal_convolutions`` draw the weights of convolutions from
N(0, 2 / (k * k * outputs)) instead. Networks of timm and torchvision keep the laws of their library. The global
random state is left as it was, whichever is built, and nothing is ever downloaded. Dropout, in networks of torchvision
stochastic depth too, is seeded with the weights (``committee.Dropout``).
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
from torch import nn

from ddbench.compute import to_device
from ddbench.nets import classic, names
from ddbench.nets.committee import MAKERS, Dropout
from ddbench.nets.convnet import ConvNet
from ddbench.nets.names import Shape
from ddbench.nets.resnet import ResNet, ResNetAP10

_SEED_IF_NONE = 0
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)


def build(name: str, shape: Shape, classes: int, generator: torch.Generator | None = None) -> nn.Module:
    """A fresh float32 network on the CPU, in train mode.

    Args:
        name: one of ``names.names()``, any ConvNet of the grammar, ``timm:NAME`` or ``torchvision:NAME``.
        shape: (C, H, W) of the images.
        classes: number of logits, K.
        generator: draws the weights; None stands for a new generator with seed 0.

    Returns:
        a module with ``forward(x)`` -> logits (N, K); for its embedding use ``embed(net, x)``.

    Raises:
        LookupError: no such network; the message names the nearest.
        ValueError: the network does not accept such images, or a number is not positive.
    """
    shape = _checked(shape, classes)
    generator = _or_default(generator)
    if ":" in names.canonical(name):
        return _from_library(name, shape, classes, generator)
    net = copy.deepcopy(skeleton(name, shape, classes)).to_empty(device="cpu")
    initialise_(net, generator)
    return net


def skeleton(name: str, shape: Shape, classes: int) -> nn.Module:
    """One of our own networks on the meta device: no memory, no weights; for ``torch.func.functional_call``.

    The same object is handed out each time; do not change it. Raises as ``build`` does.
    """
    return _skeleton(names.canonical(name), _checked(shape, classes), classes)


def architecture(network: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A module that shows the layers; on the meta device where it is one of ours."""
    return build(network, shape, classes) if ":" in network else skeleton(network, shape, classes)


@functools.lru_cache(maxsize=64)
def multiply_adds(network: str, shape: tuple[int, int, int], classes: int) -> float:
    """Multiply-adds of convolutions and linear layers in one image's forward pass."""
    net = copy.deepcopy(architecture(network, shape, classes)).eval()
    total = 0.0

    def count(layer: nn.Conv2d | nn.Linear, _: Any, out: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        total += weight[0].numel() * (out[0].numel() if isinstance(layer, nn.Conv2d) else out.numel())

    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, *shape, device=next(net.parameters()).device))
    return total


@functools.lru_cache(maxsize=64)
def trains_on_one(network: str, shape: tuple[int, int, int], classes: int) -> bool:
    """Whether a network in train mode takes a batch of one image: batch norm has no statistics of a single value a channel.

    What else such images may be to it does not matter here (``names.why_not``).
    """
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):  # dropout of a library draws from the global state
        try:
            net = copy.deepcopy(architecture(network, shape, classes)).train()
            net(torch.zeros(1, *shape, device=next(net.parameters()).device))
        except ValueError as error:
            return "more than 1 value per channel" not in str(error)
    return True


def initialise_(net: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of ``net`` anew, in place, reset its running statistics and seed its dropout anew.

    Storage stays where it is, so compiled and captured networks see the new weights. Draws are made in
    float32 on the generator's device, hence equal for every dtype and device of the network.

    Raises:
        ValueError: the network is not from ``build`` and has parameters whose law is not known here.
    """
    origin = getattr(net, "ddbench_origin", None)
    with torch.no_grad():
        if origin is not None:  # another library's laws: build again, copy over
            name, shape, classes = origin
            fresh = build(name, shape, classes, generator)
            theirs = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
            for key, tensor in (*net.named_parameters(), *net.named_buffers()):
                tensor.copy_(theirs[key])
            return
        parameters = dict(net.named_parameters())
        device = next(iter(parameters.values())).device if parameters else generator.device
        for key, drawn in _draw(net, generator, device).items():
            parameters[key].copy_(drawn)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
            elif isinstance(module, Dropout):
                module.reseed(generator)


def init_parameters(
    name: str, shape: Shape, classes: int, generator: torch.Generator | None = None
) -> dict[str, torch.Tensor]:
    """The parameters of ``build(name, shape, classes, generator)`` by name, without the network.

    Float32, on the generator's device, for stacking students: ``torch.stack`` them by name and run
    ``skeleton(...)`` through ``torch.func.functional_call``. For our own networks only; buffers (batch norm)
    are not among them. Raises as ``build`` does.
    """
    if ":" in name:
        raise ValueError(f"init_parameters is for ddbench's own networks, not {name!r}; use build")
    net = skeleton(name, shape, classes)
    generator = _or_default(generator)
    drawn = _draw(net, generator, generator.device)
    return {key: drawn[key] for key, _ in net.named_parameters()}


def embed(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) to the flat input (N, d) of the network's last linear layer.

    Uses ``net.embed`` where it exists, timm's ``forward_features`` and ``forward_head(pre_logits=True)``
    next, else records what reaches the last ``nn.Linear`` (torchvision).

    Raises:
        ValueError: the network has none of these.
    """
    if callable(getattr(net, "embed", None)):
        out: torch.Tensor = net.embed(x)  # type: ignore[operator]
        return out
    if callable(getattr(net, "forward_head", None)) and callable(getattr(net, "forward_features", None)):
        features = net.forward_features(x)  # type: ignore[operator]
        out = net.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return out.flatten(1)
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(net).__name__} has no linear layer, so no embedding; choose another network")
    seen: list[torch.Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        net(x)
    finally:
        handle.remove()
    return seen[-1].flatten(1)


def _checked(shape: Shape, classes: int) -> Shape:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"image shape is {tuple(shape)}; expected (C, H, W), each at least 1")
    if classes < 1:
        raise ValueError(f"classes is {classes}; expected at least 1")
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def _or_default(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(_SEED_IF_NONE) if generator is None else generator


@functools.lru_cache(maxsize=64)
def _skeleton(name: str, shape: Shape, classes: int) -> nn.Module:
    with torch.device("meta"):
        return _construct(name, shape, classes)


def _construct(name: str, shape: Shape, classes: int) -> nn.Module:
    variant = names.parse_convnet(name)
    if variant is not None:
        return ConvNet(shape, classes, variant)
    if name == "MLP":
        return classic.mlp(shape, classes)
    if name == "LeNet":
        return classic.lenet(shape, classes)
    if name == "ResNetAP10":
        return ResNetAP10(shape, classes)
    if name in MAKERS:
        return MAKERS[name](shape, classes)
    batch = "BN" in name
    if name.startswith("AlexNet"):
        return classic.alexnet(shape, classes, norm="BN" if batch else "NN")
    if name.startswith("VGG11"):
        return classic.vgg11(shape, classes, norm="BN" if batch else "IN")
    layers = int(name.removesuffix("_AP").removesuffix("BN").removeprefix("ResNet"))
    return ResNet(shape, classes, layers, norm="BN" if batch else "IN", pooled=name.endswith("_AP"))


def _draw(net: nn.Module, generator: torch.Generator, device: torch.device) -> dict[str, torch.Tensor]:
    """Every parameter of ``net`` drawn anew, on ``device``; one call of the generator for all of a law together."""
    bounded: list[tuple[str, torch.Size, float]] = []
    normal: list[tuple[str, torch.Size, float]] = []
    drawn: dict[str, torch.Tensor] = {}
    normal_convolutions = getattr(net, "normal_convolutions", False)
    for prefix, module in net.named_modules():
        own = dict(module.named_parameters(prefix, recurse=False))
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for key, p in own.items():
                if normal_convolutions and p.dim() == 4:
                    normal.append((key, p.shape, math.sqrt(2 / p[:, 0].numel())))
                else:
                    bounded.append((key, p.shape, bound))
        elif isinstance(module, _NORMS):
            for key, p in own.items():
                fill = 1.0 if key.endswith("weight") else 0.0
                drawn[key] = torch.full(p.shape, fill, dtype=torch.float32, device=device)
        elif own:
            raise ValueError(
                f"the initial law of {', '.join(own)} ({type(module).__name__}) is not known; "
                "expected Linear, Conv2d, GroupNorm, LayerNorm and BatchNorm2d only"
            )
    for members in (bounded, normal):
        lengths = [size.numel() for _, size, _ in members]
        flat = torch.empty(sum(lengths), dtype=torch.float32, device=generator.device)
        if members is bounded:
            flat.uniform_(-1, 1, generator=generator)
        else:
            flat.normal_(generator=generator)
        for (_, _, scale), piece in zip(members, torch.split(flat, lengths), strict=True):
            piece.mul_(scale)
        flat = to_device(flat, device)  # one transfer, not one a tensor
        for (key, size, _), piece in zip(members, torch.split(flat, lengths), strict=True):
            drawn[key] = piece.view(size)
    return drawn


def _from_library(name: str, shape: Shape, classes: int, generator: torch.Generator) -> nn.Module:
    library, _, model = name.partition(":")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    make = _timm if library == "timm" else _torchvision
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        try:
            net = make(model, shape, classes)
            _seed_dropout(net)
            net.eval()
            with torch.no_grad():
                out = net(torch.zeros(1, *shape))
        except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name} does not accept {'x'.join(map(str, shape))} images ({error}); "
                "choose another network or resize the images"
            ) from error
    if not isinstance(out, torch.Tensor) or out.shape != (1, classes):
        raise ValueError(f"{name} does not give logits of shape (N, {classes}); choose another network")
    net.ddbench_origin = (name, shape, classes)  # type: ignore[assignment]
    return net.train()


def _seed_dropout(net: nn.Module) -> None:
    """Put :class:`Dropout` in the place of modules that would draw from the global random state."""
    from torchvision.ops import StochasticDepth

    for path, module in list(net.named_modules()):
        if isinstance(module, (nn.Dropout, StochasticDepth)) and module.p > 0:
            seeded = Dropout(module.p, rows=isinstance(module, StochasticDepth))
            seeded.reseed(torch.default_generator)
            setattr(net.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], seeded)


def _timm(model: str, shape: Shape, classes: int) -> nn.Module:
    import timm  # heavy, and needed for such names only

    if not timm.is_model(model):
        names.unknown(f"timm:{model}", (f"timm:{m}" for m in timm.list_models()), "timm.list_models()")
    options: dict[str, Any] = {}
    config = timm.models.get_pretrained_cfg(model)
    if config is not None and config.fixed_input_size:
        options["img_size"] = shape[1:]
    net: nn.Module = timm.create_model(
        model, pretrained=False, num_classes=classes, in_chans=shape[0], **options
    )
    return net


def _torchvision(model: str, shape: Shape, classes: int) -> nn.Module:
    """A classifier of torchvision; unless C is 3, its first convolution is a new one of PyTorch's law."""
    from torchvision import models  # heavy, and needed for such names only

    known = models.list_models(module=models)
    if model not in known:
        names.unknown(
            f"torchvision:{model}", (f"torchvision:{m}" for m in known), "torchvision.models.list_models()"
        )
    options: dict[str, Any] = {}
    if model.startswith("vit_"):
        options["image_size"] = shape[1]
    elif model.startswith("maxvit"):
        options["input_size"] = shape[1:]
    elif model in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=True)
    net: nn.Module = models.get_model(model, weights=None, num_classes=classes, **options)
    if shape[0] != 3:
        path, conv = next((p, m) for p, m in net.named_modules() if isinstance(m, nn.Conv2d))
        parent = net.get_submodule(path.rpartition(".")[0])
        changed = nn.Conv2d(
            shape[0],
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        setattr(parent, path.rpartition(".")[2], changed)
    return net
