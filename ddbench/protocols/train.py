"""A row of settings, usable: which sets it accepts, and how it scores one."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench import codecs, registry
from ddbench.augment.named import augmentation
from ddbench.compute import arithmetic
from ddbench.contract import DistilledSet, ImageData, Items, Labeller, RealData, Space
from ddbench.nets.build import trains_on_one
from ddbench.nets.names import for_side
from ddbench.protocols.labelling import Labels, identities, kind_of, labelled, refusal
from ddbench.protocols.rows import ROWS, Case, ProtocolRow
from ddbench.records import Score
from ddbench.seeding import Generators
from ddbench.train.engine import EngineOptions, Progress, Tester, Trainees, tested, train_students
from ddbench.train.labels import answer, answer_items, check_plan, load_networks
from ddbench.train.students import AnswerView
from ddbench.trainplan import TrainPlan


@dataclass(frozen=True)
class Evaluation:
    """What a protocol found out about a set."""

    scores: list[Score]
    """One a student, in the order of the generators; then, where the plan tests on the way, each student's best of these
    tests and the last (``best-epoch`` chosen on ``test``), which no board ranks."""
    engine: str
    """The path that ran: plain, compiled, stacked, stacked-compiled."""
    compile_s: float = 0.0
    wall_s: float = 0.0
    """Training and testing, without ``compile_s``."""
    rate: float | None = None
    """Learning rate of the students' first epoch, the set's own where the plan takes it; None where a program is replayed."""
    label_bytes: int = 0
    """Of logits that were stored for the set."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the networks that answered while the students trained, by name."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What a reader must know: the settings that the row's forms came to, and who labelled."""
    labels: str = ""
    """What the students learned from: ``hard``, ``soft``, ``teacher, stored``, ``committee of 5, online`` ...; "": not said."""
    labelled_by: tuple[str, ...] = ()
    """The networks whose answers these were; see :func:`ddbench.protocols.labelling.identities`."""
    teacher_s: float = 0.0
    """Seconds that training the protocol's own teachers took, now or when the cache got them."""
    metric: str = "top1"
    """What boards rank; as in ``records.Record``."""
    ece: tuple[float, ...] = ()
    """Expected calibration error of each student; as in ``records.Record``."""
    class_accuracy: tuple[float, ...] = ()
    """Test accuracy a class, mean over students; as in ``records.Record``."""
    teaching_s: float = 0.0
    """Seconds of this evaluation that made these teachers; not in ``wall_s``."""


@dataclass(frozen=True, eq=False)
class Taught:
    """Students that learned from a set, and how."""

    trainees: Trainees
    plan: TrainPlan
    labels: Labels


def whole_split(distilled: DistilledSet) -> bool:
    """Whether a set is all of its training split: a subset that names each of its images."""
    if distilled.codec.name != "subset" or "indices" not in distilled.tensors:
        return False
    distinct = len(torch.unique(distilled.tensors["indices"]))
    try:
        known = registry.facts("datasets", distilled.card.dataset).keywords.get("train")
    except (
        LookupError,
        registry.PluginError,
    ):  # a folder of the user's: the card says that ipc does not apply
        return distilled.card.ipc == 0
    return distinct == known if isinstance(known, int) else distilled.card.ipc == 0


@dataclass(frozen=True)
class RowProtocol:
    """A protocol that trains fresh students by a TrainPlan and tests them after the last epoch."""

    row: ProtocolRow

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def version(self) -> str:
        return self.row.version

    @property
    def comparable(self) -> bool:
        return self.row.comparable

    @property
    def plan(self) -> TrainPlan:
        return self.row.plan

    def accepts(
        self, distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
    ) -> str | None:
        """Why this protocol cannot score a set, or None.

        Args:
            network: registered name of the students; "" leaves out what depends on it.
            dataset: name of the real data; "": the one that the set names.
            real: the real data, where they are there: what the protocol's forms depend on is then read off them.
        """
        name = self.name
        if distilled.kind != "image":
            return f"protocol {name} trains image classifiers, and this is a set of kind {distilled.kind!r}"
        if not distilled.tensors:
            return f"protocol {name} trains on items, and this set stores none (a program alone); use native"
        plan = self._planned(self._case(distilled, network, dataset, real), real)
        if plan.augment == "dc" and network:
            dataset = dataset or distilled.card.dataset
            if augmentation("dc", True, network, dataset) is None:
                return (
                    f"protocol {name} augments nothing for {network} on {dataset or 'unnamed data'} (DC augments on mnist, "
                    "and for ConvNetBN); use dc-none"
                )
        whole = whole_split(distilled)
        if whole and self.row.data != "full":
            return (
                f"protocol {name} would train {plan.epochs:,} epochs on the whole training split; "
                f"use a capped one: {_full_twins()}"
            )
        if self.row.data == "full" and not whole:
            return f"protocol {name} is for the whole training split only; use {name.removesuffix('-full')}"
        if plan.learned_rate and (program := distilled.program) is not None:
            if program.order is not None:
                return (
                    f"protocol {name} starts at one learned step size, and this set has a program of "
                    f"{len(program.order)} steps in order; use native"
                )
            if float(program.step_sizes[0]) <= 0:  # a Program holds finite numbers only
                return (
                    f"protocol {name} starts at the step size that the set learned, and that is "
                    f"{float(program.step_sizes[0]):g}; expected above 0: use dc-dsa, which starts at 0.01"
                )
        return _misfit(name, distilled, plan) or _lone(
            name, distilled, plan, network, *_known(distilled, dataset, real)
        )

    def _case(
        self, distilled: DistilledSet, network: str, dataset: str, real: ImageData | None = None
    ) -> Case:
        if not self.row.forms:
            return Case(dataset or distilled.card.dataset, network)
        case, labels, labeller = (
            case_of(distilled, network, dataset, real),
            self.plan.labels,
            distilled.targets.labeller,
        )
        among: tuple[str, ...] = () if labels is None else labels.networks
        if labeller is not None and (labels is None or not labels.always):
            among = tuple(ref.architecture for ref in labeller.networks)
        return replace(case, teacher=among[0]) if len(among) == 1 else case

    def _planned(self, case: Case, real: ImageData | None) -> TrainPlan:
        plan = self.row.plan_for(case)
        may_flip = _may_flip(case.dataset) if real is None else real.flip
        if plan.views is not None and not may_flip:
            plan = plan.changed(views=replace(plan.views, flip=0.0))
        return plan

    def plan_for(
        self, distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
    ) -> TrainPlan:
        """The row's plan for a set: with the forms that fit it, and at the step size of a set that learned one where the plan
        starts at it.

        Args:
            network: of the students.
            dataset: name of the real data; "": the one that the set names.
            real: the real data, whose classes, size and mirror symmetry then count.
        """
        plan = self._planned(self._case(distilled, network, dataset, real), real)
        if not plan.learned_rate or distilled.program is None:
            return plan
        return plan.changed(lr=float(distilled.program.step_sizes[0]))

    def evaluate(
        self,
        distilled: DistilledSet,
        real: RealData,
        network: str,
        generators: Sequence[Generators],
        options: EngineOptions | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Train one fresh student for each family of generators and test it after its last epoch.

        Args:
            distilled: a set that :meth:`accepts`.
            real: training split (subsets name images of it) and test split.
            network: registered name.
            generators: one family a student; nothing else is random.
            options: device, precision, path; where stored answers are kept.
            progress: called with (epochs done, epochs in all, mean loss), before that perhaps with (done, total) of teachers
                and of labels; may raise to stop.

        Raises:
            ValueError: a set that is not accepted, or whose parts do not fit the data.
            FloatingPointError: a student diverged.
        """
        self._check(distilled, network, real)
        options = options or EngineOptions()
        begun = time.perf_counter()
        taught = self.teach(distilled, real, network, generators, options, progress)
        begun += taught.labels.teaching_s
        trained = self.scored(taught, distilled, real, generators, options, begun)
        return replace(trained, notes=self.notes(taught))

    def notes(self, taught: Taught) -> dict[str, str]:
        """What a reader must know of how students were taught."""
        notes = {"protocol": described(taught.plan)} if self.row.forms else {}
        if taught.labels.note:
            notes["labels"] = taught.labels.note
        return notes

    def teach(
        self,
        distilled: DistilledSet,
        real: RealData,
        network: str,
        generators: Sequence[Generators],
        options: EngineOptions,
        progress: Progress | None = None,
        plan: TrainPlan | None = None,
    ) -> Taught:
        """Train the students of :meth:`evaluate` without testing them after their last epoch.

        Args:
            plan: in place of :meth:`plan_for`'s.
        """
        plan = plan or self.plan_for(distilled, network, real.name, real.train)
        found = make_items(distilled, real, options)
        with contextlib.ExitStack() as stack:
            if plan.labels is None:
                with arithmetic(options.precision):
                    labels = _by_set(distilled, found, real, plan, options)
            else:
                folder = options.labels
                if folder is None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddbench-labels-")))
                if options.precision in ("tf32", "float64"):  # other logits
                    folder = folder / options.precision
                with arithmetic(options.precision):
                    labels = labelled(distilled, found, real, plan, options, folder, progress)
                plan = plan if labels.views is None else plan.changed(views=labels.views)
            trainees = train_students(
                labels.items,
                plan,
                network,
                generators,
                options,
                progress,
                labels.answers,
                distilled.tensors,
                dataset=real.name,
                tester=tester(distilled, real, options, plan.test_resize),
            )
        return Taught(trainees, plan, labels)

    def scored(
        self,
        taught: Taught,
        distilled: DistilledSet,
        real: RealData,
        generators: Sequence[Generators],
        options: EngineOptions,
        begun: float,
    ) -> Evaluation:
        """The scores of taught students, with what their labels took; ``begun`` as for :func:`score`."""
        labels, plan = taught.labels, taught.plan
        return replace(
            score(taught.trainees, distilled, real, generators, options, begun, plan.test_resize),
            rate=plan.lr_at(0),
            label_bytes=labels.label_bytes,
            beside=labels.beside,
            labels=labels.kind,
            labelled_by=labels.labelled_by,
            teacher_s=labels.teacher_s,
            teaching_s=labels.teaching_s,
        )

    def _check(self, distilled: DistilledSet, network: str, real: RealData) -> None:
        reason = self.accepts(distilled, network, real.name, real.train)
        if reason:
            raise ValueError(reason)


class ComposedProtocol(RowProtocol):
    """A protocol whose students are trained by other rows: the base ``taught`` for sets with a labeller, else ``own``."""

    def base(self, distilled: DistilledSet) -> RowProtocol:
        """The row that trains students of a set."""
        labelled_ = distilled.targets.labeller is not None
        return RowProtocol(ROWS[self.row.bases["taught" if labelled_ else "own"]])

    def accepts(
        self, distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
    ) -> str | None:
        base = self.base(distilled)
        reason = base.accepts(distilled, network, dataset, real)
        return reason and f"protocol {self.name} trains students as {base.name}: {reason}"

    def plan_for(
        self, distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
    ) -> TrainPlan:
        """The plan of the row that trains students of a set, without tests on the way."""
        plan = self.base(distilled).plan_for(distilled, network, dataset, real)
        return plan.changed(test_every=0, test_first=0)


def _full_twins() -> str:
    return ", ".join(name for name, row in ROWS.items() if row.data == "full")


def case_of(
    distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
) -> Case:
    """What the settings of a row may depend on, of a set: from the real data where they are there, else from what is known
    of the data set by name, else from the set."""
    card, name = distilled.card, dataset or distilled.card.dataset
    classes, shape = _known(distilled, dataset, real)
    codec, settings = codecs.codec_of(distilled)
    whole = distilled.codec.name == "grid" and settings["kind"] == "whole"
    ipc = card.ipc
    if not ipc and classes:
        ipc = codec.count(distilled.tensors, settings) // classes
    return Case(name, network, ipc, classes, min(shape[-2:], default=0), settings["factor"] if whole else 1)


def _known(distilled: DistilledSet, dataset: str, real: ImageData | None) -> tuple[int, tuple[int, ...]]:
    """Classes and shape (C, H, W) of the real data of a set, as far as they are known: 0 and ()."""
    card = distilled.card
    classes, shape = card.classes, tuple(card.shape)
    if real is not None:
        return real.classes, real.shape
    if not (classes and shape):
        known: Mapping[str, Any] = {}
        with contextlib.suppress(LookupError, registry.PluginError):  # a folder of the user's
            known = registry.facts("datasets", (dataset or card.dataset).partition("?")[0]).keywords
        classes = classes or int(known.get("classes", 0))
        images = distilled.tensors.get("images")
        shape = shape or tuple(known.get("shape", ())) or (() if images is None else tuple(images.shape[1:]))
    return classes, shape


def _may_flip(dataset: str) -> bool:
    try:
        known = registry.facts("datasets", dataset.partition("?")[0]).keywords
    except (LookupError, registry.PluginError):  # known when it is loaded
        return True
    return bool(known.get("flip", True))


def described(plan: TrainPlan) -> str:
    """The settings in which forms of one row differ, in a line."""
    views = plan.views
    parts = [f"{plan.epochs} epochs", f"batch {plan.batch}"]
    if plan.micro_batches > 1:
        parts[-1] += f" in {plan.micro_batches} parts"
    parts.append(f"{plan.optimiser} lr {plan.lr:g} decay {plan.weight_decay:g} on {plan.decay_on}")
    if plan.schedule == "cosine":
        parts.append(f"cosine eta {plan.eta:g}" + (f" warm-up {plan.warmup}" if plan.warmup else ""))
    if views is not None:
        crop = {"none": "no crop", "pad": f"crop of {views.crop_pad} pixels padding"}.get(views.crop)
        low, high = views.crop_scale
        parts.append(crop or f"resized crop {low:.3g} to {high:g}")
        parts.append(f"flip {views.flip:g}")
        parts.append("no mix" if views.mix == "none" else f"{views.mix} {views.mix_alpha:g}")
    loss = plan.loss
    if loss == "kl":
        loss += f" T {plan.temperature:g}" + (" squared" if plan.temperature_squared else "")
    if loss == "mse-gt":
        loss += f" weight {plan.hard_weight:g}"
    return ", ".join([*parts, loss])


def _misfit(name: str, distilled: DistilledSet, plan: TrainPlan) -> str | None:
    """Why the targets of a set do not fit what a plan trains towards, or None."""
    targets = distilled.targets
    labeller = targets.labeller
    if plan.hard or plan.labels is not None:
        if targets.ids is None and (plan.hard or plan.loss == "mse-gt"):
            return f"protocol {name} needs label ids (loss {plan.loss}), and the set has none"
        return None if plan.hard else refusal(name, distilled, plan)
    if plan.loss == "ce" and targets.kind == "values":
        return f"protocol {name} trains by cross-entropy, and the set's soft targets are free values; they need an mse loss"
    if labeller is not None and plan.loss == "ce":
        way = "; quick-kd trains towards them, rethink-hard by the images' own classes"
        if targets.ids is None:
            way = "; quick-kd trains towards them"
        return f"protocol {name} trains by cross-entropy, and the set's labeller answers with logits; that needs kl or mse{way}"
    if plan.loss in ("kl", "mse", "mse-gt") and targets.soft is None and labeller is None:
        return f"protocol {name} needs soft targets or a labeller (loss {plan.loss}), and the set has hard labels only"
    if (
        plan.loss in ("ce", "mse-gt")
        and targets.ids is None
        and (plan.loss == "mse-gt" or targets.soft is None)
    ):
        return f"protocol {name} needs label ids (loss {plan.loss}), and the set has none"
    if labeller is not None and labeller.views is not None:
        if plan.views is None:
            return (
                f"protocol {name} draws its own batches, and the set's labels belong to the views of a plan"
            )
        try:
            check_plan(labeller, plan.views)
        except ValueError as error:
            return f"protocol {name}: {error}"
    return None


def _lone(
    name: str, distilled: DistilledSet, plan: TrainPlan, network: str, classes: int, shape: tuple[int, ...]
) -> str | None:
    """Why batch norm would meet a single value a channel, one image with maps of one pixel, or None.

    PyTorch raises there, in the student's parts of a batch or in what the labelling networks see in train mode.
    """
    codec, settings = codecs.codec_of(distilled)
    if not classes or len(shape) != 3 or type(codec).law is not codecs.Codec.law:
        return None
    n, batch, part = codec.count(distilled.tensors, settings), plan.batch, plan.part
    sizes = {batch} if n >= batch else set()
    if n % batch and not (sizes and plan.drop_last and plan.views is None):
        sizes.add(n % batch)

    def in_student(size: int) -> bool:
        return part == 1 or size % part == 1

    def in_teacher(size: int) -> bool:
        return size <= (3 if plan.labels is not None and plan.labels.batch_norm == "train-halves" else 1)

    said = " in halves" if plan.labels is not None and plan.labels.batch_norm == "train-halves" else ""
    split = f" in {plan.micro_batches} parts" if plan.micro_batches > 1 else ""
    for who, found, how, meets in (
        ("student", [(network, shape)] if network else [], split, in_student),
        ("labelling network", _in_train_mode(distilled, plan, shape), said, in_teacher),
    ):
        if not any(meets(size) for size in sizes):
            continue
        for one, (c, h, w) in found:
            if not trains_on_one(one, (c, h, w), classes):
                bad = ", ".join(str(r) for r in range(batch) if meets(r or batch))
                return (
                    f"protocol {name} gives the {who} {one} a part of 1 image ({n} items in batches of {batch}{how}), of which "
                    f"batch norm has no statistics where maps are one pixel, as for {h}x{w} images there; expected items "
                    f"whose remainder by {batch} is none of {bad} (another ipc), or a {who} with larger maps, such as "
                    f"ConvNetBN"
                )
    return None


def _in_train_mode(
    distilled: DistilledSet, plan: TrainPlan, shape: tuple[int, ...]
) -> list[tuple[str, tuple[int, ...]]]:
    """The networks that label by the statistics of a batch, with the images that they see."""
    labels, own = plan.labels, distilled.targets.labeller
    if labels is None or labels.batch_norm == "eval" or labels.sees == "clean":
        return []
    if own is None or labels.always:
        return [(for_side(network, min(shape[1:])), shape) for network in labels.networks]
    return [
        (ref.architecture, shape if ref.size is None else (shape[0], ref.size, ref.size))
        for ref in own.networks
    ]


def make_items(distilled: DistilledSet, real: RealData, options: EngineOptions) -> Items:
    """The items of a set on the device of the options."""
    limit = {} if options.memory_limit_mib is None else {"memory_limit_mib": options.memory_limit_mib}
    return codecs.items(distilled, real.train, options.device, options.dtype, **limit)


def _by_set(
    distilled: DistilledSet, items: Items, real: RealData, plan: TrainPlan, options: EngineOptions
) -> Labels:
    """Items towards the set's own targets, with the answers of its labeller where it has one: fixed ones as soft targets,
    others asked for view by view.

    Stored answers are a function of the views, so networks that answer while the student trains say the same, rounded as
    stored ones are.
    """
    labeller = items.labeller
    if plan.hard:
        return Labels(replace(items, soft=None, kind="none", labeller=None))
    if labeller is None:
        return Labels(items, kind="hard" if items.soft is None else "soft")
    who = identities(labeller, distilled)
    shape = real.train.shape
    networks = load_networks(labeller, distilled, shape, items.classes, device=options.device)
    if labeller.sees == "clean" and items.visit is None:
        soft = answer_items(items, labeller, networks).to(options.dtype)
        static = replace(items, soft=soft, kind="logits", labeller=None)
        return Labels(static, kind=kind_of(labeller, "static"), labelled_by=who)
    ask = _answering(labeller, networks, items.space, rounded=labeller.views is not None)
    return Labels(items, ask, kind=kind_of(labeller, "online"), labelled_by=who)


def _answering(
    labeller: Labeller, networks: Sequence[torch.nn.Module], space: Space | None, rounded: bool
) -> AnswerView:
    def ask(epoch: int, batch: int, rows: Tensor, inputs: Tensor) -> Tensor:
        logits = answer(labeller, networks, inputs.float(), space)
        return logits.half() if rounded else logits

    return ask


def tester(distilled: DistilledSet, real: RealData, options: EngineOptions, resize: bool = False) -> Tester:
    """What tests students of a set on the real test images, which go through the set's own space."""
    space = distilled.space or real.train.space
    return functools.partial(tested, test=real.test, space=space, options=options, resize=resize)


def score(
    trainees: Trainees,
    distilled: DistilledSet,
    real: RealData,
    generators: Sequence[Generators],
    options: EngineOptions,
    begun: float,
    resize: bool = False,
) -> Evaluation:
    """Test trained students; ``begun`` is the clock at which the evaluation began."""
    found = tester(distilled, real, options, resize)(trainees)
    compile_s = found.compile_s + trainees.compile_s
    scores = [
        Score(metric="top1", value=value, network=trainees.network, seed=g.seed)
        for value, g in zip(found.accuracies, generators, strict=True)
    ]
    scores += [
        Score(
            value=max(value, *tests.values()),
            network=trainees.network,
            seed=g.seed,
            chosen_by="best-epoch",
            chosen_on="test",
        )
        for value, tests, g in zip(found.accuracies, trainees.tests, generators, strict=False)
        if tests
    ]
    return Evaluation(
        scores,
        trainees.path,
        compile_s,
        max(0.0, time.perf_counter() - begun - compile_s),
        ece=found.ece,
        class_accuracy=found.class_accuracy,
    )
