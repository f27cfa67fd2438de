"""Labellers: networks that label views of the items, while the student trains or beforehand into shards on disk.

A stored label answers one view: this item, this crop, flip and mix, in this batch.  The plan that drew the view makes the
student's batches too (``students.batch_inputs`` serves both), and any other plan is an error.

Sources: SRe2L (arXiv:2306.13092) and its repository; INFER (arXiv:2408.06927); HeLlO (arXiv:2408.08201); the batch
statistics over halves of a batch are those of CV-DD's repository.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.augment.views import batches
from ddbench.contract import DistilledSet, Items, Labeller, NetworkRef, Space
from ddbench.nets.build import build
from ddbench.store import DamagedError, Lock, write_json, writing
from ddbench.train.students import batch_inputs
from ddbench.train.teachers import cached_state
from ddbench.trainplan import ViewPlan

Cache = Callable[[str], Mapping[str, Tensor]]
"""Fingerprint -> state of a teacher in the cache (``state_dict``)."""

SCHEMA = 1
_INDEX = "answers.json"


# ------------------------------------------------------------------------------------------------ networks


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _add_low_rank(network: nn.Module, parts: Mapping[str, Tensor], prefix: str) -> None:
    """weight += A @ B, A (d, r) and B (r, k) of each adapted parameter; convolutions as (out, in * k * k)."""
    named = dict(network.named_parameters())
    adapted = sorted({name.rpartition(".")[0] for name in parts})
    if not adapted:
        raise ValueError(f"the set has no tensors {prefix}<parameter>.A and .B; a low-rank part needs both")
    for name in adapted:
        a, b = parts.get(f"{name}.A"), parts.get(f"{name}.B")
        if a is None or b is None or name not in named:
            what = "no such parameter" if a is not None and b is not None else "one of A and B is missing"
            raise ValueError(f"low-rank part {prefix}{name}: {what}; expected {prefix}<parameter>.A and .B")
        weight = named[name]
        if (
            a.shape[1] != b.shape[0]
            or a.shape[0] * b.shape[1] != weight.numel()
            or a.shape[0] != weight.shape[0]
        ):
            raise ValueError(
                f"low-rank part {prefix}{name} is {tuple(a.shape)} @ {tuple(b.shape)} for a parameter of "
                f"{tuple(weight.shape)}; expected (out, r) @ (r, rest)"
            )
        with torch.no_grad():
            weight.add_((a.float() @ b.float()).view_as(weight))


def _public(ref: NetworkRef) -> nn.Module:
    """A network with public weights: ``torchvision:NAME/WEIGHTS`` or ``timm:NAME``; downloaded once by its library."""
    library, _, name = ref.key.partition(":")
    network: nn.Module
    try:
        if library == "torchvision":
            from torchvision.models import get_model  # heavy, and only here

            model, _, weights = name.partition("/")
            network = get_model(model, weights=weights or "DEFAULT")
        elif library == "timm":
            import timm

            network = timm.create_model(name, pretrained=True)
        else:
            raise LookupError(
                f"public network {ref.key!r} is of no known library; expected torchvision:NAME/WEIGHTS or timm:NAME"
            )
    except OSError as error:  # urllib's and the hub's errors are all of this kind
        raise RuntimeError(
            f"the public weights {ref.key!r} cannot be downloaded ({error}); connect to the network once, or put the "
            f"file into {torch.hub.get_dir()}/checkpoints (torchvision) or the Hugging Face cache (timm)"
        ) from error
    return network


def _load(
    ref: NetworkRef, distilled: DistilledSet, shape: tuple[int, int, int], classes: int, cache: Cache
) -> nn.Module:
    if ref.source == "public":
        network = _public(ref)
    else:
        if ref.source == "inline":
            state: Mapping[str, Tensor] = _below(distilled.tensors, ref.key)
            where = f"tensors {ref.key}*"
        else:
            state, where = cache(ref.key), f"teacher {ref.key} of the cache"
        if ref.low_rank is not None and ref.low_rank.startswith(ref.key) and ref.source == "inline":
            own = ref.low_rank.removeprefix(ref.key)
            state = {name: t for name, t in state.items() if not name.startswith(own)}
        side = ref.size
        network = build(ref.architecture, shape if side is None else (shape[0], side, side), classes)
        try:
            network.load_state_dict(
                {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
            )
        except RuntimeError as error:
            raise ValueError(
                f"{where} do not fit a {ref.architecture} for {shape} images and {classes} classes: {error}"
            ) from error
    if ref.low_rank is not None:
        _add_low_rank(network, _below(distilled.tensors, ref.low_rank), ref.low_rank)
    return network


def load_networks(
    labeller: Labeller,
    distilled: DistilledSet,
    shape: tuple[int, int, int],
    classes: int,
    cache: Cache = cached_state,
    device: torch.device | str = "cpu",
) -> list[nn.Module]:
    """The labeller's networks, low-rank parts added, in eval mode and frozen.

    Args:
        labeller: which networks.
        distilled: the set that has inline tensors.
        shape: (C, H, W) of the images that the networks were trained on.
        classes: K.
        cache: reads the state of a teacher by fingerprint, for networks with source ``cache``.
        device: where they answer.

    Raises:
        ValueError: tensors that are missing or do not fit the architecture.
        LookupError: an unknown architecture or library, or a teacher that is not in the cache.
        RuntimeError: public weights that cannot be downloaded.
    """
    found = []
    for ref in labeller.networks:
        network = _load(ref, distilled, shape, classes, cache).to(device).eval()
        found.append(network.requires_grad_(False))
    return found


# ------------------------------------------------------------------------------------------------ answers


@contextmanager
def _batch_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms use and keep nothing but the statistics of the batch; everything else stays as it is."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    before = [(m.training, m.track_running_stats) for m in norms]
    try:
        for m in norms:
            m.training, m.track_running_stats = True, False
        yield
    finally:
        for m, (training, track) in zip(norms, before, strict=True):
            m.training, m.track_running_stats = training, track


def _halves(x: Tensor) -> list[Tensor]:
    cut = len(x) // 2
    return [part for part in (x[:cut], x[cut:]) if len(part)]


def _logits(labeller: Labeller, ref: NetworkRef, network: nn.Module, x: Tensor) -> Tensor:
    if ref.size is not None and tuple(x.shape[2:]) != (ref.size, ref.size):
        x = F.interpolate(x, size=(ref.size, ref.size), mode="bilinear", align_corners=False)
    if labeller.batch_norm == "train-halves":
        with _batch_statistics(network):
            logits: Tensor = torch.cat([network(part) for part in _halves(x)])
    else:
        logits = network(x)
    return logits if ref.outputs is None else logits[:, list(ref.outputs)]


@torch.no_grad()
def answer(
    labeller: Labeller, networks: Sequence[nn.Module], inputs: Tensor, space: Space | None = None
) -> Tensor:
    """Logits (b, K) of the labeller: the weighted mean over its networks.

    Args:
        labeller: batch-norm mode, weights and space; whether ``inputs`` are clean or augmented is the caller's part.
        networks: from :func:`load_networks`, in the labeller's order.
        inputs: (b, C, H, W), a whole batch: with ``train-halves`` the answers depend on their company.
        space: of ``inputs``; where the labeller has another one, inputs are mapped to it.  None: the labeller's.

    Raises:
        ValueError: the networks are not those of the labeller, or disagree on the classes.

    Running statistics are as before when this returns.
    """
    if len(networks) != len(labeller.networks):
        raise ValueError(
            f"{len(networks)} networks for a labeller of {len(labeller.networks)}; expected them all"
        )
    if space is not None and not space.same_inputs(labeller.space):
        inputs = labeller.space.unit_to_input(space.input_to_unit(inputs))
    refs = labeller.networks
    answers = [_logits(labeller, ref, net, inputs) for ref, net in zip(refs, networks, strict=True)]
    if len({tuple(a.shape) for a in answers}) > 1:
        raise ValueError(
            f"networks answer with shapes {[tuple(a.shape) for a in answers]}; expected the same classes"
        )
    if labeller.combine == "norm-mean":
        norms = [a.norm() for a in answers]
        mean = torch.stack(norms).mean()
        answers = [a * (mean / norm) for a, norm in zip(answers, norms, strict=True)]
    if len(answers) == 1:
        return answers[0]
    total = sum(ref.weight for ref in refs)
    return torch.stack([a * (ref.weight / total) for a, ref in zip(answers, refs, strict=True)]).sum(0)


@torch.no_grad()
def answer_items(items: Items, labeller: Labeller, networks: Sequence[nn.Module], batch: int = 256) -> Tensor:
    """Static labels: fp16 logits (n, K) of every clean item, to be stored as soft targets of kind ``logits``."""
    found = []
    for rows in torch.split(torch.arange(len(items)), batch):
        inputs = items.to_input(items.stored[rows.to(items.stored.device)])
        found.append(answer(labeller, networks, inputs, items.space).cpu().half())
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------ stored answers


def logit_bytes(items: int, classes: int, epochs: int) -> int:
    """Bytes of fp16 logits for every view of every epoch."""
    return items * epochs * classes * 2


def check_plan(labeller: Labeller, plan: ViewPlan) -> None:
    """Raise ValueError where stored answers do not belong to the views of ``plan`` (fewer epochs are fine)."""
    stored = labeller.views
    if stored is None:
        raise ValueError(
            "the labeller has no stored views; expected one with a view plan, or labels made while training"
        )
    ours, asked = asdict(stored), asdict(plan)
    wrong = [key for key in ours if key != "epochs" and ours[key] != asked[key]]
    if plan.epochs > stored.epochs:
        wrong.insert(0, "epochs")
    if wrong:
        raise ValueError(
            "stored labels answer the views of another plan: "
            + "; ".join(f"{key} is {ours[key]!r} there, {asked[key]!r} asked for" for key in wrong)
            + ". A stored label belongs to one view: train with the stored plan, or label again"
        )


class StoredAnswers:
    """Reader of the answers to every view of a set: fp16 logits in memory-mapped shards.

    ``folder`` holds one folder a set, named by the set's fingerprint, which covers tensors, plan and labeller.
    """

    def __init__(self, folder: Path, distilled: DistilledSet, plan: ViewPlan) -> None:
        """
        Raises:
            ValueError: another plan than the one the answers were stored for.
            FileNotFoundError: nothing, or not everything, is stored for this set.
            ddbench.store.DamagedError: an index or a shard is truncated or of a newer schema.
        """
        labeller = distilled.targets.labeller
        if labeller is None:
            raise ValueError("the set has no labeller; expected one whose answers are stored")
        check_plan(labeller, plan)
        self.plan = plan
        self.folder = Path(folder) / distilled.fingerprint()
        index = self.folder / _INDEX
        if not index.is_file():
            raise FileNotFoundError(
                f"no stored answers for this set in {folder} (expected {index}); label its views first, or copy the folder"
            )
        try:
            described = json.loads(index.read_text(encoding="utf-8"))
            if int(described["schema"]) > SCHEMA:
                raise DamagedError(
                    f"{index} has schema {described['schema']}, this ddbench knows up to {SCHEMA}; update ddbench"
                )
            self.items, self.classes = int(described["items"]), int(described["classes"])
            self.rows, self._shard_rows = int(described["rows"]), int(described["shard_rows"])
        except DamagedError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{index} cannot be read ({error}); delete the folder and label again"
            ) from error
        self._shards: dict[int, npt.NDArray[np.float16]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the logits."""
        return self.rows * self.classes * 2

    def _shard(self, number: int) -> npt.NDArray[np.float16]:
        if number not in self._shards:
            rows = min(self._shard_rows, self.rows - number * self._shard_rows)
            self._shards[number] = _open_shard(_shard_path(self.folder, number), rows, self.classes)
        return self._shards[number]

    def batch(self, epoch: int, batch: int) -> Tensor:
        """fp16 logits (b, K) of the views of one batch, in the order of its indices."""
        if not 0 <= epoch < self.plan.epochs or not 0 <= batch * self.plan.batch < self.items:
            raise ValueError(
                f"no batch {batch} in epoch {epoch}; the plan has {self.plan.epochs} epochs of "
                f"{-(-self.items // self.plan.batch)} batches"
            )
        start = epoch * self.items + batch * self.plan.batch
        stop = min(start + self.plan.batch, (epoch + 1) * self.items)
        parts = []
        while start < stop:
            number, offset = divmod(start, self._shard_rows)
            part = self._shard(number)[offset : offset + stop - start]
            parts.append(torch.from_numpy(np.array(part)))
            start += len(part)
        return torch.cat(parts)


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"logits-{number:05d}.npy"


def _open_shard(path: Path, rows: int, classes: int) -> npt.NDArray[np.float16]:
    if not path.is_file():
        raise FileNotFoundError(f"stored answers lack {path}; label the views again (what is there is kept)")
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DamagedError(f"{path} is truncated or no shard ({error}); delete it and label again") from error
    if shard.dtype != np.float16 or shard.shape != (rows, classes):
        raise DamagedError(
            f"{path} holds {shard.dtype} {shard.shape}; expected float16 {(rows, classes)}: delete it and label again"
        )
    return shard  # type: ignore[no-any-return]


def _write_shard(path: Path, rows: npt.NDArray[np.float16]) -> None:
    with writing(path) as temporary, temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)


def _whole_shards(folder: Path, shards: int, shard_rows: int, rows: int, classes: int) -> int:
    """How many shards, from the first on, are there already: labelling goes on after them."""
    for number in range(shards):
        try:
            _open_shard(_shard_path(folder, number), min(shard_rows, rows - number * shard_rows), classes)
        except (FileNotFoundError, DamagedError):
            return number
    return shards


def store_answers(
    folder: Path,
    distilled: DistilledSet,
    items: Items,
    networks: Sequence[nn.Module],
    shard_mib: float = 64,
    progress: Callable[[int, int], None] | None = None,
) -> StoredAnswers:
    """Label every view of the labeller's plan, as a stream: never more than one shard in memory.

    Shards that are there already are kept, so labelling that was cut short goes on where it stopped.

    Args:
        folder: beside the set; answers lie in ``<folder>/<fingerprint of the set>/``.
        distilled: a set whose labeller has a view plan and sees the augmented batch.
        items: its items.
        networks: from :func:`load_networks`.
        shard_mib: most bytes a shard.
        progress: called with (views labelled, views in all) after every batch.

    Raises:
        ValueError: no labeller or plan, a labeller that sees clean items, logits that fp16 cannot hold.
        ddbench.store.WriteError: the disk is full or read-only.
    """
    labeller = distilled.targets.labeller
    if labeller is None or labeller.views is None:
        raise ValueError("the set has no labeller with a view plan; expected Labeller(views=ViewPlan(...))")
    if labeller.sees == "clean":
        raise ValueError(
            "the labeller sees clean items; store its answers once an item, as soft targets (answer_items)"
        )
    plan, n, classes = labeller.views, len(items), items.classes
    folder = Path(folder) / distilled.fingerprint()
    rows = plan.epochs * n
    shard_rows = max(1, min(rows, int(shard_mib * (1 << 20)) // (2 * classes)))
    shards = -(-rows // shard_rows)
    with Lock(folder):
        done = min(_whole_shards(folder, shards, shard_rows, rows, classes) * shard_rows, rows)
        buffer = np.empty((min(shard_rows, rows), classes), dtype=np.float16)
        for epoch in range(done // n, plan.epochs):
            for number, indices in enumerate(batches(plan, n, epoch, distilled.tensors)):
                start = epoch * n + number * plan.batch
                if start + len(indices) <= done:
                    continue
                inputs, _ = batch_inputs(items, plan, epoch, number, indices, distilled.tensors)
                logits = answer(labeller, networks, inputs, items.space).half().cpu()
                if tuple(logits.shape) != (len(indices), classes) or not bool(torch.isfinite(logits).all()):
                    raise ValueError(
                        f"the labeller answers epoch {epoch}, batch {number} with {tuple(logits.shape)} logits of which "
                        f"{int((~torch.isfinite(logits)).sum())} are not finite in fp16; expected {len(indices)} rows of "
                        f"{classes} finite values"
                    )
                for at, row in enumerate(logits.numpy(), start):
                    if at < done:  # the end of the last whole shard lies inside this batch
                        continue
                    buffer[at % shard_rows] = row
                    if (at + 1) % shard_rows == 0 or at + 1 == rows:
                        shard = at // shard_rows
                        _write_shard(_shard_path(folder, shard), buffer[: at % shard_rows + 1])
                if progress is not None:
                    progress(start + len(indices), rows)
        write_json(
            folder / _INDEX,
            {
                "schema": SCHEMA,
                "items": n,
                "classes": classes,
                "rows": rows,
                "shard_rows": shard_rows,
                "plan": asdict(plan),
                "labeller": labeller.describe(),
            },
        )
    return StoredAnswers(folder.parent, distilled, plan)
