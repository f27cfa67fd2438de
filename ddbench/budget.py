"""What a set costs to store, and what a computation costs to run: bytes, synchronised wall time, peak memory.

Bytes count what a student needs and a stranger would have to be sent, as stored (before any compression of the file):

- images: the codec's image tensors; a subset counts the uint8 images that it names, C * H * W bytes each, once.
- labels: ids in the smallest integer type that holds the classes, soft labels and weights as stored, a labeller's inline
  networks and low-rank parts, explicit boxes, and stored answers (the fp16 logits of every view, in shards beside the set).
- codec: every other tensor of the set (label tables, decoders).
- space: 4 bytes a mean and a deviation; mean and transform of a whitening.
- program: step sizes and order as stored, frozen initial weights.
- beside, never summed: what the card says that use needs: teachers, public encoders, full data.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ddbench.contract import ByteCount, DistilledSet, Program, Space
from ddbench.registry import get

LABEL_NOTE = "stored_label_bytes"
"""Key of ``card.notes`` with the bytes of stored answers."""
_MIB = 1 << 20


def smallest_int(values: int) -> torch.dtype:
    """The smallest integer type that holds 0..values - 1."""
    if values <= 1 << 8:
        return torch.uint8
    if values <= 1 << 15:
        return torch.int16
    return torch.int32 if values <= 1 << 31 else torch.int64


def stored_ids(distilled: DistilledSet) -> Tensor | None:
    """Label ids as a file holds them."""
    ids = distilled.targets.ids
    if ids is None:
        return None
    highest = int(ids.max()) + 1 if len(ids) else 0
    if len(ids) and int(ids.min()) < 0:
        return ids  # outside any classes; the checks of codecs.py refuse it where classes are known
    return ids.to(smallest_int(max(distilled.card.classes, highest)))


def program_tensors(program: Program | None) -> dict[str, Tensor]:
    """A program as a file holds it: ``step_sizes``, and for an order ``order`` (all batches in a row) and ``sizes`` (T,)."""
    if program is None:
        return {}
    tensors = {"step_sizes": program.step_sizes}
    if program.order is not None:
        flat = torch.tensor([i for batch in program.order for i in batch])
        sizes = torch.tensor([len(batch) for batch in program.order])
        tensors["order"] = flat.to(smallest_int(int(flat.max()) + 1))
        tensors["sizes"] = sizes.to(smallest_int(int(sizes.max()) + 1))
    return tensors


def label_prefixes(distilled: DistilledSet) -> tuple[str, ...]:
    """Prefixes of the tensors that belong to the labeller: inline networks, low-rank parts, explicit boxes."""
    labeller = distilled.targets.labeller
    if labeller is None:
        return ()
    found = [n.key for n in labeller.networks if n.source == "inline"]
    found += [n.low_rank for n in labeller.networks if n.low_rank is not None]
    if labeller.views is not None and labeller.views.boxes is not None:
        found.append(f"{labeller.views.boxes}.")
    return tuple(found)


def _space_bytes(space: Space | None, counted: set[str]) -> int:
    if space is None:
        return 0
    numbers = [space.mean, space.std, space.real_mean or (), space.real_std or ()]
    total = 4 * sum(len(n) for n in numbers)
    if space.zca is not None and space.zca.hash not in counted:
        counted.add(space.zca.hash)
        total += space.zca.mean.nbytes + space.zca.transform.nbytes
    return total


def byte_count(distilled: DistilledSet, shards: Path | None = None) -> ByteCount:
    """Bytes of a distilled set by part; the rule stands at the top of this module.

    Args:
        distilled: the set; a subset needs ``card.shape``.
        shards: folder of the stored answers that the set is used with (``train.labels.store_path``: one store, not several side
            by side); without it their bytes are ``card.notes["stored_label_bytes"]``, or none.

    Raises:
        ValueError: a subset whose card does not say the shape of an image.
    """
    codec = get("codecs", distilled.codec.name)()
    settings = {**codec.defaults, **distilled.codec.settings}
    shape = tuple(distilled.card.shape)
    if codec.real and len(shape) != 3:
        raise ValueError(
            f"the card's shape is {shape}; a subset needs (C, H, W) to count the images that it names"
        )
    images = codec.image_bytes(distilled.tensors, settings, shape)
    program = distilled.program
    init = program.init.removeprefix("inline:") if program and program.init.startswith("inline:") else None
    labels = program_bytes = codec_bytes = 0
    own = {*codec.tensors, *codec.optional}
    for name, tensor in distilled.tensors.items():
        if name in own:
            continue
        if name.startswith(label_prefixes(distilled)):
            labels += tensor.nbytes
        elif init is not None and name.startswith(init):
            program_bytes += tensor.nbytes
        else:
            codec_bytes += tensor.nbytes
    ids = stored_ids(distilled)
    for t in (ids, distilled.targets.soft, distilled.targets.weights):
        labels += 0 if t is None else t.nbytes
    if shards is not None:
        labels += sum(np.load(f, mmap_mode="r", allow_pickle=False).nbytes for f in shards.glob("*.npy"))
    else:
        labels += int(distilled.card.notes.get(LABEL_NOTE, 0))
    counted: set[str] = set()
    space = _space_bytes(distilled.space, counted)
    labeller = distilled.targets.labeller
    if labeller is not None and (distilled.space is None or not labeller.space.same_inputs(distilled.space)):
        space += _space_bytes(labeller.space, counted)
    program_bytes += sum(t.nbytes for t in program_tensors(program).values())
    return ByteCount(images, labels, codec_bytes, space, program_bytes, beside=dict(distilled.card.needs))


# ------------------------------------------------------------------------------------------------ time and memory


def _status(field: str) -> float | None:
    """MiB from Linux's /proc/self/status, or None elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return None


def resident_mib() -> float:
    """Memory of this process that is in RAM now (its peak so far where the system does not say)."""
    now = _status("VmRSS")
    return now if now is not None else _lifetime_peak_mib()


def _lifetime_peak_mib() -> float:
    if sys.platform == "win32":
        return 0.0  # not known there without a further dependency
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024


def _take_peak_mib() -> float:
    """Peak resident memory since the last call; on systems that cannot reset it, since the process started."""
    peak = _status("VmHWM")
    if peak is None:
        return _lifetime_peak_mib()
    with suppress(OSError):
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(fd, b"5")  # resets VmHWM of this process, nothing else
        finally:
            os.close(fd)
    return peak


class Meter:
    """Wall time, with the device's queue drained at both ends, and peak memory of the code inside ``with Meter(device)``.

    ``wall_s``: seconds; while the block runs, seconds so far.  ``peak_mib``, after the block: on CUDA the peak of memory
    that tensors occupied, all of them, in MiB; on CPU the highest resident memory of the process, interpreter and
    libraries (some 500 MiB) included.  ``rise_mib``: by how much that stands above the start, on CPU; memory that an
    earlier computation left to the allocator and that is used again does not count in it.  Meters may be nested.
    ``passes``: images that went through the networks given to :meth:`watch`.
    """

    _open: ClassVar[list[Meter]] = []

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.peak_mib = self.rise_mib = 0.0
        self.passes = 0
        self._wall: float | None = None
        self._started = self._base = self._highest = self._device_highest = 0.0
        self._hooks: list[RemovableHandle] = []

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._started if self._wall is None else self._wall

    def watch(self, network: torch.nn.Module) -> torch.nn.Module:
        """Count the images that pass forward through ``network`` until the block ends; returns it."""

        def count(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
            self.passes += len(args[0])

        self._hooks.append(network.register_forward_pre_hook(count))
        return network

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @classmethod
    def _mark(cls) -> None:
        """Tell every open meter of the peak since the last mark, so that a reset inside loses nothing outside."""
        peak = _take_peak_mib()
        cuda: dict[torch.device, float] = {}
        for meter in cls._open:
            meter._highest = max(meter._highest, peak)
            if meter.device.type == "cuda":
                if meter.device not in cuda:
                    cuda[meter.device] = torch.cuda.max_memory_allocated(meter.device) / _MIB
                    torch.cuda.reset_peak_memory_stats(meter.device)
                meter._device_highest = max(meter._device_highest, cuda[meter.device])

    def __enter__(self) -> Meter:
        self._synchronise()
        self._mark()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._base = self._highest = resident_mib()
        self._wall = None
        self._open.append(self)
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._synchronise()
        finally:  # a failed CUDA computation raises here again; the meter must close all the same
            self._wall = time.perf_counter() - self._started
            self._mark()
            self._open.remove(self)
            self.rise_mib = max(0.0, self._highest - self._base)
            self.peak_mib = self._device_highest if self.device.type == "cuda" else self._highest
            for hook in self._hooks:
                hook.remove()
