"""Stored tensors -> training items.  A codec says how many items a set has, which stored row each comes from, and decodes.

A plug-in codec is a subclass of :class:`Codec` under ``@codec("name")``; see docs/architecture.md.  Decoding is
differentiable for ``identity``, ``grid`` and ``compensated``, so methods distil through the very function that evaluation
uses.  Stored bytes are what is decoded: nothing is clipped, rounded or converted on the way, unless a codec says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.contract import DistilledSet, ImageData, Items, Space
from ddbench.registry import codec, get, nearest
from ddbench.seeding import Generators

Tensors = Mapping[str, Tensor]
Settings = Mapping[str, Any]
Visit = Callable[[Tensor, torch.Generator], Tensor]
Law = Callable[[int, Generators], Tensor]

_MIB = 1 << 20
_EAGER_MIB = 256  # uint8 and fp16 sets whose float inputs take more are standardised batch by batch


class Codec:
    """What every codec offers; ``tensors`` and ``settings`` are those of one distilled set, settings already complete."""

    kind: ClassVar[str] = "image"
    tensors: ClassVar[tuple[str, ...]] = ("images",)
    """Tensors that must be there; their bytes count as images."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Tensors that count as images where they are there."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Every setting with its default."""
    real: ClassVar[bool] = False
    """Whether items are images of the real training split."""

    def check(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> None:
        """Raise ValueError for tensors or settings that do not fit each other."""

    def count(self, tensors: Tensors, settings: Settings) -> int:
        """Number of training items."""
        return len(self.source(tensors, settings))

    def source(self, tensors: Tensors, settings: Settings) -> Tensor:
        """int64 (items,): the stored row of each item, so that targets of one row a stored image reach its items."""
        return torch.arange(len(tensors[self.tensors[0]]))

    def shape(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> tuple[int, ...]:
        """(C, H, W) of an item."""
        return tuple(tensors["images"].shape[1:])

    def decode(
        self, tensors: Tensors, settings: Settings, real: ImageData | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Items (items, C, H, W) in the set's stored form; ``rows``: these items only."""
        raise TypeError(f"{type(self).__name__} does not decode to images")

    def visit(self, settings: Settings) -> Visit | None:
        """The random form of a batch of items for one visit, or None."""
        return None

    def law(self, tensors: Tensors, settings: Settings, ids: Tensor | None) -> Law | None:
        """The item indices of an epoch, or None: every item once, in any order.  ``ids``: labels of the items."""
        return None

    def image_bytes(self, tensors: Tensors, settings: Settings, shape: tuple[int, ...]) -> int:
        """Bytes that count as images; ``shape`` is that of one real image (C, H, W)."""
        return sum(tensors[name].nbytes for name in (*self.tensors, *self.optional) if name in tensors)

    def stored_forms(self, tensors: Tensors) -> tuple[str, ...]:
        """What ``Space.stored`` may be for these tensors."""
        return ("uint8",) if tensors[self.tensors[0]].dtype == torch.uint8 else ("input", "unit")


def _pick(t: Tensor, rows: Tensor | None) -> Tensor:
    return t if rows is None else t[rows.to(t.device)]


def _float(t: Tensor) -> Tensor:
    """At least float32: bilinear maths in fp16 would lose what the file stores."""
    return t if t.dtype in (torch.float32, torch.float64) else t.float()


@codec("identity")
class Identity(Codec):
    """Each stored image is an item."""

    def decode(
        self, tensors: Tensors, settings: Settings, real: ImageData | None = None, rows: Tensor | None = None
    ) -> Tensor:
        return _pick(tensors["images"], rows)


# ------------------------------------------------------------------------------------------------ grid


def _tiles(images: Tensor, factor: int, pad: float) -> Tensor:
    """(factor * factor * n, C, H, W): tile (0, 0) of all images, then (0, 1), ...; each upsampled to H x W."""
    if factor == 1:
        return images
    h, w = images.shape[-2:]
    # IDC pads by factor - h mod factor, which is also what completes the last tile
    images = F.pad(images, (0, -w % factor, 0, -h % factor), value=pad)
    t, u = images.shape[-2] // factor, images.shape[-1] // factor
    cut = [
        images[..., i * t : (i + 1) * t, j * u : (j + 1) * u] for i in range(factor) for j in range(factor)
    ]
    return F.interpolate(torch.cat(cut), size=(h, w), mode="bilinear", align_corners=False)


def _parts(n: int, factor: int, kind: str, bound: int) -> list[tuple[int, int, int]]:
    """(first image, past the last image, factor) of each part of a decode, in the order of the items."""
    if kind == "multi":
        return [(0, n, k) for k in range(1, factor + 1)]
    if kind == "single":
        return [(0, n, factor)]
    parts, start, spare = [], 0, bound - n
    for k in range(factor, 0, -1):
        left = n - start
        take = left if k == 1 else min(max(spare, 0) // (k * k), left)
        if take:
            parts.append((start, start + take, k))
        start += take
        spare = bound - sum((b - a) * f * f for a, b, f in parts) - (n - start)
    return parts


def decode_grid(
    images: Tensor, factor: int, kind: str = "single", bound: int = 128, pad: float = 0.5
) -> Tensor:
    """Cut mosaics into tiles and upsample them bilinearly (align_corners False) to full size; differentiable.

    Args:
        images: (n, C, H, W), float.
        factor: f; an image holds f * f tiles.
        kind: ``single`` (f * f items an image, tile by tile over all images), ``multi`` (union of the factors 1..f) or
            ``bound`` (at most ``bound`` items if n <= bound: the first images at factor f, the next at f - 1, ...).
        pad: value in the units of ``images`` that fills the right and the bottom where f does not divide a side.

    Source: Kim et al. 2022, arXiv:2205.14959, and its repository.
    """
    return torch.cat([_tiles(images[a:b], f, pad) for a, b, f in _parts(len(images), factor, kind, bound)])


def grid_source(n: int, factor: int, kind: str = "single", bound: int = 128) -> Tensor:
    """int64: the image that each item of :func:`decode_grid` comes from (labels are repeated the same way)."""
    return torch.cat([torch.arange(a, b).repeat(f * f) for a, b, f in _parts(n, factor, kind, bound)])


def _permuted_strips(batch: Tensor, factor: int, dim: int, generator: torch.Generator) -> Tensor:
    """Cut each image into strips along ``dim`` (the first ones a pixel larger) and shuffle them, image by image."""
    n, size = len(batch), batch.shape[dim]
    widths = torch.tensor([size // factor + (s < size % factor) for s in range(factor)])
    strip = torch.repeat_interleave(torch.arange(factor), widths)
    rank = torch.rand(n, factor, generator=generator).argsort(1)
    order = rank[:, strip].argsort(dim=1, stable=True).to(batch.device)
    view = [n, 1, 1, 1]
    view[dim] = size
    return batch.gather(dim, order.view(view).expand_as(batch))


def patch_shuffle(batch: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """Permute f vertical strips, then f horizontal strips, anew for each image (RDED, arXiv:2312.03526)."""
    if factor == 1:
        return batch
    return _permuted_strips(_permuted_strips(batch, factor, 3, generator), factor, 2, generator)


def random_tile(batch: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """One tile of each image, chosen uniformly, at its stored size (n, C, H // f, W // f) (PCA, constrained cropping)."""
    h, w = batch.shape[2] // factor, batch.shape[3] // factor
    chosen = torch.randint(factor, (2, len(batch), 1), generator=generator)
    y = (chosen[0] * h + torch.arange(h)).to(batch.device)[:, None, :, None]
    x = (chosen[1] * w + torch.arange(w)).to(batch.device)[:, None, None, :]
    rows = batch.gather(2, y.expand(-1, batch.shape[1], -1, batch.shape[3]))
    return rows.gather(3, x.expand(-1, batch.shape[1], h, -1))


@codec("grid")
class Grid(Codec):
    """Each stored image is a mosaic of ``factor`` x ``factor`` tiles.

    ``kind``: ``single``, ``multi``, ``bound`` (:func:`decode_grid`; ``groups`` equal runs of images, say classes, are
    bounded apart) or ``whole``: the mosaic itself is the item, seen through ``visit``: ``none``, ``patch-shuffle`` or
    ``random-tile`` (a tile at its stored size; ``upsample`` brings it to full size).  ``pad`` is in stored units: 0.5 on
    the [0, 1] scale; None stands for that, or 127.5 for uint8.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "factor": 2,
        "kind": "single",
        "bound": 128,
        "groups": 1,
        "pad": None,
        "visit": "none",
        "upsample": True,
    }

    def check(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> None:
        factor, kind, visit = settings["factor"], settings["kind"], settings["visit"]
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"grid factor is {factor!r}; expected a whole number of at least 1")
        if kind not in ("single", "multi", "bound", "whole"):
            raise ValueError(f"grid kind is {kind!r}; expected single, multi, bound or whole")
        if visit not in ("none", "patch-shuffle", "random-tile"):
            raise ValueError(f"grid visit is {visit!r}; expected none, patch-shuffle or random-tile")
        if visit != "none" and kind != "whole":
            raise ValueError(
                f"grid visit {visit!r} needs the mosaic itself; expected kind 'whole', not {kind!r}"
            )
        if len(tensors["images"]) % settings["groups"]:
            raise ValueError(
                f"grid has {settings['groups']} groups for {len(tensors['images'])} images; expected a divisor"
            )

    def _groups(self, n: int, settings: Settings) -> Iterator[tuple[int, int]]:
        size = n // settings["groups"]
        return ((g * size, (g + 1) * size) for g in range(settings["groups"]))

    def source(self, tensors: Tensors, settings: Settings) -> Tensor:
        n = len(tensors["images"])
        if settings["kind"] == "whole":
            return torch.arange(n)
        how = settings["factor"], settings["kind"], settings["bound"]
        return torch.cat([a + grid_source(b - a, *how) for a, b in self._groups(n, settings)])

    def decode(
        self, tensors: Tensors, settings: Settings, real: ImageData | None = None, rows: Tensor | None = None
    ) -> Tensor:
        images = tensors["images"]
        if settings["kind"] == "whole":
            return _pick(images, rows)
        pad = settings["pad"]
        if pad is None:
            pad = 0.5 if images.is_floating_point() else 127.5
        how = settings["factor"], settings["kind"], settings["bound"]
        groups = self._groups(len(images), settings)
        if rows is None:
            return torch.cat([decode_grid(_float(images[a:b]), *how, pad) for a, b in groups])
        rows, start = rows.to(images.device), 0
        out = _float(images[:1]).new_empty(len(rows), *images.shape[1:])
        for first, last in groups:
            for a, b, f in _parts(last - first, *how):
                here = ((rows >= start) & (rows < start + (b - a) * f * f)).nonzero().squeeze(1)
                tile, image = (rows[here] - start) // (b - a), first + a + (rows[here] - start) % (b - a)
                tiles = _tiles(_float(images[image]), f, pad)
                out[here] = tiles[tile * len(here) + torch.arange(len(here), device=tile.device)]
                start += (b - a) * f * f
        return out

    def visit(self, settings: Settings) -> Visit | None:
        factor: int = settings["factor"]
        if settings["visit"] == "patch-shuffle":
            return lambda batch, generator: patch_shuffle(batch, factor, generator)
        if settings["visit"] == "random-tile":

            def tile(batch: Tensor, generator: torch.Generator) -> Tensor:
                cut = random_tile(batch, factor, generator)
                if not settings["upsample"]:
                    return cut
                return F.interpolate(_float(cut), size=batch.shape[2:], mode="bilinear", align_corners=False)

            return tile
        return None


# ------------------------------------------------------------------------------------------------ compensated


@codec("compensated")
class Compensated(Codec):
    """Natural images of every class plus additive compensators that all classes share (INFER, arXiv:2408.06927).

    ``naturals`` uint8 (J * K, C, H, W), class c of natural j in row j * K + c; ``compensators`` float, fp16 as stored,
    (M * J, C, H, W) on the [0, 1] scale, the one of network m for natural j in row m * J + j.  Items, on the [0, 1] scale:
    the naturals, then for each compensator the K sums clamp(natural + compensator, 0, 1); (M + 1) * J * K in all.
    ``per_class`` is J.
    """

    tensors: ClassVar[tuple[str, ...]] = ("naturals", "compensators")
    defaults: ClassVar[Mapping[str, Any]] = {"per_class": 1}

    def check(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> None:
        naturals, compensators, j = tensors["naturals"], tensors["compensators"], settings["per_class"]
        if naturals.dtype != torch.uint8 or not compensators.is_floating_point():
            raise ValueError(
                f"naturals are {naturals.dtype}, compensators {compensators.dtype}; expected uint8 and floats"
            )
        if naturals.shape[1:] != compensators.shape[1:]:
            raise ValueError(
                f"compensators have shape {tuple(compensators.shape[1:])} but naturals "
                f"{tuple(naturals.shape[1:])}; expected the same"
            )
        if not isinstance(j, int) or j < 1 or len(naturals) % j or len(compensators) % j:
            raise ValueError(
                f"per_class is {j!r} for {len(naturals)} naturals and {len(compensators)} compensators; "
                f"expected a common divisor (INFER with IPC below 1 + networks / classes has no naturals)"
            )

    def source(self, tensors: Tensors, settings: Settings) -> Tensor:
        rows = torch.arange(len(tensors["naturals"]))
        return rows.repeat(1 + len(tensors["compensators"]) // settings["per_class"])

    def shape(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> tuple[int, ...]:
        return tuple(tensors["naturals"].shape[1:])

    def stored_forms(self, tensors: Tensors) -> tuple[str, ...]:
        return ("unit",)

    def decode(
        self, tensors: Tensors, settings: Settings, real: ImageData | None = None, rows: Tensor | None = None
    ) -> Tensor:
        naturals, compensators = tensors["naturals"], tensors["compensators"]
        if rows is None:
            rows = torch.arange(self.count(tensors, settings))
        rows = rows.to(naturals.device)
        n, classes = len(naturals), len(naturals) // settings["per_class"]
        rows = rows.to(naturals.device)
        unit = naturals[rows % n].to(_float(compensators).dtype) / 255
        merged = rows >= n
        which = ((rows - n).clamp(min=0) // classes)[merged]
        out = unit.clone()
        out[merged] = (unit[merged] + _float(compensators)[which.to(compensators.device)]).clamp(0, 1)
        return out


def infer_naturals(ipc: int, classes: int, networks: int) -> int:
    """INFER's naturals a class: floor(ipc / (1 + networks / classes)); 0 means the method is undefined there."""
    return ipc * classes // (classes + networks)


# ------------------------------------------------------------------------------------------------ subsets


def _indices(tensors: Tensors) -> Tensor:
    return tensors["indices"].to(torch.int64)


@codec("subset")
class Subset(Codec):
    """Images of the training split that the card names by fingerprint: ``indices`` (n,).  They stay uint8."""

    tensors: ClassVar[tuple[str, ...]] = ("indices",)
    real: ClassVar[bool] = True

    def check(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> None:
        indices = tensors["indices"]
        if indices.dim() != 1 or indices.is_floating_point():
            raise ValueError(f"indices are {indices.dtype} {tuple(indices.shape)}; expected integers (n,)")
        if real is not None and len(indices):
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= len(real):
                raise ValueError(
                    f"indices run from {low} to {high} but {real.name}/{real.split} has {len(real)} images; "
                    f"expected 0 to {len(real) - 1}"
                )

    def shape(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> tuple[int, ...]:
        return () if real is None else real.shape

    def decode(
        self, tensors: Tensors, settings: Settings, real: ImageData | None = None, rows: Tensor | None = None
    ) -> Tensor:
        if real is None:
            raise ValueError("a subset names real images; expected the data set that it was chosen from")
        indices = _pick(_indices(tensors), rows).to(real.images.device)
        if rows is None and len(indices) == len(real) and bool((indices[1:] > indices[:-1]).all()):
            return real.images  # all of it, in order: no copy
        return real.images[indices]

    def image_bytes(self, tensors: Tensors, settings: Settings, shape: tuple[int, ...]) -> int:
        """The uint8 images named, each once; the indices only stand for them."""
        return len(torch.unique(_indices(tensors))) * math.prod(shape)


def _per_class(ids: Tensor, ratio: float, generator: torch.Generator) -> list[int]:
    """Stratified counts: round(ratio * n_c); where that is below one image, one a class and the rest over drawn classes."""
    sizes = torch.bincount(ids)
    present = sizes.nonzero().squeeze(1).tolist()
    counts = [0] * len(sizes)
    if all(ratio * int(sizes[c]) >= 1 for c in present):
        for c in present:
            counts[c] = round(ratio * int(sizes[c]))
        return counts
    for c in present:
        counts[c] = 1
    for _ in range(max(0, round(ratio * len(ids)) - len(present))):
        open_classes = [c for c in present if counts[c] < int(sizes[c])]
        counts[open_classes[int(torch.randint(len(open_classes), (), generator=generator))]] += 1
    return counts


def _distinct(pool: Tensor, k: int, generator: torch.Generator) -> Tensor:
    return pool[torch.randperm(len(pool), generator=generator)[:k]]


@codec("resampled")
class Resampled(Subset):
    """A new random subset of the pool ``indices`` in every epoch (RS2, arXiv:2305.18424).

    ``ratio`` r in (0, 1]: k = round(r * n) items an epoch.  ``variant``: ``without`` replacement across epochs (blocks of a
    shuffled pool, reshuffled when fewer than k remain), ``with`` replacement across epochs (k distinct ones, anew), or
    ``stratified`` (as ``with``, round(r * n_c) of each class).
    """

    defaults: ClassVar[Mapping[str, Any]] = {"ratio": 0.1, "variant": "without"}

    def check(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> None:
        super().check(tensors, settings, real)
        n, ratio = len(tensors["indices"]), settings["ratio"]
        if not 0 < ratio <= 1 or (n and round(ratio * n) < 1):
            raise ValueError(
                f"ratio is {ratio} of {n} images; expected a share in (0, 1] of at least one image"
            )
        if settings["variant"] not in ("without", "with", "stratified"):
            raise ValueError(f"variant is {settings['variant']!r}; expected without, with or stratified")

    def law(self, tensors: Tensors, settings: Settings, ids: Tensor | None) -> Law:
        n, variant = len(tensors["indices"]), settings["variant"]
        k = round(settings["ratio"] * n)
        if variant == "stratified" and ids is None:
            raise ValueError("a stratified resampling needs label ids; expected targets with ids")
        classes = [] if ids is None else [(ids == c).nonzero().squeeze(1) for c in range(int(ids.max()) + 1)]

        def without(epoch: int, generators: Generators) -> Tensor:
            shuffle, block = divmod(epoch, n // k)
            order = torch.randperm(n, generator=generators.child("resample", shuffle)("order"))
            return order[block * k : (block + 1) * k]

        def anew(epoch: int, generators: Generators) -> Tensor:
            return torch.randperm(n, generator=generators.child("resample", epoch)("order"))[:k]

        def stratified(epoch: int, generators: Generators) -> Tensor:
            assert ids is not None  # checked above, when the law was made
            generator = generators.child("resample", epoch)("order")
            counts = _per_class(ids, settings["ratio"], generator)
            drawn = torch.cat(
                [_distinct(pool, m, generator) for pool, m in zip(classes, counts, strict=True)]
            )
            return _distinct(drawn, len(drawn), generator)

        laws: dict[str, Law] = {"without": without, "with": anew, "stratified": stratified}
        return laws[variant]


# ------------------------------------------------------------------------------------------------ trees


@codec("trees")
class Trees(Codec):
    """Itemsets of computation trees, each itemset one small graph (Mirage, arXiv:2310.09486).

    ``size`` (g,) nodes of each graph; over all nodes, graph after graph: ``parent`` (index of the parent inside the graph;
    a root is its own parent), ``node`` (row of ``node_table`` (labels, F)) and, where edges have labels, ``edge`` (row of
    ``edge_table`` (labels, E) of the edge to the parent; a root's is not read).  Targets have one row a graph: the class
    and, as weight, the support.  Integers as small as they go; the label tables count as codec.
    """

    kind: ClassVar[str] = "graph"
    tensors: ClassVar[tuple[str, ...]] = ("size", "parent", "node")
    optional: ClassVar[tuple[str, ...]] = ("edge",)

    def check(self, tensors: Tensors, settings: Settings, real: ImageData | None) -> None:
        size, parent = tensors["size"].to(torch.int64), tensors["parent"].to(torch.int64)
        labelled = ["node", "edge"] if "edge" in tensors else ["node"]
        for name in ("parent", *labelled):
            if tensors[name].numel() != int(size.sum()):
                raise ValueError(
                    f"{name} has {tensors[name].numel()} entries but the sizes sum to {int(size.sum())} nodes"
                )
        if len(size) and int(size.min()) < 1:
            raise ValueError("a graph has no nodes; expected at least one in each")
        if len(parent) and bool(((parent < 0) | (parent >= size.repeat_interleave(size))).any()):
            raise ValueError(
                "a parent lies outside its graph; expected indices inside the graph, a root's its own"
            )
        for name in labelled:
            table = tensors.get(f"{name}_table")
            if table is None or (tensors[name].numel() and int(tensors[name].max()) >= len(table)):
                raise ValueError(
                    f"{name} labels do not fit {name}_table; expected a table with a row a label"
                )


def graphs(distilled: DistilledSet) -> list[dict[str, Any]]:
    """The graphs of a set of kind ``graph``, as small dicts.

    Each has ``x`` (nodes, F), ``edge_index`` int64 (2, edges) from child to parent, ``edge_attr`` (edges, E) or None,
    ``roots`` bool (nodes,): the nodes that are pooled (never the source of an edge), ``label`` int and ``weight`` float
    (support; 1 without weights).

    Raises:
        ValueError: a set of another kind, or tensors that do not fit each other.
    """
    if distilled.kind != "graph":
        raise ValueError(
            f"graphs() reads sets of kind 'graph', this one is of kind {distilled.kind!r}; use items()"
        )
    check(distilled)
    tensors, found, start = distilled.tensors, [], 0
    for g, size in enumerate(tensors["size"].tolist()):
        here = slice(start, start + size)
        parent = tensors["parent"][here].to(torch.int64)
        child = torch.arange(size)[parent != torch.arange(size)]
        edges = None
        if "edge" in tensors:
            edges = tensors["edge_table"][tensors["edge"][here].to(torch.int64)[child]]
        targets = distilled.targets
        found.append(
            {
                "x": tensors["node_table"][tensors["node"][here].to(torch.int64)],
                "edge_index": torch.stack([child, parent[child]]),
                "edge_attr": edges,
                "roots": parent == torch.arange(size),
                "label": None if targets.ids is None else int(targets.ids[g]),
                "weight": 1.0 if targets.weights is None else float(targets.weights[g]),
            }
        )
        start += size
    return found


# ------------------------------------------------------------------------------------------------ sets


def codec_of(distilled: DistilledSet) -> tuple[Codec, dict[str, Any]]:
    """The codec of a set, and its settings with defaults filled in.

    Raises:
        LookupError: no such codec.
        ValueError: a setting it does not have, or a tensor that it needs is missing.
    """
    spec = distilled.codec
    made: Codec = get("codecs", spec.name)()
    for key in spec.settings:
        if key not in made.defaults:
            hint = nearest(key, made.defaults)
            raise ValueError(f"codec {spec.name!r} has no setting {key!r}{'; ' + hint if hint else ''}")
    missing = [t for t in made.tensors if t not in distilled.tensors]
    if missing:
        raise ValueError(
            f"codec {spec.name!r} reads the tensors {', '.join(made.tensors)}; the set has no {missing[0]!r} "
            f"(it has {', '.join(distilled.tensors) or 'none'})"
        )
    return made, {**made.defaults, **spec.settings}


def count(distilled: DistilledSet) -> int:
    """Number of training items of a set."""
    made, settings = codec_of(distilled)
    return made.count(distilled.tensors, settings)


def _check_targets(distilled: DistilledSet, rows: int, items_: int, classes: int, name: str) -> None:
    targets = distilled.targets
    ids, soft = targets.ids, targets.soft
    if soft is not None and targets.kind != "values" and classes and soft.shape[1] != classes:
        raise ValueError(
            f"soft labels have shape {tuple(soft.shape)} but {name} has {classes} classes; "
            f"expected ({len(soft)}, {classes})"
        )
    for what, t in targets.rows().items():
        if len(t) not in (rows, items_):
            expected = f"{rows}" if rows == items_ else f"{rows} (stored rows) or {items_} (items)"
            raise ValueError(
                f"targets have {len(t)} rows of {what} but the set has {expected}; expected as many"
            )
    if ids is not None and classes and len(ids) and not (0 <= int(ids.min()) and int(ids.max()) < classes):
        raise ValueError(
            f"label ids run from {int(ids.min())} to {int(ids.max())} but {name} has {classes} classes; "
            f"expected 0 to {classes - 1}"
        )
    if soft is not None and targets.kind == "probabilities":
        sums = soft.double().sum(1)
        wrong = ((sums - 1).abs() > 1e-2) | (soft < 0).any(1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"soft labels of kind 'probabilities' are none in row {row} (sum {float(sums[row]):.4g}, smallest "
                f"{float(soft[row].min()):.4g}); expected rows that sum to 1, or kind 'logits' or 'values'"
            )
    weights = targets.weights
    if weights is not None and bool((weights < 0).any()):
        raise ValueError(f"weights go down to {float(weights.min()):.4g}; expected none below 0")


def check(distilled: DistilledSet, real: ImageData | None = None) -> None:
    """Whether the parts of a set fit each other and, where given, the real training split that it is used with.

    Raises:
        LookupError: unknown codec.
        ValueError: says what was given, what was expected, what to do.
    """
    made, settings = codec_of(distilled)
    tensors = distilled.tensors
    if made.kind != distilled.kind:
        raise ValueError(
            f"codec {distilled.codec.name!r} makes sets of kind {made.kind!r}, not {distilled.kind!r}"
        )
    classes = real.classes if real is not None else distilled.card.classes
    name = (real.name if real is not None else distilled.card.dataset) or "the data set"
    first = tensors[made.tensors[0]]
    if not len(first):
        raise ValueError(
            f"the distilled set is empty (tensor {made.tensors[0]!r} has no rows); expected at least one"
        )
    if made.real and real is not None and distilled.card.data_fingerprint != real.fingerprint:
        raise ValueError(
            f"the set names images of {distilled.card.dataset or 'a data set'} with fingerprint "
            f"{distilled.card.data_fingerprint or 'unknown'}, but the training split given ({real.name}) has "
            f"{real.fingerprint}; use exactly the data that it was chosen from"
        )
    if made.kind == "image" and not made.real:
        images = [tensors[t] for t in made.tensors]
        for t, tensor in zip(made.tensors, images, strict=True):
            if tensor.dim() != 4:
                raise ValueError(f"{t} have shape {tuple(tensor.shape)}; expected (n, C, H, W)")
    made.check(tensors, settings, real)
    items_ = made.count(tensors, settings)
    rows = int(made.source(tensors, settings).max()) + 1
    _check_targets(distilled, rows, items_, classes, name)
    if made.kind != "image":
        return
    space = distilled.space
    if space is None:
        raise ValueError("a set of images has no space; expected one that says what the stored values are")
    shape = made.shape(tensors, settings, real)
    wanted = real.shape if real is not None else tuple(distilled.card.shape)
    if shape and wanted and shape != wanted:
        raise ValueError(
            f"images have shape {shape} but {name} has {wanted}; resize them or name the data set that they are of"
        )
    if shape and len(space.mean) != shape[0]:
        raise ValueError(
            f"the space has {len(space.mean)} means but images have {shape[0]} channels; expected one each"
        )
    if not made.real and first.dtype != torch.uint8 and not first.is_floating_point():
        raise ValueError(f"{made.tensors[0]} are {first.dtype}; expected floats or uint8")
    forms = made.stored_forms(tensors)
    if not made.real and space.stored not in forms:
        raise ValueError(
            f"the space says that {space.stored!r} is stored, but the codec {distilled.codec.name!r} makes "
            f"{' or '.join(map(repr, forms))} of {first.dtype} {made.tensors[0]}; set Space.stored to that"
        )
    if distilled.program is not None and distilled.program.order is not None:
        last = max(max(batch) for batch in distilled.program.order)
        if last >= items_ or min(min(batch) for batch in distilled.program.order) < 0:
            raise ValueError(f"the program's order names item {last} of {items_}; expected 0 to {items_ - 1}")


def _inputs(batch: Tensor, space: Space, device: torch.device, dtype: torch.dtype) -> Tensor:
    return space.to_input(batch.to(device)).to(dtype)


def _real_inputs(batch: Tensor, space: Space, device: torch.device, dtype: torch.dtype) -> Tensor:
    return space.real_to_input(batch.to(device)).to(dtype)


def _same(batch: Tensor) -> Tensor:
    return batch


def items(
    distilled: DistilledSet,
    real: ImageData | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    memory_limit_mib: float = 4096,
) -> Items:
    """The training items of a set of images.

    Args:
        distilled: exactly as stored; its fp16 values become ``dtype`` here and nowhere else.
        real: the training split; needed where items are real images (subset, resampled), and then that of the card.
        device: where the items live.
        dtype: of network inputs; float64 sets stay float64 only if it is asked for.
        memory_limit_mib: decoded items above it are decoded batch by batch from the stored tensors.

    Returns:
        items with one target row each.  Small sets are network inputs already; subsets, large uint8 sets and sets with
        a random form stay as stored and are standardised a batch at a time.

    Raises:
        LookupError: unknown codec.
        ValueError: parts that do not fit each other or the data; a set of another kind.
    """
    made, settings = codec_of(distilled)
    if distilled.kind != "image":
        raise ValueError(f"items() makes image items, this set is of kind {distilled.kind!r}; use graphs()")
    if made.real and real is None:
        raise ValueError(
            f"the set names images of {distilled.card.dataset or 'a data set'} (codec {distilled.codec.name!r}); "
            f"expected its training split"
        )
    check(distilled, real)
    device, tensors, space = torch.device(device), distilled.tensors, distilled.space
    assert space is not None  # check() refuses images without one
    source, n = made.source(tensors, settings), made.count(tensors, settings)
    shape = made.shape(tensors, settings, real)
    visit = made.visit(settings)
    to_input: Callable[[Tensor], Tensor]
    if made.real:
        convert = functools.partial(_real_inputs, space=space, device=device, dtype=dtype)
    else:
        convert = functools.partial(_inputs, space=space, device=device, dtype=dtype)
    item_mib = math.prod(shape) / _MIB * n
    first = tensors[made.tensors[0]]
    narrow = made.real or (first.element_size() < 4 and n == len(first))  # decoded items may stay that small
    stored_mib = item_mib * (1 if made.real else first.element_size() if narrow else dtype.itemsize)
    if stored_mib > memory_limit_mib and visit is None:
        stored = torch.arange(n, device=device)

        def to_input(batch: Tensor) -> Tensor:
            return convert(made.decode(tensors, settings, real, batch))

    else:
        with torch.no_grad():
            stored = made.decode(tensors, settings, real).detach().to(device)
            if made.real or visit is not None or (narrow and item_mib * dtype.itemsize > _EAGER_MIB):
                to_input = convert
            else:
                stored, to_input = convert(stored), _same
    targets = distilled.targets

    def spread(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        return (t if len(t) == n else t[source]).to(device)

    ids, soft, weights = spread(targets.ids), spread(targets.soft), spread(targets.weights)
    return Items(
        stored=stored,
        to_input=to_input,
        classes=real.classes if real is not None else _classes(distilled),
        ids=ids,
        soft=None if soft is None else soft.to(dtype),
        kind=targets.kind,
        weights=None if weights is None else weights.to(dtype),
        labeller=targets.labeller,
        law=made.law(tensors, settings, None if ids is None else ids.cpu()),
        visit=visit,
        flip=True if real is None else real.flip,
        space=space,
    )


def _classes(distilled: DistilledSet) -> int:
    """Classes of a set without its data: of the card, else what the targets show."""
    targets = distilled.targets
    if distilled.card.classes:
        return distilled.card.classes
    if targets.soft is not None and targets.kind != "values":
        return int(targets.soft.shape[1])
    return 0 if targets.ids is None else int(targets.ids.max()) + 1
