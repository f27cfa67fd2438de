"""A distilled set <-> one safetensors file: tensors and targets as they are stored, everything else as JSON in its header.

Tensor names: ``tensors.<name>``, ``targets.ids|soft|weights``, ``program.step_sizes|order|sizes``.  A whitening map lies
beside the set, once for all sets of a folder: ``spaces/<hash>.safetensors``.  No pickle.  Written atomically; the header
holds the set's fingerprint, so a file that was changed or cut short is found out when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench.budget import program_tensors, stored_ids
from ddbench.codecs import check
from ddbench.contract import (
    ZCA,
    Card,
    CodecSpec,
    Cost,
    DistilledSet,
    Labeller,
    NetworkRef,
    Program,
    Space,
    Targets,
    canonical,
)
from ddbench.store import DamagedError, writing
from ddbench.trainplan import ViewPlan

SCHEMA = 1
"""Of the JSON in the header; a reader knows its own and all older ones."""
_KEY = "ddbench"


def _space_path(folder: Path, zca_hash: str) -> Path:
    return folder / "spaces" / f"{zca_hash}.safetensors"


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, no two sharing memory: what safetensors writes."""
    seen: set[int] = set()
    found = {}
    for name, t in tensors.items():
        t = t.detach().cpu().contiguous()
        if t.numel() and t.untyped_storage().data_ptr() in seen:
            t = t.clone()
        seen.add(t.untyped_storage().data_ptr())
        found[name] = t
    return found


def _write_zca(folder: Path, zca: ZCA) -> None:
    path = _space_path(folder, zca.hash)
    if not path.exists():
        with writing(path) as temporary:
            save_file(_storable({"mean": zca.mean, "transform": zca.transform}), temporary)


def write(path: str | os.PathLike[str], distilled: DistilledSet) -> None:
    """Write a set atomically; its whitening map, if any, goes to ``spaces/`` beside it.

    Raises:
        ValueError: the parts of the set do not fit each other, or its card holds what JSON cannot.
        ddbench.store.WriteError: the disk is full or read-only.
    """
    check(distilled)
    path = Path(path)
    labeller, program, space = distilled.targets.labeller, distilled.program, distilled.space
    tensors = {f"tensors.{name}": t for name, t in distilled.tensors.items()}
    targets = {**distilled.targets.rows(), "ids": stored_ids(distilled)}
    tensors.update({f"targets.{name}": t for name, t in targets.items() if t is not None})
    tensors.update({f"program.{name}": t for name, t in program_tensors(program).items()})
    try:
        header = canonical(
            {
                "schema": SCHEMA,
                "fingerprint": distilled.fingerprint(),
                "kind": distilled.kind,
                "codec": {"name": distilled.codec.name, "settings": distilled.codec.settings},
                "targets": {
                    "kind": distilled.targets.kind,
                    "labeller": None if labeller is None else labeller.describe(),
                },
                "space": None if space is None else space.describe(),
                "program": None if program is None else {"init": program.init},
                "card": asdict(distilled.card),
            }
        )
    except TypeError as error:
        raise ValueError(
            f"the card or the settings of the set for {path} cannot be written: {error}"
        ) from error
    for z in {
        s.zca for s in (space, labeller.space if labeller else None) if s is not None and s.zca is not None
    }:
        _write_zca(path.parent, z)
    with writing(path) as temporary:
        save_file(_storable(tensors), temporary, metadata={_KEY: header})


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return (
            "is a PyTorch or pickle file, not a distilled set of ours; load its images and labels and hand them to "
            "ddbench.evaluate(images, labels, ...)"
        )
    return (
        f"is no whole safetensors file ({str(error).splitlines()[0]}); it was cut short or is something else: delete it "
        f"and distil again, or copy it again"
    )


_FAULTS = (
    SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError, OverflowError,
)  # fmt: skip
"""What a file of somebody else's making can raise in the code that puts a set together: its card may hold anything."""


def _said(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no distilled set {path}; expected a .safetensors file that ddbench wrote")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise DamagedError(f"{path} {_why_unreadable(path, error)}") from error


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON of a set's file, without its tensors: schema, fingerprint, kind, codec, targets, space, program, card.

    Raises:
        FileNotFoundError: no such file.
        ddbench.store.DamagedError: truncated, foreign, or of a newer schema.
    """
    path = Path(path)
    with _open(path) as file:
        metadata = file.metadata() or {}
    if _KEY not in metadata:
        raise DamagedError(
            f"{path} is a safetensors file without a ddbench card; load its images and labels and hand them to "
            f"ddbench.evaluate(images, labels, ...)"
        )
    try:
        header = json.loads(metadata[_KEY])
        schema = int(header["schema"])
    except _FAULTS as error:
        raise DamagedError(
            f"{path} has a card that cannot be read ({_said(error)}); delete the file and distil again"
        ) from error
    if schema > SCHEMA:
        raise DamagedError(
            f"{path} has schema {schema}, this ddbench knows up to {SCHEMA}; update ddbench to read it"
        )
    return dict(header)


def _read_zca(path: Path, described: Mapping[str, Any], given: ZCA | None) -> ZCA:
    if given is not None and given.hash == described["hash"]:
        return given
    beside = _space_path(path.parent, described["hash"])
    if not beside.is_file():
        raise FileNotFoundError(
            f"{path} is in a whitened space, but {beside} is not there; copy it from where the set was written, or fit "
            f"ZCA with eps {described['eps']} on the data with fingerprint {described['fitted_on']} and pass it as zca"
        )
    with _open(beside) as file:
        zca = ZCA(
            file.get_tensor("mean"),
            file.get_tensor("transform"),
            float(described["eps"]),
            str(described["fitted_on"]),
        )
    if zca.hash != described["hash"]:
        raise DamagedError(f"{beside} was changed: its hash is {zca.hash}; delete it and copy it again")
    return zca


def _read_space(path: Path, described: Mapping[str, Any] | None, zca: ZCA | None) -> Space | None:
    if described is None:
        return None
    whitening = None if described["zca"] is None else _read_zca(path, described["zca"], zca)
    lists = {
        key: described[key] and tuple(described[key]) for key in ("mean", "std", "real_mean", "real_std")
    }
    return Space(stored=described["stored"], zca=whitening, **lists)


def _read_labeller(path: Path, described: Mapping[str, Any] | None, zca: ZCA | None) -> Labeller | None:
    if described is None:
        return None
    networks = tuple(
        NetworkRef(**{**n, "outputs": None if n["outputs"] is None else tuple(n["outputs"])})
        for n in described["networks"]
    )
    views = described["views"]
    if views is not None:
        tuples = {k: tuple(v) for k, v in views.items() if isinstance(v, list)}
        views = ViewPlan(**{**views, **tuples})
    space = _read_space(path, described["space"], zca)
    if space is None:
        raise ValueError("labeller without a space")
    return Labeller(networks, space, described["batch_norm"], described["sees"], views, described["combine"])


def _read_program(described: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Program | None:
    if described is None:
        return None
    order = None
    if "program.order" in tensors:
        batches = torch.split(tensors["program.order"].long(), tensors["program.sizes"].long().tolist())
        order = tuple(tuple(batch.tolist()) for batch in batches)
    return Program(tensors["program.step_sizes"], order, described["init"])


def read(path: str | os.PathLike[str], zca: ZCA | None = None, verify: bool = True) -> DistilledSet:
    """Read a set: the very tensors that were written; label ids as int64.

    Args:
        path: the file.
        zca: the whitening map, where it is in memory already; else it is read from beside the set.
        verify: compare the fingerprint of what was read with the one in the header (reads every byte).

    Raises:
        FileNotFoundError: no such file, or its whitening map is missing; the message says what to do.
        ddbench.store.DamagedError: truncated, changed, foreign, or of a newer schema.
    """
    path = Path(path)
    header = read_header(path)
    try:
        with _open(path) as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        own = {n.removeprefix("tensors."): t for n, t in tensors.items() if n.startswith("tensors.")}
        targets = Targets(
            ids=tensors.get("targets.ids"),
            soft=tensors.get("targets.soft"),
            kind=header["targets"]["kind"],
            weights=tensors.get("targets.weights"),
            labeller=_read_labeller(path, header["targets"]["labeller"], zca),
        )
        card = header["card"]
        distilled = DistilledSet(
            tensors=own,
            targets=targets,
            space=_read_space(path, header["space"], zca),
            codec=CodecSpec(header["codec"]["name"], header["codec"]["settings"]),
            program=_read_program(header["program"], tensors),
            kind=header["kind"],
            card=replace(Card(**{**card, "cost": Cost(**card["cost"])}), shape=tuple(card["shape"])),
        )
        fingerprint = distilled.fingerprint() if verify else header["fingerprint"]
    except DamagedError:
        raise
    except _FAULTS as error:
        raise DamagedError(f"{path} is damaged ({_said(error)}); delete it and distil again") from error
    if fingerprint != header.get("fingerprint"):
        raise DamagedError(
            f"{path} was changed after it was written: its fingerprint is {fingerprint}, the card says "
            f"{str(header.get('fingerprint'))[:40]}; delete it and distil again, or copy it again"
        )
    return distilled
