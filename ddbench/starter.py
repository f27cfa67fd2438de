"""What ``ddbench new-method NAME`` writes: a small method that works, with comments that teach, and its test."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

import ddbench
from ddbench import registry, store

_METHOD = '''\
"""Class means (replace this line: it is what `ddbench list methods` shows): images whose class means match real ones.

Source: authors, "title", venue and year, arXiv number, the section or algorithm that this file follows.
Departures: each difference from the paper or its code, or "none".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ddbench.contract import DistilledSet, Task
from ddbench.registry import method


# family: the group on the boards.  paper: "arXiv:2006.05929".  labels: "hard" (class ids), "soft" or "labeller".
@method(family="example", paper="", labels="hard")
@dataclass(frozen=True)
class @CLASS@:
    # Each setting is a field with a default, and a string that becomes its help.  Units in the string, please.
    # All of them can be set from outside:  ddbench run --method @NAME@ --set iterations=100
    iterations: int = 50
    """Gradient steps (count)."""
    lr: float = 0.2
    """SGD step on standardised pixels (dimensionless)."""
    batch: int = 64
    """Real images of each class a step (count)."""

    def distill(self, task: Task) -> DistilledSet:
        # task.train: the real training images (ImageData, uint8).  Test images are not here, and stay unseen.
        # task.rng(name): the only source of chance; one generator a name, the same for the same seed.
        train = task.train
        pools = [train.of_class(c) for c in range(train.classes)]
        ids = torch.arange(train.classes, device=task.device).repeat_interleave(task.ipc)
        noise = torch.randn((len(ids), *train.shape), generator=task.rng("initial"))
        images = noise.to(task.device).requires_grad_()
        optimiser = torch.optim.SGD([images], lr=self.lr)
        picks = task.rng("batches")

        # The one loop: it saves and restores `state` (and every generator), keeps the time budget, shows progress.
        for _ in task.loop(self.iterations, state=[images, optimiser]):
            loss = torch.zeros((), device=task.device)
            for c, pool in enumerate(pools):
                chosen = pool[torch.randint(len(pool), (self.batch,), generator=picks)]
                pixels = train.images[chosen.to(train.images.device)].to(task.device)
                real = train.space.real_to_input(pixels)  # uint8 -> network inputs; never implicit
                # Every synthetic batch passes through task.view, so that wrappers (wrapper+@NAME@) work.
                synthetic, _ = task.view(images[ids == c], ids[ids == c])
                loss = loss + task.ipc * (real.mean(0) - synthetic.mean(0)).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            task.log(loss=float(loss.detach()))

        # What is not named takes the common form: images as network inputs, one item an image, class ids as targets.
        return task.distilled(images=images.detach(), ids=ids)


# Settings for one (recipe, data set, ipc); None fits any.  "authors" rows come first where they fit.  Keep to literals,
# dict(...) and arithmetic: the rows are read without running this file.  Each row says where its values are from.
RECIPES = {
    ("cpu", "digits", None): dict(iterations=50, batch=32, source="ours"),
}
'''

_TEST = '''\
"""The method @NAME@.  Tests have sentences for names; add the paper's own numbers where it states some."""

from __future__ import annotations
@IMPORTS@
import pytest
import torch

import ddbench
from ddbench import data, registry
from ddbench.contract import DistilledSet
@ADD@

def distill(seed: int = 0, ipc: int = 2, **settings: object) -> DistilledSet:
    """A set from the bundled 8x8 digits; a few steps, to be quick."""
    settings = {"iterations": 5, **settings}
    return ddbench.distill("@NAME@", "digits", ipc, seed=seed, settings=settings, device="cpu", quiet=True)


def test_@NAME@_makes_ipc_images_of_each_class() -> None:
    made = distill(ipc=2)
    assert made.tensors["images"].shape == (20, 1, 8, 8)
    assert made.targets.ids is not None
    assert torch.bincount(made.targets.ids.cpu()).tolist() == [2] * 10


def test_@NAME@_gives_the_same_images_for_the_same_seed_only() -> None:
    first = distill(seed=7).tensors["images"]
    assert torch.equal(first, distill(seed=7).tensors["images"])
    assert not torch.equal(first, distill(seed=8).tensors["images"])


def test_@NAME@_brings_class_means_closer_to_the_real_ones() -> None:
    real = data.load("digits").train
    inputs = real.space.real_to_input(real.images)
    wanted = torch.stack([inputs[real.of_class(c)].mean(0) for c in range(10)])

    def distance(iterations: int) -> float:
        images = distill(ipc=2, iterations=iterations).tensors["images"].cpu()
        return float((images.view(10, 2, 1, 8, 8).mean(1) - wanted).square().mean())

    assert distance(30) < 0.5 * distance(0)


def test_@NAME@_says_which_settings_it_has() -> None:
    with pytest.raises(LookupError, match="no field 'iteration'; nearest: iterations"):
        registry.make("@NAME@", {"iteration": 3})
'''


def checkout() -> Path | None:
    """Root of the checkout that this package runs from, or None for an installed one."""
    root = Path(ddbench.__file__).resolve().parent.parent
    return root if (root / "setup.cfg").is_file() and (root / "methods").is_dir() else None


def write_method(name: str, folder: Path | None = None) -> list[Path]:
    """Write a starter method and its test; both run at once.

    Args:
        name: of the new method: lower-case letters, digits and underscores.
        folder: a checkout of ddbench (methods/NAME.py and tests/test_NAME.py are written) or any other folder (NAME.py, for
            ``--plugin``, and test_NAME.py beside it); None: the checkout that ddbench runs from, else the current folder.

    Returns:
        the two files, method first.

    Raises:
        ValueError: the name is no Python identifier in lower case, or would hide a module of Python.
        FileExistsError: a method of that name, or one of the two files, exists already.
        FileNotFoundError: no such folder.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        tamed = re.sub(r"\W+", "_", name).strip("_").lower()
        tamed = (
            tamed if re.match(r"[a-z]", tamed) and not keyword.iskeyword(tamed) else f"my_{tamed}".rstrip("_")
        )
        raise ValueError(
            f"method name {name!r} cannot be a file's stem and a Python name; "
            f"expected lower-case letters, digits and underscores, such as {tamed}"
        )
    if name in registry.names("methods"):
        raise FileExistsError(
            f"method {name!r} exists already ({registry.origin('methods', name)}); choose another name"
        )
    folder = (folder or checkout() or Path.cwd()).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; make it first, or leave it out to write to the current one"
        )
    inside = folder == checkout()
    if not inside and name in sys.stdlib_module_names:
        raise ValueError(
            f"a file {name}.py would hide Python's own module {name!r} from its neighbours; choose another name"
        )
    paths = (
        [folder / "methods" / f"{name}.py", folder / "tests" / f"test_{name}.py"]
        if inside
        else [folder / f"{name}.py", folder / f"test_{name}.py"]
    )
    for path in paths:
        if path.exists():
            raise FileExistsError(
                f"{path} exists already and is left as it is; choose another name or move the file"
            )
    parts = {
        "@NAME@": name,
        "@CLASS@": "".join(word.capitalize() for word in name.split("_")),
        "@IMPORTS@": "" if inside else "\nfrom pathlib import Path\n",
        "@ADD@": "" if inside else f'\nregistry.add_file(Path(__file__).with_name("{name}.py"))\n',
    }
    for path, text in zip(paths, (_METHOD, _TEST), strict=True):
        for mark, value in parts.items():
            text = text.replace(mark, value)
        path.parent.mkdir(exist_ok=True)
        store.write_text(path, text)
    return paths
