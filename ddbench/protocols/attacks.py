"""``pgd``, ``autoattack``: how many test images students still get right when every pixel may move by 8/255.

A student of a set is attacked on the [0, 1] scale of pixels: standardisation, and the whitening of a set that has one, are part
of the attacked network, so that eps and the clamp to [0, 1] mean what they say.  The headline, ``robust``, is the share of
images that are right under every attack of the norm Linf, image by image (the worst case); beside it stand the clean accuracy
and each attack's own.

Source: the attacks and their settings: BEARD (arXiv:2411.09265) and its released code, docs/robustness.md; APGD and the idea of
the ensemble: AutoAttack (arXiv:2003.01690); Square: arXiv:1912.00049.
Departures:
- in pixel space with PGD's step 2/255; the released code attacks standardised inputs as if they were pixels, by 2/225.
- targets are drawn from the other classes of the data set; there (y + 1) mod 10, whatever the data.
- as many students as the protocol has repeats, each with its own targets; there one student, one run.
- ``autoattack`` has APGD by cross-entropy, by the logits ratio and towards drawn targets, and Square, one start each: the
  adversarial-robustness-toolbox has no FAB, so that the worst case is an upper bound on AutoAttack's own.
- C&W minimises the distance without a bound and PGD-L2 moves by another norm: both are shown, neither is in the worst case.
"""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddbench.compute import arithmetic
from ddbench.contract import DistilledSet, ImageData, RealData, Space
from ddbench.nets.build import build
from ddbench.protocols.train import ComposedProtocol, Evaluation
from ddbench.records import Score
from ddbench.seeding import Generators, derive
from ddbench.train.engine import EngineOptions, Progress, enlarged

EXTRA = "adversarial attacks need the adversarial-robustness-toolbox; run: pip install 'ddbench[attacks]'"


def _batch(pixels: Tensor) -> int:
    """Images that are attacked at once: most of an attack on small ones is what goes on around the network."""
    return 512 if pixels[0].numel() <= 3 * 64 * 64 else 64


# ------------------------------------------------------------------------------------------------ scores of BEARD


def robustness_ratio(clean: float, attacked: Sequence[float]) -> float:
    """RR = 100 (A - m) / (C - m), A the mean and m the least of the accuracies under attack; 0 where C == m.  In percent.

    It says how far the attacks spread, not how robust a network is: three attacks that leave 59 of 60 points give 0.
    """
    mean, least = _mean(attacked), min(attacked)
    return 0.0 if clean == least else 100 * (1 - (clean - mean) / (clean - least))


def robustness_ratio_rome(clean: float, attacked: Sequence[float], plus: bool = False) -> float:
    """RR_rome = 100 (1 - (C - A)(C - m) / C^2), in percent; ``plus`` takes off the mean gain over clean accuracy of attacks
    that raise it.

    Raises:
        ValueError: a clean accuracy of 0.
    """
    if clean <= 0:
        raise ValueError(f"clean accuracy is {clean:g}; expected above 0")
    ratio = 100 * (1 - (clean - _mean(attacked)) * (clean - min(attacked)) / clean**2)
    return ratio - (_mean([max(0.0, a - clean) for a in attacked]) if plus else 0.0)


def attack_efficiency(clean_s: float, attack_s: Sequence[float]) -> float:
    """AE = 100 (T - T0) / (M - T0), T the mean and M the longest of the attacks' seconds; 0 where M == T0.  In percent.

    A ratio of wall-clock times: it changes with machine and batch.
    """
    mean, longest = _mean(attack_s), max(attack_s)
    return 0.0 if longest == clean_s else 100 * (mean - clean_s) / (longest - clean_s)


def robustness_efficiency(ratio: float, efficiency: float, a: float = 0.5) -> float:
    """CREI = a RR + (1 - a) AE, in percent."""
    return a * ratio + (1 - a) * efficiency


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no attacks; expected at least one")
    return sum(values) / len(values)


# ------------------------------------------------------------------------------------------------ the attacks


@dataclass(frozen=True)
class Attack:
    """One attack: its class in the toolbox, its settings, its norm.  Sizes are on the [0, 1] scale of pixels."""

    kind: str
    settings: dict[str, Any]
    norm: str = "Linf"
    """``Linf`` | ``L2``; only the former make the worst case."""
    bounded: bool = True
    targeted: bool = False
    classes: int = 2
    """Fewest classes that it is defined for."""


_EPS, _STEP = 8 / 255, 2 / 255
_PGD = dict(eps=_EPS, eps_step=_STEP, max_iter=10)
_APGD = dict(eps=_EPS, eps_step=_STEP, max_iter=100, nb_random_init=1)

ATTACKS: dict[str, Attack] = {
    "fgsm": Attack("FastGradientMethod", dict(eps=_EPS)),
    "pgd": Attack("ProjectedGradientDescent", _PGD),
    "pgd-targeted": Attack("ProjectedGradientDescent", _PGD, targeted=True),
    "pgd-l2": Attack(
        "ProjectedGradientDescent", dict(norm=2, eps=128 / 255, eps_step=15 / 255, max_iter=10), "L2"
    ),
    "apgd-ce": Attack("AutoProjectedGradientDescent", dict(_APGD, loss_type="cross_entropy")),
    "apgd-dlr": Attack(
        "AutoProjectedGradientDescent", dict(_APGD, loss_type="difference_logits_ratio"), classes=3
    ),
    "apgd-targeted": Attack(
        "AutoProjectedGradientDescent", dict(_APGD, loss_type="cross_entropy"), targeted=True
    ),
    "square": Attack("SquareAttack", dict(eps=_EPS, max_iter=5000, p_init=0.8, nb_restarts=1)),
    "cw": Attack(
        "CarliniL2Method",
        dict(confidence=0.0, initial_const=1.0, binary_search_steps=1, max_iter=100, learning_rate=0.01),
        "L2",
        bounded=False,
    ),
}
"""Every attack by name.  All start at the image itself but APGD, which starts at a random point of the ball."""


class InPixels(nn.Module):
    """A student that takes pixels on the [0, 1] scale: (n, C, H, W) -> logits (n, K).

    Args:
        student: takes inputs of ``space``.
        space: of the set that it was trained on; real images go through its real mean and deviation.
        resize: enlarge and cut the images first, as ``engine.enlarged`` does.
    """

    def __init__(self, student: nn.Module, space: Space, resize: bool = False) -> None:
        super().__init__()
        self.student, self.resize = student, resize
        mean, std = space.real_mean or space.mean, space.real_std or space.std
        self.space = replace(space, stored="unit", mean=mean, std=std, real_mean=None, real_std=None)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.student(self.space.unit_to_input(enlarged(pixels) if self.resize else pixels))
        return logits


def drawn_targets(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """A wrong class for each image, uniform over the others: int64 (n,)."""
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return (labels.cpu() + shift) % classes


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The toolbox draws from the global generators: given a seed here, and back as they were afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def check_extra() -> tuple[Any, Any]:
    """The toolbox's modules of attacks and of classifiers.

    Raises:
        ImportError: the library of the extra ``attacks`` is not installed.
    """
    try:  # "art" alone is the name of another package, too
        return (
            importlib.import_module("art.attacks.evasion"),
            importlib.import_module("art.estimators.classification"),
        )
    except ImportError as error:
        raise ImportError(f"{EXTRA} ({error})") from error


def attacked(
    network: InPixels,
    name: str,
    pixels: Tensor,
    labels: Tensor,
    classes: int,
    seed: int,
) -> Tensor:
    """Attacked images, float32 on the CPU, in [0, 1].

    Args:
        network: in eval mode; its device decides where it runs.
        name: in :data:`ATTACKS`.
        pixels: (n, C, H, W) on the [0, 1] scale.
        labels: (n,) the true classes.
        seed: decides targets and whatever the attack draws.

    Raises:
        ImportError: the extra is missing.
        LookupError: no such attack.
        ValueError: an attack that needs more classes.
    """
    evasion, classification = check_extra()
    if name not in ATTACKS:
        raise LookupError(f"no attack {name!r}; expected one of {', '.join(ATTACKS)}")
    attack = ATTACKS[name]
    if classes < attack.classes:
        raise ValueError(f"attack {name} needs {attack.classes} classes; expected more than {classes}")
    device = next(network.parameters()).device
    aim = labels.cpu()
    more: dict[str, Any] = {"batch_size": _batch(pixels), "verbose": False}
    if attack.targeted:
        aim = drawn_targets(labels, classes, torch.Generator().manual_seed(derive(seed, "target")))
        more["targeted"] = True
    if attack.kind == "FastGradientMethod":
        del more["verbose"]
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with _seeded(derive(seed, name)), current:  # the toolbox takes the current device
        classifier = classification.PyTorchClassifier(
            network,
            nn.CrossEntropyLoss(),
            tuple(pixels.shape[1:]),
            classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if device.type == "cuda" else "cpu",
        )
        made = getattr(evasion, attack.kind)(classifier, **attack.settings, **more)
        found = made.generate(pixels.cpu().numpy().astype(np.float32), aim.numpy())
    return torch.from_numpy(np.asarray(found, dtype=np.float32))


@torch.no_grad()
def right(network: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Which images a network gets right: bool (n,) on the CPU."""
    device, size = next(network.parameters()).device, _batch(pixels)
    found = [
        network(x.to(device)).argmax(1).cpu() == y.cpu()
        for x, y in zip(torch.split(pixels, size), torch.split(labels, size), strict=True)
    ]
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------ the protocol


def attacked_images(test: ImageData, count: int | None) -> ImageData:
    """The test images that are attacked: all, or ``count`` of them, drawn once for all sets and students."""
    if count is None or count >= len(test):
        return test
    chosen = torch.randperm(len(test), generator=Generators(0)("attacked"))[:count]
    return test.subset(chosen.sort().values, test.split)


class AttackProtocol(ComposedProtocol):
    """``pgd``, ``autoattack``; see the module."""

    def names(self, classes: int) -> list[str]:
        """The row's attacks that so many classes allow."""
        return [name for name in self.row.attacks if classes >= ATTACKS[name].classes]

    def evaluate(
        self,
        distilled: DistilledSet,
        real: RealData,
        network: str,
        generators: Sequence[Generators],
        options: EngineOptions | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Train students by the base row, test them, and attack them on the test images.  ``robust`` is the worst case of each
        student over the attacks of norm Linf; clean accuracy and each attack's own have a task.

        Raises:
            ImportError: the extra is missing; nothing was trained.
            ValueError, FloatingPointError: as :meth:`RowProtocol.evaluate`.
        """
        check_extra()
        self._check(distilled, network, real)
        options, begun = options or EngineOptions(), time.perf_counter()
        base, plan = self.base(distilled), self.plan_for(distilled, network, real.name, real.train)
        families = [Generators(g.seed, *g.path) for g in generators]
        steps = 1 + len(generators) * len(self.row.attacks)

        def part(number: int) -> Callable[..., None] | None:
            """Progress of training as one part of all."""
            if progress is None:
                return None
            return lambda done, total, *loss: progress(
                100 * number + min(99, 100 * done // max(1, total)), 100 * steps, *loss
            )

        taught = base.teach(distilled, real, network, families, options, part(0), plan=plan)
        begun += taught.labels.teaching_s
        found = base.scored(taught, distilled, real, families, options, begun)
        t, classes = taught.trainees, real.train.classes
        images = attacked_images(real.test, self.row.attacked)
        pixels, labels = images.images.cpu().float() / 255, images.labels.cpu()
        space = distilled.space or real.train.space
        clean = [s.value for s in found.scores if s.chosen_by == "last"]
        scores: list[Score] = []
        beside: list[Score] = []
        with arithmetic(options.precision):
            net = InPixels(build(t.network, t.shape, t.classes), space, plan.test_resize)
            net = net.to(options.device).eval().requires_grad_(False)
            for number, (state, g) in enumerate(zip(t.states, generators, strict=True)):
                net.student.load_state_dict(state)
                seed = derive(g.seed, "attack")
                unbroken = right(net, pixels, labels)
                whole, standing = {}, unbroken.clone()
                for k, name in enumerate(self.names(classes)):
                    # an image that is wrong as it is stays wrong: only the others are attacked
                    kept = unbroken.clone()
                    if bool(kept.any()):
                        moved = attacked(net, name, pixels[unbroken], labels[unbroken], classes, seed)
                        kept[unbroken] = right(net, moved, labels[unbroken])
                    whole[name] = float(kept.double().mean())
                    if ATTACKS[name].norm == "Linf":
                        standing &= kept
                    if tell := part(1 + number * len(self.row.attacks) + k):
                        tell(1, 1)
                scores.append(
                    Score(
                        metric="robust",
                        value=float(standing.double().mean()),
                        network=t.network,
                        seed=g.seed,
                    )
                )
                beside += [
                    Score(value=clean[number], network=t.network, seed=g.seed, task="clean"),
                    *(
                        Score(metric="robust", value=value, network=t.network, seed=g.seed, task=name)
                        for name, value in whole.items()
                    ),
                ]
        if progress is not None:
            progress(100 * steps, 100 * steps)
        linf = [name for name in self.names(classes) if ATTACKS[name].norm == "Linf"]
        notes = base.notes(taught) | {
            "attacks": f"students as {base.name}; worst case of {', '.join(linf)} (Linf 8/255 in pixels) on {len(images):,} of "
            f"{len(real.test):,} test images",
        }
        wall_s = time.perf_counter() - begun - found.compile_s
        return replace(found, scores=scores + beside, metric="robust", notes=notes, wall_s=max(0.0, wall_s))
