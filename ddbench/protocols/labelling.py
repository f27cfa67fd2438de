"""How a protocol has the views of a set labelled: by which networks, before the students train or meanwhile, at what cost.

Sources: specs of the KD protocols; SRe2L (arXiv:2306.13092), INFER (arXiv:2408.06927), arXiv:2502.06434.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path

from torch import Tensor, nn

from ddbench import codecs, registry
from ddbench.budget import LABEL_NOTE
from ddbench.contract import DistilledSet, Items, Labeller, NetworkRef, RealData, Targets, Trained
from ddbench.nets.names import for_side
from ddbench.train.engine import EngineOptions, Progress
from ddbench.train.labels import (
    StoredAnswers,
    answer,
    answer_items,
    load_networks,
    logit_bytes,
    plan_for,
    store_answers,
)
from ddbench.train.squeeze import squeeze_recipe
from ddbench.train.squeezed import check_one_space, space_of
from ddbench.train.students import AnswerView
from ddbench.train.teachers import about, train_networks
from ddbench.trainplan import LabelPlan, TrainPlan, ViewPlan


@dataclass(frozen=True, eq=False)
class Labels:
    """The items of a set with their labels, and what these took."""

    items: Items
    """Without a labeller; with static labels as soft targets."""
    answers: AnswerView | None = None
    """To every view; None: the labels are static."""
    views: ViewPlan | None = None
    """The plan of the views, where it is not the protocol's: that of files with explicit boxes."""
    label_bytes: int = 0
    """Of the logits that are stored beside the set."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the networks that answer while students train, by name: parameters and buffers."""
    note: str = ""
    """Who labelled, in words."""
    kind: str = "hard"
    """What students learn from: ``hard``, ``soft`` (the set's own), ``teacher`` or ``committee of N``, of which it says whether
    the answers are stored (one a view), static (one an item) or online (given while students train)."""
    labelled_by: tuple[str, ...] = ()
    """The networks that labelled, see :func:`identities`."""
    teacher_s: float = 0.0
    """Seconds that training the protocol's own teachers took, now or when the cache got them."""
    teaching_s: float = 0.0
    """Of these, with what is around them, those of this call."""


def _tagged(name: str, plan: LabelPlan) -> str:
    how = "labels views before training" if plan.store else "has networks label views while students train"
    return f"protocol {name} {how}"


def refusal(name: str, distilled: DistilledSet, plan: TrainPlan) -> str | None:
    """Why a protocol of teacher labels cannot label a set, or None."""
    labels, views = plan.labels, plan.views
    if labels is None or views is None:
        return None
    codec, _ = codecs.codec_of(distilled)
    if not plan.own_views and type(codec).law is not codecs.Codec.law:
        return (
            f"{_tagged(name, labels)}, and this set draws its items anew every epoch (codec {distilled.codec.name}); use a "
            f"protocol whose networks answer meanwhile, such as rethink-soft"
        )
    labeller = distilled.targets.labeller
    if labeller is None or labeller.networks or labels.always:
        return None
    if plan.own_views:
        return f"{_tagged(name, labels)}, and this set has stored answers alone; use the protocol that they were stored for"
    wrong = [
        f"{field} is {there!r} there, {asked!r} asked for"
        for field, there, asked in (
            ("batch_norm", labeller.batch_norm, labels.batch_norm),
            ("sees", labeller.sees, labels.sees),
            ("combine", labeller.combine, labels.combine),
        )
        if there != asked
    ]
    if wrong:
        return f"protocol {name}: the set's stored answers were given otherwise: {'; '.join(wrong)}"
    try:
        plan_for(labeller, views)
    except ValueError as error:
        return f"protocol {name}: {error}"
    return None


# ------------------------------------------------------------------------------------------------ who labels


def own_teachers(
    labels: LabelPlan, real: RealData, options: EngineOptions, progress: Progress | None = None
) -> list[Trained]:
    """The protocol's own teachers for a data set, from the cache where it has them.

    Raises:
        LookupError: no squeeze recipe for the data set.
        ValueError: teachers whose inputs differ.
    """
    train = real.train
    found: list[Trained] = []
    name = train.name
    try:
        registry.facts("datasets", name.partition("?")[0])
    except LookupError:  # data of the caller's own: nothing is known of them by name
        name = f"imagefolder:{name.removeprefix('imagefolder:')}"
    for network in labels.networks:
        recipe = squeeze_recipe(labels.squeeze, for_side(network, min(train.shape[1:])), name)
        found += train_networks(train, recipe, options.device, progress=progress)
    check_one_space(found, real)
    return found


def _said(ref: NetworkRef, total: float) -> str:
    share = "" if ref.weight == total else f", weight {ref.weight / total:.3g}"
    return f"{ref.architecture} {ref.key}{share}{_right(ref)}"


def _note(labeller: Labeller, whose: str) -> str:
    total = sum(ref.weight for ref in labeller.networks)
    networks = "; ".join(_said(ref, total) for ref in labeller.networks)
    mode = {
        "eval": "",
        "train": "; batch norm by the statistics of the batch",
        "train-halves": "; batch norm by the statistics of half batches",
    }
    return f"{whose} {networks}{mode[labeller.batch_norm]}"


def _right(ref: NetworkRef) -> str:
    """How often a network of the cache is right, and on which images; empty where that is not known."""
    known = about(ref.key) if ref.source == "cache" else {}
    accuracy = known.get("accuracy")
    if accuracy is None or isnan(accuracy):
        return ""
    where = "its training images" if (known["recipe"] or {}).get("held_out") == 0 else "held-out images"
    return f", {100 * accuracy:.1f} % on {where}"


def identities(labeller: Labeller, distilled: DistilledSet) -> tuple[str, ...]:
    """The networks of a labeller by their keys, sorted, with their shares where these differ: equal for two sets if, under one
    protocol, the same networks answer for both.  Networks inside a set are known by the set."""
    total = sum(ref.weight for ref in labeller.networks)
    even = len({ref.weight for ref in labeller.networks}) == 1
    inline = f" in {distilled.fingerprint()}" if any(r.source == "inline" for r in labeller.networks) else ""
    return tuple(
        sorted(
            f"{ref.key}{inline if ref.source == 'inline' else ''}"
            + ("" if even else f" x {ref.weight / total:.4g}")
            for ref in labeller.networks
        )
    )


def kind_of(labeller: Labeller, how: str) -> str:
    """``teacher, stored`` and the like."""
    count = len(labeller.networks)
    return f"{'teacher' if count == 1 else f'committee of {count}'}, {how}"


def network_bytes(labeller: Labeller, networks: Sequence[nn.Module]) -> dict[str, int]:
    """Bytes of parameters and buffers by name; those of inline networks are counted with the set."""
    found: dict[str, int] = {}
    for ref, network in zip(labeller.networks, networks, strict=True):
        if ref.source == "inline":
            continue
        name = f"teacher {ref.architecture}"
        if name in found:
            name = f"{name} {ref.key}"
        found[name] = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    return found


# ------------------------------------------------------------------------------------------------ labels


def labelled(
    distilled: DistilledSet,
    items: Items,
    real: RealData,
    plan: TrainPlan,
    options: EngineOptions,
    folder: Path,
    progress: Progress | None = None,
) -> Labels:
    """Have the views of a set labelled as a plan says.

    Args:
        distilled: a set that has no :func:`refusal`.
        items: of the set.
        plan: with views, as they are for these items, and labels.
        options: device and precision.
        folder: where answers to views are kept, and found again.
        progress: called with (done, total) of the teachers' epochs, then of the views; may raise to stop.

    Raises:
        ValueError: networks that do not fit the set, or each other.
        FileNotFoundError, ddbench.store.DamagedError: stored answers that are not there, or not whole.
    """
    labels, views = plan.labels, plan.views
    assert labels is not None and views is not None  # a TrainPlan has both or no labels
    own = distilled.targets.labeller
    bare = replace(
        items, labeller=None, soft=None, kind="none", to_input=lambda x: items.to_input(x).to(options.dtype)
    )
    if own is not None and not own.networks and not labels.always:
        seen = plan_for(own, views)
        answers = StoredAnswers(folder, distilled, seen)
        counted = LABEL_NOTE in distilled.card.notes
        return Labels(
            bare,
            answers,
            seen,
            0 if counted else answers.nbytes,
            note="answers that came with the set",
            kind="answers of the set, stored",
        )
    teacher_s, begun = 0.0, time.perf_counter()
    if own is not None and own.networks and not labels.always:
        networks_of, space, whose, teaching_s = own.networks, own.space, "the set's own", 0.0
    else:
        trained = own_teachers(labels, real, options, progress)
        networks_of, space, whose = (
            tuple(t.ref() for t in trained),
            space_of(trained[0], real),
            "the protocol's own",
        )
        teaching_s = time.perf_counter() - begun
        counted_keys = {ref.key for ref in own.networks} if own is not None else set()
        teacher_s = sum(t.train_s for t in trained if t.fingerprint not in counted_keys)
    stored = labels.store and labels.sees == "augmented"
    labeller = Labeller(
        networks_of, space, labels.batch_norm, labels.sees, views if stored else None, labels.combine
    )
    networks = load_networks(labeller, distilled, real.train.shape, items.classes, device=options.device)
    beside = {} if labels.store else network_bytes(labeller, networks)
    networks = [network.to(options.dtype) for network in networks]
    note, who = _note(labeller, whose), identities(labeller, distilled)
    if labels.sees == "clean":
        soft = answer_items(bare, labeller, networks).to(options.device)  # fp16: converted a batch at a time
        kept = logit_bytes(len(items), items.classes) if labels.store else 0
        static = replace(bare, soft=soft, kind="logits")
        said = f"{note}; one label an image"
        kind = kind_of(labeller, "static")
        return Labels(static, None, None, kept, beside, said, kind, who, teacher_s, teaching_s)
    if stored:
        targets = distilled.targets
        asked = distilled.changed(targets=Targets(targets.ids, weights=targets.weights, labeller=labeller))
        answers = store_answers(folder, asked, bare, networks, progress=progress)
        note = f"{note}; every view of {views.epochs} epochs stored"
        kind = kind_of(labeller, "stored")
        return Labels(bare, answers, None, answers.nbytes, {}, note, kind, who, teacher_s, teaching_s)

    def ask(epoch: int, batch: int, rows: Tensor, inputs: Tensor) -> Tensor:
        return answer(labeller, networks, inputs, items.space)

    said, kind = f"{note}; while students train", kind_of(labeller, "online")
    return Labels(bare, ask, None, 0, beside, said, kind, who, teacher_s, teaching_s)
