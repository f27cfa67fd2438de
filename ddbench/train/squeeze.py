"""How the authors of teacher-labelled methods train their teachers ("squeeze"), by method and data set; and ``quick``, ours.

Nothing is held out in the authors' rows, as in their code: the accuracy of such a teacher is that on its training images, and
its test accuracy is measured beside it.  The augmentation mirrors only where the data set allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from ddbench import registry
from ddbench.contract import TeacherRecipe
from ddbench.nets.names import LIBRARIES, canonical, for_side

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR = dict(
    optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, batch=128, epochs=200, schedule="cosine", augment="crop-flip",
)  # fmt: skip
_SRE2L_CIFAR = dict(_CIFAR, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
_SRE2L_TINY = dict(
    optimiser="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, batch=256, epochs=50, schedule="cosine", warmup=5,
    warmup_from=0.01, augment="resized-flip",
)  # fmt: skip
_CVDD_CIFAR = dict(
    optimiser="adam", lr=1e-3, weight_decay=1e-4, batch=512, epochs=200, schedule="cosine", augment="crop-flip",
)  # fmt: skip
_CVDD_SGD = dict(IMAGENET, optimiser="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, schedule="cosine")
_RDED_LARGE = dict(
    IMAGENET, optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, batch=256, epochs=90, schedule="steps",
    milestones=(30, 60), gamma=0.1, augment="resized-flip",
)  # fmt: skip
_PUBLIC = dict(IMAGENET, weights="IMAGENET1K_V1")
_UNPUBLISHED = "the observers' flags are not published, 'following SRe2L'"


@dataclass(frozen=True)
class Row:
    """Fields of a TeacherRecipe, and where they are from."""

    fields: Mapping[str, Any]
    source: str


SQUEEZES: dict[str, dict[str, Row]] = {
    "sre2l": {
        "cifar10": Row(_SRE2L_CIFAR, "SRe2L repository, CIFAR-100 squeeze (it has none for CIFAR-10)"),
        "cifar100": Row(
            _SRE2L_CIFAR, "SRe2L repository, CIFAR-100 squeeze; the means are CIFAR-10's there too"
        ),
        "tiny_imagenet": Row(
            dict(_SRE2L_TINY, mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262)),
            "tiny-imagenet repository of SRe2L's authors, the 50-epoch teacher; arXiv:2306.13092",
        ),
        "imagenet1k": Row(_PUBLIC, "arXiv:2306.13092: torchvision's weights"),
    },
    "cvdd": {
        "cifar10": Row(
            dict(_CVDD_CIFAR, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
            "CV-DD repository, squeeze of CIFAR-10; arXiv:2501.07575",
        ),
        "cifar100": Row(
            dict(_CVDD_CIFAR, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
            "CV-DD repository, squeeze of CIFAR-100; arXiv:2501.07575",
        ),
        "tiny_imagenet": Row(
            dict(_CVDD_SGD, batch=128, epochs=50, augment="crop-flip"),
            "CV-DD repository, squeeze of Tiny-ImageNet, ImageNet's statistics; arXiv:2501.07575",
        ),
        "imagenette": Row(
            dict(_CVDD_SGD, batch=64, epochs=300, period=100, augment="resized-flip"),
            "CV-DD repository, squeeze of ImageNette (there at 224 pixels); its cosine has a period of 100 epochs",
        ),
        "imagenet1k": Row(_PUBLIC, "CV-DD repository: torchvision's weights"),
    },
    "infer": {
        "cifar10": Row(
            dict(_CIFAR, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
            "the companion repository of INFER's authors, ResNets; its deviations, not the (0.2023, ...) of the distillation: "
            "one standardisation for all stages",
        ),
        "cifar100": Row(
            dict(_CIFAR, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
            "the companion repository of INFER's authors, ResNets; arXiv:2408.06927",
        ),
        "imagenet1k": Row(_PUBLIC, "UFC repository: torchvision's weights"),
    },
    "rded": {
        "cifar10": Row(dict(_CIFAR, **IMAGENET), f"arXiv:2312.03526: {_UNPUBLISHED}; ImageNet's statistics"),
        "cifar100": Row(dict(_CIFAR, **IMAGENET), f"arXiv:2312.03526: {_UNPUBLISHED}; ImageNet's statistics"),
        "tiny_imagenet": Row(
            dict(_SRE2L_TINY, **IMAGENET), f"arXiv:2312.03526: {_UNPUBLISHED}; ImageNet's statistics"
        ),
        "imagenette": Row(
            _RDED_LARGE, f"arXiv:2312.03526: {_UNPUBLISHED}; torchvision's reference classification recipe"
        ),
        "imagewoof": Row(
            _RDED_LARGE, f"arXiv:2312.03526: {_UNPUBLISHED}; torchvision's reference classification recipe"
        ),
        "imagenet1k": Row(_PUBLIC, "RDED repository: torchvision's weights"),
    },
}
"""Recipes by name, then by data set; ``quick``, which has all data sets, is :func:`quick`'s."""
NAMES = (*SQUEEZES, "quick")


def quick(dataset: str) -> Row:
    """A CPU-sized recipe for any data set: at most 10,000 images or so, 5 to 20 epochs of SGD with a cosine.

    A tenth of what is trained on is held out.  No augmentation below 24 pixels, padded crops below 64, resized ones above;
    a data set that is not registered, whose size is not known, gets none, 10 epochs and 1,000 images a class.
    """
    base = dataset.partition("?")[0]
    known: Mapping[str, Any] = {}
    if base in registry.names("datasets"):
        known = registry.facts("datasets", base).keywords
    shape, classes, images = known.get("shape"), known.get("classes"), known.get("train")
    side = int(shape[-1]) if isinstance(shape, (tuple, list)) and shape else 0
    small = isinstance(images, int) and images <= 10_000
    fields: dict[str, Any] = dict(
        optimiser="sgd", lr=0.05, momentum=0.9, weight_decay=5e-4, batch=64, schedule="cosine", held_out=0.1,
        augment="none" if side < 24 else "crop-flip" if side < 64 else "resized-flip",
        epochs=20 if small else 5 if known else 10,
        per_class=None if small else max(10_000 // classes, 50) if isinstance(classes, int) else 1_000,
    )  # fmt: skip
    return Row(fields, "ours, for a CPU")


def squeeze_row(name: str, dataset: str) -> Row:
    """The row of a named recipe for a data set.

    Raises:
        LookupError: no such recipe, or none of that name for this data set; names those that there are.
    """
    if name == "quick":
        return quick(dataset)
    if name not in SQUEEZES:
        near = registry.nearest(name, NAMES) or f"expected one of {', '.join(NAMES)}"
        raise LookupError(f"no recipe {name!r} for teachers; {near}")
    rows = SQUEEZES[name]
    base = dataset.partition("?")[0]
    if base not in rows:
        raise LookupError(
            f"the recipe {name!r} for teachers has no row for {dataset}; it has {', '.join(rows)}; "
            f"'quick' is for any data set"
        )
    return rows[base]


def squeeze_name(name: str, own: str, dataset: str) -> str:
    """The named recipe that a method takes: ``auto`` is ``own`` where that has a row for the data set, else ``quick``."""
    if name != "auto":
        return name
    return own if dataset.partition("?")[0] in SQUEEZES[own] else "quick"


def squeeze_recipe(name: str, network: str, dataset: str) -> TeacherRecipe:
    """How a teacher is trained under a named recipe.

    Args:
        name: ``sre2l`` | ``cvdd`` | ``infer`` | ``rded`` (the authors' rows) | ``quick`` (ours, for any data set).
        network: its name.  Where a row takes public weights it is torchvision's network of that architecture.
        dataset: registered name, also with settings (``imagenette?resize=squash``), or ``imagefolder:PATH``.

    Raises:
        LookupError: no such recipe, network or data set, none of that name for this data set, or a network without public
            weights where the row takes them.
    """
    row = squeeze_row(name, dataset)
    settings = dict(held_out=0.0, **row.fields) if name != "quick" else dict(row.fields)
    network = canonical(network)
    if row.fields.get("weights"):
        large = for_side(network, 224)
        if large.partition(":")[0] not in LIBRARIES:
            raise LookupError(
                f"the recipe {name!r} takes public weights on {dataset}, and {network} has none; expected a network "
                f"torchvision:NAME, such as torchvision:resnet18"
            )
        network = large
    return TeacherRecipe(network=network, **settings)


def with_settings(recipe: TeacherRecipe, settings: Mapping[str, Any]) -> TeacherRecipe:
    """The recipe with some fields replaced; text is read as the field's type.

    Raises:
        LookupError: no such field; names the nearest.
        ValueError: a value that the field's type does not allow.
    """
    types = get_type_hints(TeacherRecipe)
    for name in settings:
        if name not in types:
            near = registry.nearest(name, types) or f"its fields: {', '.join(types)}"
            raise LookupError(f"a recipe of teachers has no field {name!r}; {near}")
    typed = {
        name: registry.coerce(f"setting {name!r} of teachers", value, types[name], "docs/teachers.md")
        for name, value in settings.items()
    }
    return replace(recipe, **typed)
