"""The front door from Python, for notebooks and other people's code: :func:`distill`, :func:`evaluate`, :func:`load`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ddbench import codecs, data, leaks, plan, protocols, registry, runner, sets, store
from ddbench.contract import Card, CodecSpec, DistilledSet, RealData, Space
from ddbench.formats.given import as_set as as_set
from ddbench.nets import names as network_names
from ddbench.protocols.labelling import labelled
from ddbench.protocols.train import RowProtocol, make_items
from ddbench.records import Cell, DistilCell, Record
from ddbench.sweep import sweep as sweep
from ddbench.task import BudgetUsedUp, RunTask, TimeBudget, parse_duration, pick_device, say
from ddbench.train.engine import EngineOptions, Progress
from ddbench.train.labels import FOLDER, Store, StoredAnswers, drop_changed
from ddbench.train.labels import beside as labels_beside


def load(path: str | os.PathLike[str]) -> DistilledSet:
    """Read a distilled set from its file; ``ddbench.data.load(name)`` reads real data.

    Raises:
        FileNotFoundError: no such file.
        ddbench.store.DamagedError: truncated, changed or foreign; names the file.
    """
    if not Path(path).exists() and str(path).partition("?")[0] in registry.names("datasets"):
        raise FileNotFoundError(
            f"{str(path)!r} is a data set, not a file of a distilled set; for its images: ddbench.data.load({str(path)!r})"
        )
    return sets.read(path)


def _real(
    dataset: str | RealData, device: torch.device, data_root: Any, memory_limit_mib: float | None
) -> RealData:
    if isinstance(dataset, RealData):
        return dataset
    return data.load(dataset, data_root, device=device, memory_limit_mib=memory_limit_mib)


def distill(
    method: str,
    dataset: str | RealData,
    ipc: int,
    *,
    recipe: str = "auto",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    run: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    memory_limit_mib: float | None = None,
    time_budget: str | float | None = None,
    snapshot_every: int = 0,
    tensorboard: bool = False,
    quiet: bool = False,
) -> DistilledSet:
    """Distil a data set.

    Args:
        method: registered name (see: ``ddbench list methods``), or ``wrapper+base``.
        dataset: registered name, ``imagefolder:PATH``, or real data of your own.
        ipc: stored images a class; 0 for methods that keep everything.
        recipe: named hyperparameters; ``auto`` takes the authors' where they fit.
        seed: decides every random number.
        settings: fields of the method that override the recipe.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
        run: run folder with sets and checkpoints, where a set that is there already is read instead, and a distillation
            that was killed goes on; None: nothing is kept.
        time_budget: seconds, or text such as ``9m``; a set that is cut short has ``card.partial``.
        snapshot_every: iterations between snapshots with contact sheets in the run folder; 0: none.
        tensorboard: write traces and contact sheets as TensorBoard event files in the run folder, too.

    Raises:
        LookupError: unknown method, data set, recipe or setting; the message has the nearest names.
        ValueError: a number or setting that may not be; snapshots or event files without a run folder.
        ImportError: event files are asked for without the package that writes them.

    Example:
        >>> small = ddbench.distill("random", "digits", ipc=10)  # doctest: +SKIP
    """
    if ipc < 0 or (ipc == 0 and method != plan.FULL):
        raise ValueError(
            f"ipc is {ipc}; expected at least 1 image a class (all of the data: method {plan.FULL!r})"
        )
    if run is None and (snapshot_every or tensorboard):
        raise ValueError(
            "snapshots and event files go to a run folder; expected run= beside snapshot_every= or tensorboard="
        )
    seconds = parse_duration(time_budget) if isinstance(time_budget, str) else time_budget
    chosen = pick_device(device)
    budget = TimeBudget(seconds)
    if run is not None:
        own = dataset if isinstance(dataset, RealData) else None
        context = runner.Context(
            run=Path(run),
            device=device,
            memory_limit_mib=memory_limit_mib,
            data_root=None if data_root is None else Path(data_root),
            quiet=quiet,
            budget=budget,
            snapshot_every=snapshot_every,
            tensorboard=tensorboard,
        )
        cell = DistilCell(
            method=method,
            recipe=recipe,
            settings=dict(settings or {}),
            dataset=dataset.name if isinstance(dataset, RealData) else dataset,
            ipc=ipc,
            seed=seed,
        )
        session = runner.Session(context, own)
        resolved = registry.resolve_recipe(method, recipe, cell.dataset, ipc)
        for note in runner.recipe_note(resolved).values():
            say(f"{method} {cell.dataset} ipc {ipc}: {note}", quiet)
        try:
            path = session.distil(cell)[1]
        except BudgetUsedUp:
            path = session.run.set_path(session.set_key(cell))
            if not path.exists():
                raise
        return sets.read(path)
    real = _real(dataset, chosen, data_root, memory_limit_mib)
    found = registry.resolve_recipe(method, recipe, real.name, ipc)
    made = registry.make(method, {**found.settings, **(settings or {})})
    for note in runner.recipe_note(found).values():
        say(f"{method} {real.name} ipc {ipc}: {note}", quiet)
    task = RunTask(
        real.train,
        ipc,
        seed,
        chosen,
        memory_limit_mib,
        budget=budget,
        quiet=quiet,
        name=f"{method} ipc {ipc}",
        card=runner.card_of(method, found, registry.settings_of(made)),
    )
    return task.run_method(made)


# ------------------------------------------------------------------------------------------------ other people's sets


def evaluate(
    images: Any,
    labels: Any = None,
    *,
    dataset: str | RealData | None = None,
    protocol: str = "quick",
    networks: str | Sequence[str] | None = None,
    repeats: int | None = None,
    seed: int = 0,
    space: str | Space | None = None,
    label_kind: str | None = None,
    codec: CodecSpec | None = None,
    method: str = "",
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "auto",
    data_root: str | os.PathLike[str] | None = None,
    memory_limit_mib: float | None = None,
    quiet: bool = False,
) -> list[Record]:
    """Train fresh networks on a set and test them on the untouched test data; nothing is written.

    Args:
        images: a distilled set, the path of one, or images (n, C, H, W) (see :func:`as_set`, also for ``labels``, ``space``,
            ``label_kind`` and ``codec``).
        dataset: name of the real data, or real data of your own; a set knows its own.
        protocol: how students are trained (see: ``ddbench list protocols``).
        networks: names, or a pool (``M``, ``B``), one record each; None: the protocol's own.
        repeats: students a network; None: the protocol's own.
        seed: decides the students.
        method: a name for the set, in the records.

    Returns:
        one record a network; ``record.scores`` has one accuracy (a fraction) a student, after its last epoch; protocols
        that test on the way add one a student with ``chosen_by`` best-epoch.

    Raises:
        LookupError: unknown names; the message has the nearest.
        ValueError: a set that does not fit the data or the protocol, or whose values are unclear.

    Example:
        >>> records = ddbench.evaluate(images, labels, dataset="digits", space="unit")  # doctest: +SKIP
    """
    chosen = pick_device(device)
    answers: Path | None = None
    if isinstance(images, (str, os.PathLike)):
        answers = labels_beside(Path(images))
        images = load(images)
    if isinstance(images, DistilledSet):
        labeller = images.targets.labeller
        if labeller is None or labeller.networks:  # nothing is written, and these can be asked again
            answers = None
        if labels is not None or space is not None or label_kind is not None or codec is not None:
            raise ValueError(
                "a distilled set has labels and space of its own; expected no labels=, space=, label_kind= or codec="
            )
        distilled = images
        if dataset is None and not distilled.card.dataset:
            raise ValueError("the set does not name its data set; expected dataset=")
        dataset = dataset if dataset is not None else distilled.card.dataset
    elif labels is None or dataset is None:
        raise ValueError("images without labels and data set; expected evaluate(images, labels, dataset=...)")
    if protocol not in registry.names("protocols"):
        raise registry.unknown("protocols", protocol)
    real = _real(dataset, chosen, data_root, memory_limit_mib)
    row = registry.facts("protocols", protocol).keywords["plan"]
    if networks is None:
        networks = plan.default_networks(protocol, real.train.shape[-1])
    wanted = [networks] if isinstance(networks, str) else list(networks)
    wanted = [network_names.canonical(n) for w in wanted for n in network_names.POOLS.get(w, [w])]
    if not isinstance(images, DistilledSet):
        distilled = as_set(
            images, labels, real, space=space, label_kind=label_kind, codec=codec, method=method
        )
    codecs.check(distilled, real.train)
    for network in wanted:
        reason = registry.get("protocols", protocol).accepts(
            distilled, network, real.name
        ) or network_names.why_not(network, real.train.shape)
        if reason:
            raise ValueError(reason)
    card = distilled.card
    options = EngineOptions(chosen, precision, engine, memory_limit_mib, answers)
    facts: Mapping[str, Any] = {}
    with contextlib.suppress(LookupError, registry.PluginError):  # a set of somebody else's method
        facts = registry.facts("methods", card.method).keywords
    if leaked := leaks.note(distilled, real):
        say(f"warning: {leaked}", quiet)
    changed, note = _overrides(card, real.name)
    notes = {"recipe": note} if note else {}
    records = []
    for network in wanted:
        cell = Cell(
            distil=DistilCell(
                method=card.method or method,
                recipe=card.recipe or "given",
                settings=changed,
                dataset=real.name,
                ipc=round(card.ipc),
                seed=card.seed,
            ),
            protocol=protocol,
            network=network,
            repeats=repeats or row.repeats,
        )

        def base(status: Any, reason: str = "", cell: Cell = cell) -> Record:
            return runner.make_record(
                cell,
                key=f"given-{distilled.fingerprint()}-{protocol}-{cell.network}-{seed}",
                set_key=distilled.fingerprint(),
                status=status,
                reason=reason,
                family=str(facts.get("family", "")),
                settings=dict(card.settings),
                recipe=card.recipe,
                notes=notes,  # those of the card stand before
                data_fingerprint=real.fingerprint,
                classes=real.train.classes,
                distilled=distilled,
                provenance=runner.provenance(chosen, precision),
            )

        record = runner.score(distilled, real, cell, options, base=base, quiet=quiet, seed=seed)
        records.append(runner.with_leak(record, leaked))
    return records


def _overrides(card: Card, dataset: str) -> tuple[dict[str, Any], str]:
    """Settings of a set that its recipe does not have, all of them where that is unknown; and what a reader must know of the
    recipe (it was made for another ipc, say)."""
    try:
        found = registry.resolve_recipe(card.method, card.recipe, card.dataset or dataset, round(card.ipc))
        own = registry.settings_of(registry.make(card.method, found.settings))
    except (LookupError, ValueError, TypeError, registry.PluginError):  # somebody else's method, or its past
        return dict(card.settings), ""

    def plain(value: Any) -> Any:
        return json.loads(json.dumps(value, default=str))  # in a file tuples have become lists

    changed = {k: v for k, v in card.settings.items() if k not in own or plain(v) != plain(own[k])}
    return changed, found.note


def keep(path: str | os.PathLike[str], records: Sequence[Record], folder: store.RunFolder) -> None:
    """Write a set and its records of :func:`evaluate` into a run folder, where boards and ``ddbench verify`` find them.

    Raises:
        ddbench.store.WriteError: the disk is full or read-only.
    """
    distilled = load(path)
    for record in records:
        if not folder.set_path(record.set_key).exists():
            sets.write(folder.set_path(record.set_key), distilled)
        folder.write_record(record)


def make_labels(
    path: str | os.PathLike[str],
    protocol: str,
    *,
    network: str | None = None,
    dataset: str | RealData | None = None,
    runs: str | os.PathLike[str] = "runs",
    device: str = "auto",
    data_root: str | os.PathLike[str] | None = None,
    memory_limit_mib: float | None = None,
    progress: Progress | None = None,
) -> Store:
    """Answer every view of a set for a protocol that stores labels, into the folder where runs look for them.

    Shards that are there are read once, and those whose checksum differs are made again.

    Args:
        path: of a distilled set.
        protocol: a name.
        network: of the students, on which some protocols' batch depends; None: the protocol's own.
        dataset: name of the real data, or real data of your own; None: the set's own.
        runs: run folder.
        progress: called with (done, total), of teachers and then of views.

    Raises:
        LookupError: unknown names; the message has the nearest.
        ValueError: a protocol that stores no labels, or does not accept the set.
    """
    chosen = pick_device(device)
    distilled = load(path)
    row = protocols.get(protocol)
    if not isinstance(row, RowProtocol) or row.plan.labels is None:
        raise ValueError(
            f"protocol {protocol} has no teacher labels; name one that has (see: ddbench list protocols)"
        )
    real = _real(dataset or distilled.card.dataset, chosen, data_root, memory_limit_mib)
    codecs.check(distilled, real.train)
    student = network_names.canonical(network or plan.default_networks(protocol, real.train.shape[-1])[0])
    if reason := row.accepts(distilled, student, real.name):
        raise ValueError(reason)
    planned = row.plan_for(distilled, student, real.name, real.train)
    labels = planned.labels
    if labels is None or not labels.store or labels.sees == "clean":
        how = (
            "labels every item once"
            if labels and labels.sees == "clean"
            else "has networks answer while students train"
        )
        raise ValueError(
            f"protocol {protocol} {how} on {real.name}, so there is nothing to make beforehand; name one that stores views"
        )
    options = EngineOptions(chosen, "fp32", "auto", memory_limit_mib)
    folder = Path(runs) / FOLDER
    items = make_items(distilled, real, options)

    def make() -> Store:
        found = labelled(distilled, items, real, planned, options, folder, progress)
        assert isinstance(found.answers, StoredAnswers)  # as the plan stores them
        return found.answers.store

    made = make()
    return make() if drop_changed(made) else made
