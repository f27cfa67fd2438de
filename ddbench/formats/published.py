"""Published sets -> ours.  What a file does not say is asked for, never guessed; what was said and seen goes into the card."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench import codecs, data, sets
from ddbench.contract import (
    ZCA,
    Card,
    CodecSpec,
    DistilledSet,
    ImageData,
    Program,
    RealData,
    Space,
    Targets,
)
from ddbench.foreign import LIMIT_MIB, FormatError
from ddbench.formats.found import Found, Labels, channels_first, described, labels_of, stacked
from ddbench.formats.given import KINDS, as_set
from ddbench.formats.opened import ALIASES, FORMATS, Opened, opened, sealed
from ddbench.registry import nearest
from ddbench.train.fkd import import_fkd

SPACES = ("raw", "norm", "zca")
DECODES = ("single", "multi", "bound", "shuffle")
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GREY = {"mnist": ((0.1307,), (0.3081,)), "fashion_mnist": ((0.2861,), (0.3530,))}
_COMMON = {
    **_GREY,
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": _CIFAR,
    "tiny_imagenet": _IMAGENET,
    "imagenet1k": _IMAGENET,
    **dict.fromkeys(
        ("imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow"), _IMAGENET
    ),
}
STATS: Mapping[str, Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    # Zhao et al.'s utils.py, and what is built on it
    "dc": {**_COMMON, "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))},
    # MTT, FTD, DATM, IDC, NCFM, DD-Ranking: those of CIFAR-10 for CIFAR-100, too
    "mtt": {**_COMMON, "cifar100": _CIFAR},
}
"""Mean and deviation a channel, by family of code and data set (specs of arXiv:2006.05929 and arXiv:2203.11932)."""
_OTHERS = {
    "cifar10": "deviations of 0.247,0.243,0.261 (DD-RobustBench re-normalises IDC with 0.2471,0.2435,0.2616)"
}
"""Statistics that are about, too, of data sets whose usual ones are taken without a question."""
_RAW_HIGH = 2.0  # optimised pixels overshoot, not by so much
_PIXEL_LISTS = ("idc", "dream", "ncfm")
_KIP_NOTE = (
    "distilled under KIP's own whitening, which is not published; it is evaluated in the space that was said"
)

Stats = tuple[tuple[float, ...], tuple[float, ...]]


def parse_stats(text: str) -> str | Stats:
    """``dc``, ``mtt``, ``own`` or ``m1,m2,m3/s1,s2,s3`` (one value a channel, on the [0, 1] scale).

    Raises:
        FormatError: neither.
    """
    if text in (*STATS, "own"):
        return text
    try:
        mean, std = (tuple(float(x) for x in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean = std = ()
    if not mean or len(mean) != len(std) or any(not s > 0 for s in std):
        raise FormatError(
            f"statistics are {text!r}; expected dc, mtt, own or means and deviations such as 0.49,0.48,0.45/0.20,0.20,0.20"
        )
    return mean, std


@dataclass
class _Unclear:
    """What has to be said before a set can be read; all of it is asked for at once."""

    found: Found
    questions: list[str]
    notes: dict[str, str] = field(default_factory=dict)
    """For the card: what was assumed, and doubts."""

    def doubt(self, text: str) -> None:
        self.notes["source_doubt"] = _joined(self.notes.get("source_doubt", ""), text)

    def ask(self, flag: str, why: str) -> None:
        self.questions.append(f"{flag}: {why}")

    def check(self) -> None:
        if not self.questions:
            return
        seen = "".join(f"\n  {k}: {v}" for k, v in self.found.rows().items())
        asked = "".join(f"\n  {q}" for q in self.questions)
        raise FormatError(
            f"{self.found.path} does not say all that is needed, and nothing is guessed.  Seen:{seen}\nTo be said:{asked}"
        )


def _joined(*texts: str) -> str:
    return "; ".join(t for t in texts if t)


def _plain_name(name: str) -> str:
    return name.partition("?")[0]


def _numbers(stats: Stats) -> str:
    return "/".join(",".join(f"{x:g}" for x in part) for part in stats)


def _statistics(real: ImageData, stats: str | Stats | None, unclear: _Unclear) -> Stats:
    """Those of standardised values: as said; where every known code has the same, those."""
    own: Stats = tuple(real.mean), tuple(real.std)
    known = {family: rows[name] for family, rows in STATS.items() if (name := _plain_name(real.name)) in rows}
    if isinstance(stats, str):
        stats = parse_stats(stats)
    if stats == "own":
        return own
    if isinstance(stats, str):
        if stats not in known:
            raise FormatError(
                f"statistics {stats!r} are not known for {real.name}; expected own ({_numbers(own)}) or numbers m/s"
            )
        return known[stats]
    if stats is not None:
        if len(stats[0]) != real.shape[0] or len(stats[1]) != real.shape[0]:
            raise FormatError(
                f"statistics {_numbers(stats)} are of {len(stats[0])} channels, {real.name} has {real.shape[0]}"
            )
        return tuple(stats[0]), tuple(stats[1])
    choices = {"own": own, **known}
    if not known or len({_numbers(s) for s in choices.values()}) > 1:
        listed = "; ".join(f"{name} {_numbers(s)}" for name, s in choices.items())
        unclear.ask(
            "--stats dc|mtt|own|M,../S,..",
            f"by which mean and deviation the values were standardised ({listed})",
        )
    else:
        text = f"assumed: {_numbers(own)}, which the codes of DC and MTT share"
        if _plain_name(real.name) in _OTHERS:
            text += f"; some codes have {_OTHERS[_plain_name(real.name)]}: say theirs with --stats"
        unclear.notes["source_statistics"] = text
    return own


def _space(
    o: Opened,
    found: Found,
    real: RealData,
    space: str | Space | None,
    stats: str | Stats | None,
    zca: ZCA | None,
    zca_on: str | None,
    alias: str | None,
    unclear: _Unclear,
) -> Space:
    """The space of the stored values; doubts about it are noted."""
    assert found.images is not None  # pictures and tensors have values
    train = real.train
    own: Stats = tuple(train.mean), tuple(train.std)
    if isinstance(space, Space):
        return space
    if space is not None and space not in SPACES:
        raise FormatError(f"space is {space!r}; expected raw, norm or zca")
    if zca is not None and space not in (None, "zca"):
        raise FormatError(f"a whitening was given for space {space!r}; expected zca")
    if found.images.dtype == "uint8":
        if space not in (None, "raw"):
            raise FormatError(f"{o.path} has 8-bit pixels, which are raw; they cannot be in space {space!r}")
        mean, std = own if stats is None else _statistics(train, stats, unclear)
        return Space("uint8", mean, std)
    if space is None:
        listed = o.format == "pair" and o.facts.get("form") == "list"
        if listed and alias in _PIXEL_LISTS and found.space == "raw":
            space = "raw"  # these store pixels, and the values are
        else:
            why = f"the file does not say; a hint: {found.space or 'unclear'}, {found.evidence}"
            if listed and found.space == "raw":
                why += ".  IDC, DREAM and NCFM store pixels in such lists: --format idc, dream or ncfm says so, too"
            if o.format == "kip":
                why = (
                    f"KIP whitens in a way of its own, which is not in the file, so accuracy will suffer in any space of ours; "
                    f"say zca (the nearest: ours, eps 0.1) to go on.  {found.evidence}"
                )
            unclear.ask("--space raw|norm|zca", why)
            return Space("unit", *own)
    if found.space not in ("", space):
        unclear.doubt(f"said {space}, but by its values {found.space}: {found.evidence}")
    if space == "raw":
        if found.images.high > _RAW_HIGH:
            raise FormatError(
                f"{o.path} has values from {found.images.low:.4g} to {found.images.high:.4g}, which are no pixels on the "
                f"[0, 1] scale (raw); expected values from 0 to 1: pixels from 0 to 255 need images.round().to(torch.uint8) or "
                f"images / 255, and standardised or whitened ones --space norm or zca"
            )
        mean, std = own if stats is None else _statistics(train, stats, unclear)
        return Space("unit", mean, std)
    if space == "norm":
        return Space("input", *_statistics(train, stats, unclear))
    if zca is not None:
        return Space("input", (0.0,) * train.shape[0], (1.0,) * train.shape[0], zca)
    if zca_on is None and o.format == "dc":
        unclear.ask(
            "--zca-on unit|standardised",
            "which pixels were whitened: DataDAM whitens standardised ones, MTT and its descendants those of [0, 1]",
        )
        return Space("unit", *own)
    if zca_on not in (None, "unit", "standardised"):
        raise FormatError(f"whitening is said to be of {zca_on!r}; expected unit or standardised")
    unclear.check()  # before the fit, which takes minutes
    if zca_on == "standardised":
        mean, std = _statistics(train, stats, unclear)
        unclear.check()
        train = replace(train, mean=mean, std=std)
        return data.zca_space(train, data.fit_zca(train, 0.1, "standardised"), "standardised")
    return data.zca_space(train, data.fit_zca(train, 0.1))


# ------------------------------------------------------------------------------------------------ labels and classes


def _labels(
    labels: Tensor, seen: Labels, kind: str | None, o: Opened, unclear: _Unclear
) -> tuple[Tensor, str | None]:
    """Labels and their kind, as :func:`given.as_set` takes them."""
    if kind is not None and kind not in (*KINDS, "centred"):
        raise FormatError(f"label kind is {kind!r}; expected {', '.join((*KINDS, 'centred'))}")
    if labels.dim() == 2 and (
        kind in ("ids", "centred") or (kind is None and seen.kind == "centred" and o.format == "kip")
    ):
        return labels.argmax(1), "ids"
    if kind is not None:
        return labels, kind
    if o.format == "kip" and seen.kind != "probabilities":
        unclear.ask(
            "--labels ids|values",
            f"labels are {seen.why}; KIP's learned ones are values of a regression, not logits",
        )
    elif not seen.kind or seen.kind == "centred":
        unclear.ask("--labels ids|probabilities|logits|values", f"labels are {seen.why}")
    return labels, None


def _class_list(classes: str | os.PathLike[str] | Sequence[str], real: ImageData) -> list[int]:
    """Label of the data set for each class of the authors, in their order.

    Raises:
        FormatError: names that are no classes of the data set, or twice the same.
    """
    if isinstance(classes, (str, os.PathLike)):
        path = Path(classes)
        if not path.is_file():
            raise FileNotFoundError(f"no class list {path}; expected a file with one class name a line")
        if path.stat().st_size > 1 << 20:
            raise FormatError(f"class list {path} is larger than 1 MiB; expected one class name a line")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise FormatError(f"class list {path} is no text ({error})") from error
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = [str(c) for c in classes]
    if len(set(names)) != len(names) or not names:
        twice = next((n for n in names if names.count(n) > 1), "nothing")
        raise FormatError(
            f"the class list names {twice!r} twice; expected each class once, in the authors' order"
        )
    own = {name: c for c, name in enumerate(real.class_names)}
    if all(n in own for n in names):
        return [own[n] for n in names]
    if all(re.fullmatch(r"\d{1,6}", n) for n in names) and max(map(int, names)) < real.classes:
        return [int(n) for n in names]
    strange = next(n for n in names if n not in own)
    listed = ", ".join(real.class_names[:5]) or f"numbers from 0 to {real.classes - 1}"
    hint = nearest(strange, real.class_names)
    raise FormatError(
        f"the class list names {strange!r}, which is no class of {real.name} (its are {listed}, ...); "
        f"expected its own names, or its label numbers{f'; {hint}' if hint else ''}"
    )


def _group_labels(o: Opened, real: ImageData, classes: Any, unclear: _Unclear) -> dict[str, int]:
    """Class of the data set for every class folder, or class id, of the pictures."""
    assert o.pictures is not None
    groups = list(o.pictures.groups)
    numbered = {g: re.fullmatch(r"(new)?(\d+)", g) for g in groups}
    if classes is not None:
        labels = _class_list(classes, real)
        if all(numbered.values()):
            order = {g: int(m[2]) for g, m in numbered.items() if m}
        else:
            order = {g: i for i, g in enumerate(groups)}
        if max(order.values()) >= len(labels):
            raise FormatError(
                f"{o.path} has class {max(order.values())} but the class list has {len(labels)} names (0 to {len(labels) - 1})"
            )
        return {g: labels[i] for g, i in order.items()}
    own = o.card.get("folders")
    if isinstance(own, dict) and o.card.get("dataset") == real.name and all(g in own for g in groups):
        return {g: int(own[g]) for g in groups}
    if o.format == "parquet" or all(m and m[1] for m in numbered.values()):
        found = {g: int(m[2]) for g, m in numbered.items() if m}
        if len(found) < len(groups) or max(found.values()) >= real.classes:
            raise FormatError(
                f"{o.path} has classes {', '.join(groups[:4])}, ...; expected 0 to {real.classes - 1} of {real.name}"
            )
        return found
    by_name = {name: c for c, name in enumerate(real.class_names)}
    if all(g in by_name for g in groups):
        return {g: by_name[g] for g in groups}
    what = (
        "the folders are numbers, and authors number classes in orders of their own (RDED: losses of 8 to 40 points)"
        if all(numbered.values())
        else f"the folders are not named as the classes of {real.name} are"
    )
    unclear.ask(
        "--classes FILE",
        f"{what}; write the names of the classes (or the label numbers of {real.name}), one a line, in the authors' order",
    )
    return dict.fromkeys(groups, 0)


# ------------------------------------------------------------------------------------------------ mosaics


def _codec(
    o: Opened,
    found: Found,
    factor: int | None,
    decode: str,
    bound: int,
    alias: str | None,
    sorted_classes: int,
    unclear: _Unclear,
) -> CodecSpec | None:
    """How stored pictures are cut into items; None: they are the items.  ``sorted_classes``: 0 where they stand unsorted."""
    if decode not in DECODES:
        raise FormatError(f"decode is {decode!r}; expected one of {', '.join(DECODES)}")
    assert found.images is not None  # of pictures and tensors
    side = min(found.images.shape[2:])
    if factor is not None and not 1 <= factor <= side:
        raise FormatError(
            f"factor is {factor}; expected 1 (no mosaics) or 2 to {side} tiles a side, which {o.path} with pictures of "
            f"{'x'.join(map(str, found.images.shape[2:]))} can have"
        )
    if factor == 1 and decode != "single":
        raise FormatError(
            f"decode {decode} cuts mosaics, and {o.path} is said to have none (factor 1); expected a factor of at least 2"
        )
    if bound < 1:
        raise FormatError(f"bound is {bound}; expected at least 1 item a class")
    if factor is None:
        named = alias == "bacon" or o.path.name.upper().startswith("BACON")
        if o.format == "pair" and o.facts.get("form") == "list":
            why = "lists of images and labels are IDC's form, whose pictures are mosaics of tiles that the file does not count"
        elif named:
            why = "BACON's pictures are cut in 2x2 when they are trained on"
        elif found.factor > 1:
            why = f"the pictures look like mosaics of {found.factor}x{found.factor}"
        else:
            return None
        unclear.ask("--factor N", f"{why} (1: no mosaics).  {found.seams}")
        return None
    if factor == 1:
        return None
    if decode == "shuffle":
        return CodecSpec("grid", {"factor": factor, "kind": "whole", "visit": "patch-shuffle"})
    settings: dict[str, Any] = {"factor": factor, "kind": decode}
    if decode == "bound":
        if not sorted_classes:
            raise FormatError(
                f"{o.path} has its images not class by class; decode bound cuts each class apart"
            )
        settings |= {"bound": bound, "groups": sorted_classes}
    return CodecSpec("grid", settings)


# ------------------------------------------------------------------------------------------------ the whole


def _steps(o: Opened, experiment: int | None) -> tuple[Tensor, Tensor, Program | None]:
    """Wang et al.'s steps: every distinct batch once, and the program that replays them."""
    if experiment is not None:
        images, labels = o.pairs[experiment]
        return images, labels, None
    if len(o.rates) != len(o.pairs):
        raise FormatError(
            f"{o.path} has {len(o.pairs)} steps and {len(o.rates)} step sizes; say which step's images are the set: "
            f"--experiment N (-1: the last, as DC-BENCH reads it)"
        )
    distinct: list[tuple[Tensor, Tensor]] = []
    starts, order = [0], []
    for pair in o.pairs:
        same = (
            all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(pair, other, strict=True))
            for other in distinct
        )
        known = next((i for i, equal in enumerate(same) if equal), len(distinct))
        if known == len(distinct):
            distinct.append(pair)
            starts.append(starts[-1] + len(pair[0]))
        order.append(tuple(range(starts[known], starts[known + 1])))
    sizes = torch.tensor(o.rates, dtype=torch.float32)
    program = Program(sizes, tuple(order), "xavier-normal")
    return torch.cat([p[0] for p in distinct]), torch.cat([p[1] for p in distinct]), program


def _subset(o: Opened, real: RealData, method: str) -> DistilledSet:
    assert o.indices is not None
    train = real.train
    if not len(o.indices) or int(o.indices.min()) < 0 or int(o.indices.max()) >= len(train):
        low, high = (int(o.indices.min()), int(o.indices.max())) if len(o.indices) else (0, -1)
        raise FormatError(
            f"{o.path} has {len(o.indices)} indices from {low} to {high}; {train.name} has {len(train)} training images "
            f"(0 to {len(train) - 1})"
        )
    card = Card(
        method=method,
        dataset=train.name,
        data_fingerprint=train.fingerprint,
        ipc=len(o.indices) / train.classes,
        classes=train.classes,
        shape=train.shape,
    )
    ids = train.labels[o.indices.to(train.labels.device)].cpu()
    return DistilledSet({"indices": o.indices}, Targets(ids=ids), train.space, CodecSpec("subset"), card=card)


def _format(o: Opened, wanted: str | None) -> None:
    if wanted is None:
        return
    if wanted not in FORMATS and wanted not in ALIASES:
        names = [*FORMATS, *ALIASES]
        hint = nearest(wanted, names)
        raise FormatError(
            f"no format {wanted!r}{'; ' + hint if hint else ''}; expected one of {', '.join(names)}"
        )
    named = ALIASES.get(wanted, wanted)
    if named != o.format and not (named == "pair" and o.format == "kip"):
        raise FormatError(f"{o.path} is not of format {wanted} but {o.format}: {FORMATS[o.format]}")


def _said_by_card(o: Opened, real: RealData) -> dict[str, Any]:
    """What our own export says beside the files; used where the user says nothing else."""
    card = o.card
    if not card or card.get("dataset") != real.name:
        return {}
    found: dict[str, Any] = {}
    if card.get("space") in SPACES:
        found["space"] = card["space"]
    if isinstance(card.get("stats"), str) and card.get("space") != "zca":
        found["stats"] = card["stats"]
    if card.get("zca_on") in ("unit", "standardised"):
        found["zca_on"] = card["zca_on"]
        found["stats"] = card.get("stats") if isinstance(card.get("stats"), str) else None
    if card.get("labels") in KINDS:
        found["label_kind"] = card["labels"]
    if isinstance(card.get("factor"), int) and card.get("decode") in DECODES:
        found |= {"factor": card["factor"], "decode": card["decode"]}
    return found


def read_published(
    path: str | os.PathLike[str],
    dataset: str | RealData,
    *,
    format: str | None = None,
    space: str | Space | None = None,
    stats: str | Stats | None = None,
    zca: ZCA | None = None,
    zca_on: str | None = None,
    label_kind: str | None = None,
    factor: int | None = None,
    decode: str | None = None,
    bound: int = 128,
    experiment: int | None = None,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    labelled: DistilledSet | None = None,
    labels_out: str | os.PathLike[str] | None = None,
    batch_norm: str = "eval",
    teacher: str = "",
    method: str = "",
    source: str = "",
    data_root: str | os.PathLike[str] | None = None,
    limit_mib: float = LIMIT_MIB,
) -> DistilledSet:
    """A set that somebody published, as one of ours.

    Args:
        path: file, folder or archive; see :func:`look`.
        dataset: name of the real data that it was made from, or real data of your own.
        format: of :data:`FORMATS` (or a method of :data:`ALIASES`): refuse anything else; None: by content.
        space: what float values are: ``raw`` (pixels on the [0, 1] scale), ``norm`` (standardised), ``zca`` (whitened with
            kornia's ZCA, eps 0.1, fitted again on the training images), or a Space.
        stats: mean and deviation: ``dc``, ``mtt`` (:data:`STATS`), ``own`` (the data set's), ``m,m,m/s,s,s`` or two tuples.
        zca: the whitening, where it is at hand.
        zca_on: what was whitened: ``unit`` pixels (MTT; the default but for DataDAM's form) or ``standardised`` ones (DataDAM).
        label_kind: ``ids`` (of rows: their largest value), ``probabilities``, ``logits``, ``values``; None: by their values,
            where these decide.
        factor: tiles a side of each stored picture; 1: no mosaics.
        decode: how mosaics become items: ``single`` (the default), ``multi``, ``bound`` (``bound`` items a class) or
            ``shuffle`` (whole mosaics with shuffled patches: RDED).
        experiment: of several; None: the last (of steps: all, as a program).
        classes: file with a class name (or label number) a line in the authors' order, or the names.
        labelled: of label files (FKD): the set that they are of, items in the order of the authors' image folder.
        labels_out: of label files: folder for the answers (``labels`` beside the set that will be written).
        batch_norm: of label files: mode in which the teachers answered.
        teacher: a note: which teacher labelled, and its accuracy.
        method: name for the set, in records.
        source: a note: where the file comes from.
        limit_mib: most that the file may hold once unpacked.

    Returns:
        the set, on the CPU, in memory; its card says the file, its sha256, what was said and what was seen.

    Raises:
        FileNotFoundError: nothing there.
        FormatError: not a known form, not safe, does not fit the data, or its meaning is unclear; says what was seen and
            which flags decide.
    """
    given = {
        "format": format, "space": space if isinstance(space, str) else None, "stats": stats, "zca_on": zca_on,
        "labels": label_kind, "factor": factor, "decode": decode, "experiment": experiment,
        "classes": None if classes is None else str(classes) if isinstance(classes, (str, os.PathLike)) else "a list",
        "teacher": teacher or None, "source": source or None,
    }  # fmt: skip
    path = Path(path)
    with sealed(path), opened(path, limit_mib) as o:
        _format(o, format)
        real = (
            dataset
            if isinstance(dataset, RealData)
            else data.load(dataset, data_root, memory_limit_mib=limit_mib)
        )
        count = max(len(o.pairs), 1)
        if experiment is not None and not -count <= experiment < count:
            raise FormatError(
                f"{path} has {count} experiments; {experiment} is none of them (0 to {count - 1}, or -1)"
            )
        found = described(o, -1 if experiment is None else experiment)
        notes: dict[str, Any] = {}
        if o.ours is not None:
            made = sets.read(o.ours, zca)
            codecs.check(made, real.train)
            notes = dict(made.card.notes)
        elif o.fkd is not None:
            if labelled is None or labels_out is None:
                raise FormatError(
                    f"{path} has the label files of a set; say which: --set FILE (or ddbench labels import-fkd)"
                )
            made = import_fkd(o.fkd, labelled, Path(labels_out), batch_norm=batch_norm)
            notes = dict(made.card.notes)
        elif o.indices is not None:
            made = _subset(o, real, method)
        else:
            by_card = _said_by_card(o, real)
            made, noted = _made(
                o, found, real, space=space or by_card.get("space"), stats=stats or by_card.get("stats"), zca=zca,
                zca_on=zca_on or by_card.get("zca_on"), label_kind=label_kind or by_card.get("label_kind"),
                factor=by_card.get("factor") if factor is None else factor,
                decode=decode or by_card.get("decode") or "single", bound=bound, experiment=experiment,
                classes=classes, method=method, alias=format, limit_mib=limit_mib,
            )  # fmt: skip
            notes |= noted
            if by_card:
                given["card"] = " ".join(sorted(by_card))
            if o.format == "kip":
                notes["source_whitening"] = _KIP_NOTE
        if method and method != made.card.method:
            made = made.changed(card={"method": method})
        expected = o.card.get("zca_hash")
        if (
            expected
            and made.space is not None
            and made.space.zca is not None
            and made.space.zca.hash != expected
        ):
            text = f"the card names the whitening {expected}, fitted here: {made.space.zca.hash}"
            notes["source_doubt"] = _joined(notes.get("source_doubt", ""), text)
        notes |= {
            "source_file": path.name,
            "source_sha256": o.sha256(),
            "source_format": f"{o.format} ({o.container})",
            "source_said": " ".join(f"{k}={_said(v)}" for k, v in given.items() if v is not None)
            or "nothing",
            "source_seen": "; ".join(f"{k}: {v}" for k, v in found.rows().items() if k in _NOTED),
        }
        if len(o.pairs) > 1:
            which = (
                "all, as a program" if made.program and made.program.order else str((experiment or 0) % count)
            )
            if experiment is None and o.format != "dd":
                which = str(count - 1)
            notes["source_experiment"] = f"{which} of {count}"
        made = made.changed(card={"notes": notes})
        codecs.check(made, real.train)
        return made


_NOTED = ("images", "likely space (a hint)", "mosaic (a hint)", "labels", "order")


def _said(value: Any) -> str:
    return _numbers(value) if isinstance(value, tuple) else str(value)


def _made(
    o: Opened,
    found: Found,
    real: RealData,
    *,
    space: str | Space | None,
    stats: str | Stats | None,
    zca: ZCA | None,
    zca_on: str | None,
    label_kind: str | None,
    factor: int | None,
    decode: str,
    bound: int,
    experiment: int | None,
    classes: Any,
    method: str,
    alias: str | None,
    limit_mib: float,
) -> tuple[DistilledSet, dict[str, str]]:
    """A set of pictures or tensors, and notes for its card: assumptions and doubts."""
    unclear = _Unclear(found, [])
    program = None
    if o.pictures is not None:
        groups = _group_labels(o, real.train, classes, unclear)
        sizes = o.pictures.groups
        labels = torch.tensor([groups[g] for g, n in sizes.items() for _ in range(n)], dtype=torch.int64)
        kind: str | None = "ids"
        images = None
    else:
        if o.format == "dd":
            pixels, labels, program = _steps(o, experiment)
        else:
            pixels, labels = o.pairs[-1 if experiment is None else experiment]
            if o.rates:
                program = Program(torch.tensor(o.rates, dtype=torch.float32))
        images = channels_first(o, pixels)
        labels, kind = _labels(labels, labels_of(labels), label_kind, o, unclear)
        if classes is not None:
            if labels.dim() != 1:
                raise FormatError(f"{o.path} has soft labels; a class list is for class ids")
            order = torch.tensor(_class_list(classes, real.train))
            ids = labels.double().round().long()
            if int(ids.min()) < 0 or int(ids.max()) >= len(order):
                raise FormatError(
                    f"{o.path} has class {int(ids.max())} but the class list has {len(order)} names (0 to {len(order) - 1})"
                )
            labels = order[ids]
        elif kind == "ids" or labels.dim() == 1:
            low, high = int(labels.min()), int(labels.max())
            if low > 0 and high < real.train.classes:
                unclear.doubt(
                    f"labels run from {low} to {high} and none is 0 of {real.train.classes} classes: where they count from 1, "
                    f"subtract 1"
                )
    by_class = bool((labels[1:] >= labels[:-1]).all()) if labels.dim() == 1 else False
    runs = int(len(torch.unique(labels))) if by_class else 0
    codec = _codec(o, found, factor, decode, bound, alias, runs, unclear)
    chosen = _space(o, found, real, space, stats, zca, zca_on, alias, unclear)
    unclear.check()
    if images is None:
        images, labels = _decoded(o, groups, limit_mib)
    made = as_set(
        images.clone(), labels.clone(), real, space=chosen, label_kind=kind, codec=codec, method=method
    )
    return made.changed(program=program), unclear.notes


def _decoded(o: Opened, groups: Mapping[str, int], limit_mib: float) -> tuple[Tensor, Tensor]:
    """All pictures (n, C, H, W) uint8 and their class ids (n,)."""
    assert o.pictures is not None
    arrays, labels, size = [], [], 0
    for group, array in o.pictures.read(None):
        size += array.nbytes
        if size > limit_mib * (1 << 20):
            raise FormatError(
                f"{o.path} has more than {limit_mib:,.0f} MiB of pixels; allow more where that is right (--limit)"
            )
        arrays.append(array)
        labels.append(groups[group])
    return stacked(arrays, o.path), torch.tensor(labels, dtype=torch.int64)
