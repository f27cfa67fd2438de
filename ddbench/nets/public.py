"""Networks with public weights, which their library downloads when they are asked for and keeps.

A key is ``torchvision:NAME/WEIGHTS`` (``torchvision:resnet18/IMAGENET1K_V1``) or ``timm:NAME`` (``timm:resnet18.a1_in1k``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ddbench.nets.names import LIBRARIES, Shape


def key_of(network: str, weights: str) -> str:
    """The key of a network ``torchvision:NAME`` or ``timm:NAME`` with the weights of that name.

    Raises:
        LookupError: a network of no such library.
    """
    _split(network)
    return f"{network}{'/' if network.startswith('torchvision:') else '.'}{weights}"


def _split(key: str) -> tuple[str, str]:
    library, _, name = key.partition(":")
    if library not in LIBRARIES or not name:
        raise LookupError(
            f"public network {key!r} is of no known library; expected torchvision:NAME/WEIGHTS or timm:NAME"
        )
    return library, name


def _torchvision_weights(key: str, name: str) -> Any:
    """The entry of a torchvision weights enumeration."""
    from torchvision.models import get_model_weights, list_models  # heavy, and only here

    model, _, weights = name.partition("/")
    known = list_models()
    if model not in known:
        raise LookupError(f"torchvision has no network {model!r} (see: torchvision.models.list_models())")
    entries = get_model_weights(model)
    members = entries.__members__
    if (weights or "DEFAULT") not in members:
        raise LookupError(
            f"public weights {key!r}: {model} has no weights {weights!r}; expected one of {', '.join(members)}"
        )
    return members[weights or "DEFAULT"]


def _timm_config(name: str) -> Any:
    import timm

    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that the architecture does not have
        found = None
    if found is None:
        raise LookupError(f"timm has no weights {name!r} (see: timm.list_pretrained())")
    return found


def statistics(key: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation a channel, on the [0, 1] scale, that a public network's inputs are standardised by; None: its library
    does not say.  Downloads nothing.

    Raises:
        LookupError: an unknown library, network or weights.
    """
    library, name = _split(key)
    if library == "torchvision":
        said = _torchvision_weights(key, name).transforms()
    else:
        said = _timm_config(name)
    mean, std = getattr(said, "mean", None), getattr(said, "std", None)
    return None if mean is None or std is None else (tuple(mean), tuple(std))


def load(key: str) -> nn.Module:
    """A network with public weights, in train mode as its library gives it; downloaded once.

    Raises:
        LookupError: an unknown library.
        RuntimeError: the weights are not there and cannot be downloaded.
    """
    library, name = _split(key)
    network: nn.Module
    try:
        if library == "torchvision":
            from torchvision.models import get_model

            model, _, weights = name.partition("/")
            network = get_model(model, weights=weights or "DEFAULT")
        else:
            import timm

            network = timm.create_model(name, pretrained=True)
    except OSError as error:  # urllib's and the hub's errors are all of this kind
        raise RuntimeError(
            f"the public weights {key!r} cannot be downloaded ({error}); connect to the network once, or put the "
            f"file into {torch.hub.get_dir()}/checkpoints (torchvision) or the Hugging Face cache (timm)"
        ) from error
    return network


def check(
    key: str,
    shape: Shape,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    outputs: tuple[int, ...] | None = None,
    cure: str = "set mean and std of its recipe to its own",
) -> None:
    """What can be known of a public network before it is downloaded: whether it is for such images and classes.

    Args:
        shape: (C, H, W) of the images.
        classes: of the data set.
        mean, std: by which the inputs are standardised.
        outputs: the logits that are the classes (``NetworkRef.outputs``); None: all.
        cure: what to do about another standardisation.

    Raises:
        LookupError: an unknown library, network or weights.
        ValueError: another number of channels or classes, outputs that the network does not have, or another
            standardisation.
    """
    library, name = _split(key)
    if library == "torchvision":
        heads: int | None = len(_torchvision_weights(key, name).meta.get("categories", ())) or None
    else:
        heads = _timm_config(name).num_classes
    if shape[0] != 3:
        raise ValueError(f"the public network {key} is for 3 channels, but the images have {shape[0]}")
    if outputs is not None:
        if len(outputs) != classes:
            raise ValueError(
                f"{len(outputs)} outputs of the public network {key} are chosen, but the set has {classes} classes; expected "
                f"one logit a class"
            )
        wrong = [logit for logit in outputs if logit < 0 or (heads is not None and logit >= heads)]
        if wrong:
            raise ValueError(
                f"output {wrong[0]} of the public network {key} is chosen; expected "
                f"{'0 or more' if heads is None else f'0 to {heads - 1}'}"
            )
    elif heads is not None and heads != classes:
        raise ValueError(
            f"the public network {key} has {heads} classes, but the data set has {classes}; train a network on the data "
            f"set (no weights), or name the logits of its classes (outputs of a labeller's network)"
        )
    own = statistics(key)
    if own is not None and own != (tuple(mean), tuple(std)):
        raise ValueError(
            f"the public network {key} wants inputs of mean {own[0]} and deviation {own[1]}, but they would have "
            f"{tuple(mean)} and {tuple(std)}; {cure}"
        )
