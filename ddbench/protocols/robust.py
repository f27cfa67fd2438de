"""``lrs`` and ``ars``: DD-Ranking's scores of how much of an accuracy is the set's own, not its labels' or its augmentation's.

    HLR = acc(real, hard) - acc(syn, hard)     IOR = acc(syn, any) - acc(rdm, any)     alpha = w IOR - (1 - w) HLR
    beta = g (acc(syn, aug) - acc(rdm, aug)) + (1 - g) (acc(syn, naug) - acc(rdm, naug))
    LRS = N(alpha), ARS = N(beta), N(a) = (e^a - e^-1) / (e - e^-1)

``syn``: the set; ``rdm``: as many random real images, drawn anew for each repetition; ``real``: all training images;
``hard``: by class labels; ``any``: by the labels that the set comes with; ``naug``: without augmentation and mixes.  One
repetition is one student in each of the four; the score is the mean of N over repetitions, never N of means.  The four
accuracies are scores beside it, with their names as task.

Source: arXiv:2505.13300 and its released code (ddranking 0.2.0), docs/robustness.md.
Departures:
- accuracies are fractions; the released package puts percentages into the exponent.
- learning rates are chosen on training images that are held out (a tenth of each class, at most 10,000 in all, none of those
  that the students train on), the accuracy is that after the last epoch; the package chooses both by test accuracy.
- repetitions are seeded; random images too, which the package draws by the clock.
- students of all real images are trained by the base row ``full``, under its cap on steps, at its own learning rate.
- hard labels are the set's own ids; the package assumes classes in order.
- random images of a set with learned soft labels are labelled by the protocol's own teacher, once an image (the package's
  code for it fails); those of a set with a labeller by that labeller.
- what depends on data, recipe, network and seed alone is trained once and shared by all sets (the cache's ``baselines``).
"""

from __future__ import annotations

import abc
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ddbench import codecs, store
from ddbench.contract import (
    Card,
    CodecSpec,
    DistilledSet,
    ImageData,
    Labeller,
    RealData,
    Space,
    Targets,
    canonical,
)
from ddbench.nets.names import canonical as canonical_network
from ddbench.protocols.labelling import identities, own_teachers
from ddbench.protocols.rows import ROWS
from ddbench.protocols.train import (
    ComposedProtocol,
    Evaluation,
    RowProtocol,
    Taught,
    case_of,
    described,
    tester,
)
from ddbench.records import Score
from ddbench.seeding import Generators
from ddbench.train.engine import EngineOptions, Progress
from ddbench.train.labels import answer_items, load_networks
from ddbench.train.squeezed import space_of
from ddbench.trainplan import TrainPlan

KIND = "baselines"
"""Of the cache: accuracies of students on real images."""
_HELD_OUT, _HELD_OUT_MOST = 0.1, 10_000

# ------------------------------------------------------------------------------------------------ the scores


def normaliser(alpha: float) -> float:
    """N(alpha) = (e^alpha - e^-1) / (e - e^-1): -1 -> 0, 0 -> 0.268941, 1 -> 1; increasing."""
    low = math.exp(-1)
    return (math.exp(alpha) - low) / (math.e - low)


def _fractions(**accuracies: float) -> None:
    for name, value in accuracies.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value:g}; expected a fraction in [0, 1], not percent")


def lrs(real_hard: float, syn_hard: float, syn_any: float, rdm_any: float, w: float = 0.5) -> float:
    """Label-robust score in [0, 1] of four accuracies (fractions); larger is better.

    Args:
        real_hard: of students of all real images.
        syn_hard, syn_any: of students of the set, by class labels and by its own labels.
        rdm_any: of students of random images, labelled as the set is.
        w: weight of the gain over random images against the distance from all images, in [0, 1].

    Raises:
        ValueError: a value outside [0, 1].
    """
    _fractions(real_hard=real_hard, syn_hard=syn_hard, syn_any=syn_any, rdm_any=rdm_any, w=w)
    return normaliser(w * (syn_any - rdm_any) - (1 - w) * (real_hard - syn_hard))


def ars(syn_aug: float, rdm_aug: float, syn_naug: float, rdm_naug: float, g: float = 0.5) -> float:
    """Augmentation-robust score in [0, 1] of four accuracies (fractions); larger is better.

    Args:
        syn_aug, syn_naug: of students of the set, with and without augmentation.
        rdm_aug, rdm_naug: of students of random images.
        g: weight of the gain with augmentation, in [0, 1].

    Raises:
        ValueError: a value outside [0, 1].
    """
    _fractions(syn_aug=syn_aug, rdm_aug=rdm_aug, syn_naug=syn_naug, rdm_naug=rdm_naug, g=g)
    return normaliser(g * (syn_aug - rdm_aug) + (1 - g) * (syn_naug - rdm_naug))


# ------------------------------------------------------------------------------------------------ parts


@dataclass(frozen=True)
class Measured:
    """One of the four: a test accuracy a repetition, at which learning rates."""

    values: tuple[float, ...]
    rates: tuple[float, ...]
    searched: bool
    spent_s: float
    """Seconds that it took, now or when it was made."""


@dataclass
class _Work:
    """What the trainings of one evaluation have in common, and what they added up to."""

    base: RowProtocol
    distilled: DistilledSet
    real: RealData
    network: str
    generators: Sequence[Generators]
    options: EngineOptions
    progress: Progress | None
    steps: int
    """Trainings expected, for the progress bar."""
    done: int = 0
    compile_s: float = 0.0
    teaching_s: float = 0.0
    teacher_s: float = 0.0
    shared_s: float = 0.0

    def fresh(self) -> list[Generators]:
        """The families of the repetitions from their start: generators remember what was drawn."""
        return [Generators(g.seed, *g.path) for g in self.generators]

    def told(self) -> Progress | None:
        """Progress of one training as a part of all."""
        if self.progress is None:
            return None
        outer, before = self.progress, self.done

        def tell(done: int, total: int, *loss: float) -> None:
            share = min(99, 100 * done // max(1, total))  # all of it only at the very end: it may stop before
            outer(100 * before + share, 100 * max(self.steps, before + 1), *loss)

        return tell


def held_out(train: ImageData, used: torch.Tensor | None = None) -> ImageData:
    """Training images that choose a learning rate: a tenth of each class, at most 10,000 in all, the same in every run but for
    those that are ``used`` (indices of images that students train on).

    Raises:
        ValueError: a class has none left.
    """
    taken = torch.zeros(len(train), dtype=torch.bool)
    if used is not None:
        taken[used.cpu().long()] = True
    labels, rng, chosen = train.labels.cpu(), Generators(0)("holdout"), []
    most = max(1, _HELD_OUT_MOST // train.classes)
    for c in range(train.classes):
        pool = (labels == c).nonzero().squeeze(1)
        count = min(most, max(1, int(_HELD_OUT * len(pool))))
        pool = pool[torch.randperm(len(pool), generator=rng)]
        free = pool[~taken[pool]][:count]
        if not len(free):
            raise ValueError(
                f"class {c} of {train.name} has {len(pool)} training images and students train on all of them; expected "
                f"one more to choose a learning rate by: lower ipc"
            )
        chosen.append(free)
    return train.subset(torch.cat(chosen), "held-out")


def random_images(train: ImageData, per_class: int, generators: Generators) -> torch.Tensor:
    """Indices of ``per_class`` training images of each class, without replacement, by the generator ``rdm``.

    Raises:
        ValueError: a class has fewer.
    """
    labels, rng, chosen = train.labels.cpu(), generators("rdm"), []
    for c in range(train.classes):
        pool = (labels == c).nonzero().squeeze(1)
        if len(pool) < per_class:
            raise ValueError(
                f"class {c} of {train.name} has {len(pool)} training images, and the set has {per_class} a class; lower ipc"
            )
        chosen.append(pool[torch.randperm(len(pool), generator=rng)[:per_class]])
    return torch.cat(chosen)


def _real_space(space: Space) -> Space:
    """A set's space for real images that stay uint8."""
    mean, std = space.real_mean or space.mean, space.real_std or space.std
    return replace(space, stored="uint8", mean=mean, std=std, real_mean=None, real_std=None)


def real_set(
    real: RealData, indices: torch.Tensor, like: DistilledSet, labeller: Labeller | None = None
) -> DistilledSet:
    """Real training images as a set in the space of another one, with their own class labels and perhaps its labeller."""
    train = real.train
    inline = {
        name: t
        for name, t in like.tensors.items()
        for ref in (labeller.networks if labeller else ())
        for prefix in (ref.key if ref.source == "inline" else None, ref.low_rank)
        if prefix and name.startswith(prefix)
    }
    indices = indices.cpu()
    return DistilledSet(
        {"indices": indices, **inline},
        Targets(ids=train.labels.cpu()[indices], labeller=labeller),
        _real_space(like.space or train.space),
        CodecSpec("subset"),
        card=Card(
            dataset=train.name,
            data_fingerprint=train.fingerprint,
            ipc=len(indices) / train.classes,
            classes=train.classes,
            shape=train.shape,
        ),
    )


def hardened(plan: TrainPlan) -> TrainPlan:
    """The plan by class labels: a plan of teacher labels then has neither networks nor augmentation."""
    if plan.labels is None:
        return plan.changed(hard=True)
    return plan.changed(hard=True, loss="ce", labels=None, views=None, hard_weight=0.0, micro_batches=1)


def unaugmented(plan: TrainPlan) -> TrainPlan:
    """The plan without augmentation and mixes; who labels stays."""
    views = plan.views and replace(plan.views, crop="none", flip=0.0, mix="none")
    return plan.changed(augment="none", mix="none", views=views)


# ------------------------------------------------------------------------------------------------ training


def _taught(
    work: _Work, distilled: DistilledSet, plan: TrainPlan, generators: Sequence[Generators]
) -> Taught:
    found = work.base.teach(
        distilled, work.real, work.network, generators, work.options, work.told(), plan=plan
    )
    work.done += 1
    work.compile_s += found.trainees.compile_s
    work.teaching_s += found.labels.teaching_s
    work.teacher_s = max(work.teacher_s, found.labels.teacher_s)
    return found


def _searched(
    work: _Work,
    distilled: DistilledSet,
    plan: TrainPlan,
    rates: Sequence[float],
    generators: Sequence[Generators],
) -> tuple[Taught, tuple[float, ...]]:
    """Students of a set, each at the rate of ``rates`` that is best on held-out training images: the lowest of equal ones.
    A rate at which a student diverges is not chosen."""
    codec, _ = codecs.codec_of(distilled)
    images = held_out(work.real.train, distilled.tensors["indices"] if codec.real else None)
    judge = tester(distilled, replace(work.real, test=images), work.options, plan.test_resize)
    best: dict[int, tuple[float, float, Taught, int]] = {}
    trouble: FloatingPointError | None = None
    for rate in sorted(rates):
        at = plan.changed(lr=rate, learned_rate=False)
        groups = [list(range(len(generators)))]
        while groups:
            group = groups.pop(0)
            try:
                found = _taught(
                    work,
                    distilled,
                    at,
                    [Generators(generators[i].seed, *generators[i].path) for i in group],
                )
            except FloatingPointError as error:
                trouble = error
                groups += [[i] for i in group] if len(group) > 1 else []  # the others may stand it
                continue
            tested = judge(found.trainees)
            work.compile_s += tested.compile_s
            for place, (i, value) in enumerate(zip(group, tested.accuracies, strict=True)):
                if i not in best or value > best[i][0]:
                    best[i] = value, rate, found, place
    if len(best) < len(generators):
        raise FloatingPointError(
            f"students of {work.network} diverged at every learning rate of {', '.join(f'{r:g}' for r in rates)}: {trouble}"
        )
    chosen = [best[i] for i in range(len(generators))]
    first = chosen[0][2]
    together = replace(
        first.trainees,
        states=tuple(found.trainees.states[place] for _, _, found, place in chosen),
        tests=(),
    )
    return replace(first, trainees=together), tuple(rate for _, rate, _, _ in chosen)


def _measure(
    work: _Work, distilled: DistilledSet, plan: TrainPlan, rates: Sequence[float]
) -> tuple[Measured, Evaluation]:
    """Students of the set in all repetitions, tested; ``rates``: to choose from, none for the plan's own."""
    begun, generators = time.perf_counter(), work.fresh()
    if rates:
        taught, chosen = _searched(work, distilled, plan, rates, generators)
    else:
        taught = _taught(work, distilled, plan, generators)
        chosen = (plan.lr,) * len(generators)
    found = work.base.scored(
        replace(taught, trainees=replace(taught.trainees, compile_s=0.0)),
        distilled,
        work.real,
        generators,
        work.options,
        begun,
    )
    work.compile_s += found.compile_s
    values = tuple(s.value for s in found.scores if s.chosen_by == "last")
    return Measured(values, chosen, bool(rates), time.perf_counter() - begun), found


def _shared(work: _Work, parts: dict[str, Any], make: Callable[[], Measured]) -> Measured:
    """What does not depend on the set: from the cache, else made and kept there.

    Raises:
        DamagedError: a file of the cache that cannot be read.
    """
    parts = {
        **parts,
        "format": 1,
        "data": work.real.fingerprint,
        "network": work.network,
        "precision": work.options.precision,
        "device": torch.device(work.options.device).type,
    }
    key = hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]
    path = store.cache_root() / KIND / f"{key}.json"
    with store.Lock(path):  # another process waits, and then finds it
        if path.is_file():
            try:
                said = json.loads(path.read_text(encoding="utf-8"))
                found = Measured(
                    tuple(map(float, said["values"])),
                    tuple(map(float, said["rates"])),
                    bool(said["searched"]),
                    float(said["spent_s"]),
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise store.DamagedError(
                    f"{path} cannot be read ({error}); remove it and the baseline is measured again"
                ) from error
            store.used(path)
        else:
            found = make()
            own = {
                "values": found.values,
                "rates": found.rates,
                "searched": found.searched,
                "spent_s": found.spent_s,
            }
            store.write_json(path, {**own, "of": json.loads(canonical(parts))})
    work.shared_s += found.spent_s
    return found


def _plain(plan: TrainPlan) -> dict[str, Any]:
    return plan.changed(networks=(), repeats=1, learned_rate=False, test_every=0, test_first=0).as_dict()


# ------------------------------------------------------------------------------------------------ the protocols


@dataclass(frozen=True)
class _Floor:
    """How random images are labelled: what makes a set of them, who labels as the cache knows it, and in words."""

    make: Callable[[torch.Tensor], DistilledSet]
    who: Sequence[str]
    note: str
    extra: dict[str, Any] = field(default_factory=dict)


class _RobustProtocol(ComposedProtocol, abc.ABC):
    """What both scores share."""

    def accepts(
        self, distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
    ) -> str | None:
        reason = super().accepts(distilled, network, dataset, real)
        if reason:
            return reason
        labeller = distilled.targets.labeller
        if labeller is not None and not labeller.networks:
            return (
                f"protocol {self.name} has random images labelled by the networks that label the set, and this one brings "
                f"stored answers alone"
            )
        if labeller is None and distilled.targets.soft is not None and distilled.targets.kind == "values":
            return f"protocol {self.name} labels random images as the set's are, and these are free values"
        if case_of(distilled, network, dataset, real).ipc < 1:
            return f"protocol {self.name} draws as many random images a class, and the set does not say how many it has"
        return None

    def _floor(self, work: _Work) -> _Floor:
        """Random images, labelled as the set's own are."""
        like, real = work.distilled, work.real
        labeller, soft = like.targets.labeller, like.targets.soft
        if labeller is not None:
            who = identities(labeller, like)
            return _Floor(
                lambda chosen: real_set(real, chosen, like, labeller),
                who,
                f"labelled by the set's own {', '.join(ref.architecture for ref in labeller.networks)}",
                {"batch_norm": labeller.batch_norm, "sees": labeller.sees},
            )
        if soft is None:
            return _Floor(
                lambda chosen: real_set(real, chosen, like), (), "labelled by their own classes (hard)"
            )
        plan = ROWS[self.row.bases["taught"]].plan_for(case_of(like, work.network, real.name, real.train))
        assert plan.labels is not None  # a row of teacher labels has some
        begun = time.perf_counter()
        teachers = own_teachers(plan.labels, real, work.options, work.told())
        work.teaching_s += time.perf_counter() - begun
        work.teacher_s += sum(t.train_s for t in teachers)
        own = Labeller(tuple(t.ref() for t in teachers), space_of(teachers[0], real), sees="clean")

        def once(chosen: torch.Tensor) -> DistilledSet:
            bare = real_set(real, chosen, like)
            items = codecs.items(bare, real.train, work.options.device)
            networks = load_networks(
                own, bare, real.train.shape, real.train.classes, device=work.options.device
            )
            logits = answer_items(items, own, networks).float().cpu()
            return bare.changed(targets=Targets(ids=bare.targets.ids, soft=logits, kind="logits"))

        names = ", ".join(t.name for t in teachers)
        return _Floor(once, identities(own, like), f"labelled once an image by the protocol's own {names}")

    def _random(self, work: _Work, floor: _Floor, plan: TrainPlan) -> Measured:
        """Students of random images, at the best of all rates: one subset a repetition."""
        per_class = int(case_of(work.distilled, work.network, work.real.name, work.real.train).ipc)
        space = _real_space(work.distilled.space or work.real.train.space)
        found = []
        for g in work.fresh():
            parts = {
                "kind": "rdm",
                "seed": [g.seed, *g.path],
                "ipc": per_class,
                "plan": _plain(plan),
                "labels": [*floor.who],
                "mode": floor.extra,
                "space": space.describe(),
                "rates": list(self.row.rates),
            }

            def make(g: Generators = g) -> Measured:
                images = floor.make(random_images(work.real.train, per_class, g.child("rdm")))
                alone = replace(work, generators=[g])
                measured, _ = _measure(alone, images, plan, self.row.rates)
                for name in ("done", "compile_s", "teaching_s", "teacher_s"):
                    setattr(work, name, getattr(alone, name))
                return measured

            found.append(_shared(work, parts, make))
        return Measured(
            tuple(m.values[0] for m in found),
            tuple(m.rates[0] for m in found),
            True,
            sum(m.spent_s for m in found),
        )

    def _real(self, work: _Work) -> Measured:
        """Students of all real images by class labels, as the row ``full`` trains."""
        like, train = work.distilled, work.real.train
        images = real_set(work.real, torch.arange(len(train)), like)
        full = RowProtocol(ROWS[self.row.bases["full"]])
        plan = full.plan_for(images, work.network, work.real.name, train)
        plan = plan.changed(hard=True, learned_rate=False, test_every=0, test_first=0)
        parts = {
            "kind": "real",
            "seeds": [[g.seed, *g.path] for g in work.generators],
            "plan": _plain(plan),
            "space": _real_space(like.space or train.space).describe(),
        }
        return _shared(work, parts, lambda: _measure(work, images, plan, ())[0])

    def _own_rates(self, work: _Work) -> tuple[float, ...]:
        """The rates to choose from for the set's own recipe: none where it learned one."""
        plan = self.base(work.distilled).plan
        return () if plan.learned_rate and work.distilled.program is not None else self.row.rates

    @abc.abstractmethod
    def _cells(self, work: _Work, plan: TrainPlan) -> tuple[dict[str, Measured], Evaluation, str]:
        """The four, students of the set under its own recipe, and how random images are labelled."""

    @abc.abstractmethod
    def _score(self, cells: dict[str, float]) -> float:
        """The headline of a repetition, of its four accuracies."""

    @abc.abstractmethod
    def _parts(self, cells: dict[str, float]) -> dict[str, float]:
        """The two differences by name, of the means."""

    def evaluate(
        self,
        distilled: DistilledSet,
        real: RealData,
        network: str,
        generators: Sequence[Generators],
        options: EngineOptions | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """The score of each repetition, one for each family of generators, and beside it the four accuracies that it is made
        of (their names are the tasks of these scores).  Calibration and accuracy a class are those of students of the set under
        its own recipe.  Raises as :meth:`RowProtocol.evaluate` does."""
        self._check(distilled, network, real)
        options, begun = options or EngineOptions(), time.perf_counter()
        base, plan = self.base(distilled), self.plan_for(distilled, network, real.name, real.train)
        trainings = len(self.row.rates) * (len(generators) + 2) + 1
        with tempfile.TemporaryDirectory(prefix="ddbench-labels-") as scratch:
            options = replace(options, labels=options.labels or Path(scratch))
            work = _Work(
                base, distilled, real, canonical_network(network), generators, options, progress, trainings
            )
            cells, own, labelled_ = self._cells(work, plan)
        if progress is not None:
            progress(100 * work.steps, 100 * work.steps)
        metric = self.row.kind
        count = range(len(generators))
        scores = [
            Score(
                metric=metric,
                value=self._score({name: m.values[i] for name, m in cells.items()}),
                network=work.network,
                seed=generators[i].seed,
                chosen_on="holdout" if any(m.searched for m in cells.values()) else "none",
            )
            for i in count
        ]
        scores += [
            Score(
                value=m.values[i],
                network=work.network,
                seed=generators[i].seed,
                task=name,
                chosen_by="lr" if m.searched else "last",
                chosen_on="holdout" if m.searched else "none",
            )
            for name, m in cells.items()
            for i in count
        ]
        rates = "; ".join(
            f"{name} {' '.join(f'{r:g}' for r in dict.fromkeys(sorted(m.rates)))}"
            for name, m in cells.items()
        )
        parts = self._parts({name: sum(m.values) / len(m.values) for name, m in cells.items()})
        wall_s = time.perf_counter() - begun - work.compile_s - work.teaching_s
        return replace(
            own,
            scores=scores,
            metric=metric,
            compile_s=work.compile_s,
            wall_s=max(0.0, wall_s),
            teacher_s=max(own.teacher_s, work.teacher_s),
            teaching_s=work.teaching_s,
            rate=None,
            notes={
                "protocol": f"as {base.name}: {described(plan)}; {len(generators)} repetitions, weight {self.row.weight:g}",
                "score": ", ".join(f"{name} {value:+.4f}" for name, value in parts.items()),
                "random images": labelled_,
                "learning rates": f"{rates} (searched ones chosen on held-out training images)",
                "baselines": f"{work.shared_s:.1f} s of students on real images, kept and shared by all sets",
            },
        )


class LabelRobust(_RobustProtocol):
    """``lrs``; see the module."""

    def accepts(
        self, distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
    ) -> str | None:
        reason = super().accepts(distilled, network, dataset, real)
        if reason is None and distilled.targets.ids is None:
            return f"protocol {self.name} also trains by class labels, and the set has no label ids"
        return reason

    def _cells(self, work: _Work, plan: TrainPlan) -> tuple[dict[str, Measured], Evaluation, str]:
        targets, floor = work.distilled.targets, self._floor(work)
        any_, own = _measure(work, work.distilled, plan, self._own_rates(work))
        hard = any_
        if targets.soft is not None or targets.labeller is not None:
            hard, _ = _measure(work, work.distilled, hardened(plan), self.row.rates)
        cells = {
            "real-hard": self._real(work),
            "syn-hard": hard,
            "syn-any": any_,
            "rdm-any": self._random(work, floor, plan),
        }
        return cells, own, floor.note

    def _score(self, cells: dict[str, float]) -> float:
        return lrs(cells["real-hard"], cells["syn-hard"], cells["syn-any"], cells["rdm-any"], self.row.weight)

    def _parts(self, cells: dict[str, float]) -> dict[str, float]:
        return {
            "IOR": cells["syn-any"] - cells["rdm-any"],
            "HLR": cells["real-hard"] - cells["syn-hard"],
        }


class AugmentationRobust(_RobustProtocol):
    """``ars``; see the module."""

    def _cells(self, work: _Work, plan: TrainPlan) -> tuple[dict[str, Measured], Evaluation, str]:
        floor, rates, bare = self._floor(work), self._own_rates(work), unaugmented(plan)
        aug, own = _measure(work, work.distilled, plan, rates)
        naug, _ = _measure(work, work.distilled, bare, rates)
        cells = {
            "syn-aug": aug,
            "rdm-aug": self._random(work, floor, plan),
            "syn-naug": naug,
            "rdm-naug": self._random(work, floor, bare),
        }
        return cells, own, floor.note

    def _score(self, cells: dict[str, float]) -> float:
        return ars(cells["syn-aug"], cells["rdm-aug"], cells["syn-naug"], cells["rdm-naug"], self.row.weight)

    def _parts(self, cells: dict[str, float]) -> dict[str, float]:
        return {
            "with augmentation": cells["syn-aug"] - cells["rdm-aug"],
            "without": cells["syn-naug"] - cells["rdm-naug"],
        }
