"""What a published file or folder is, and its parts as they lie there: nothing is converted, nothing decided.

The content says what it is; names say only which files belong together (``images_best.pt`` and ``labels_best.pt``).
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddbench import foreign
from ddbench.foreign import LIMIT_MIB, FormatError

FORMATS = {
    "dc": "a dict whose data are [images, labels] (DC, DSA, DM, DataDAM, FYI, BACON)",
    "mtt": "images_*.pt with labels_*.pt beside it (MTT, FTD, TESLA, DATM, DD-Ranking, k-means)",
    "pair": "a list [images, labels] (IDC, DREAM, NCFM) or a file with images and labels by name",
    "dd": "a list of steps: images, labels, step size (Wang et al.)",
    "kip": "npz with images, channels last, and centred one-hot labels (KIP)",
    "folder": "pictures in a folder a class (SRe2L, CDA, RDED, DD-Ranking)",
    "parquet": "pictures and class ids in parquet files (Hugging Face)",
    "dq": "indices into the training split, npy (Dataset Quantization)",
    "fkd": "label files epoch_0/batch_0.tar of a set (SRe2L, CDA, CV-DD)",
    "safetensors": "our own file",
}
ALIASES = {
    **dict.fromkeys(("dsa", "dm", "datadam", "fyi", "bacon"), "dc"),
    **dict.fromkeys(("ftd", "tesla", "datm", "dd-ranking", "kmeans"), "mtt"),
    **dict.fromkeys(("idc", "dream", "ncfm", "idm", "safetensors-pair", "npz"), "pair"),
    **dict.fromkeys(("sre2l", "cda", "scdd", "rded"), "folder"),
    "ssnl": "dd",
}
"""Methods whose files are of a format."""
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
CARD = "card.json"
_CARD_BYTES = 8 << 20

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pictures:
    """Pictures that stay where they are until they are asked for.

    ``groups``: name of the class folder (or the class id as text) -> pictures, in the order of the items.  ``read(most)``
    yields (group, picture uint8 (H, W) or (H, W, 3)) in that order, at most so many, then spread over all of them.
    """

    groups: Mapping[str, int]
    read: Callable[[int | None], Iterator[tuple[str, NDArray[np.uint8]]]]

    def __len__(self) -> int:
        return sum(self.groups.values())


@dataclass(frozen=True)
class Opened:
    """The parts of what was published.  What a format does not have is empty."""

    path: Path
    format: str
    container: str
    files: tuple[Path, ...]
    """Read to make the set; in the order of the sum."""
    base: Path
    pairs: tuple[Pair, ...] = ()
    """Images (N, C, H, W) or, in kip, (N, H, W, C), and labels, of each experiment or step."""
    rates: tuple[float, ...] = ()
    """Learned step sizes: one, or one a step."""
    pictures: Pictures | None = None
    indices: Tensor | None = None
    ours: Path | None = None
    fkd: Path | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else stands there, for a reader."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Of our own export, which says what the files mean."""

    def sha256(self) -> str:
        """Hash of the file, or of all of them; "" where there are too many to be worth it (label files)."""
        return foreign.checksum(self.files, self.base) if self.files else ""


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {tuple(value.shape)}"
    if isinstance(value, dict):
        keys = ", ".join(str(k)[:40] for k in list(value)[:6])
        return f"a mapping of {len(value)} ({keys})"
    if isinstance(value, (list, tuple)):
        inside = "" if not value else f" of {len(value)}, the first {_kind(value[0])}"
        return f"a {type(value).__name__}{inside}"
    return f"a {type(value).__name__}"


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.layout == torch.strided


def _labels(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() in (1, 2) and len(value) == n


def _is_pair(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and _images(value[0]) and _labels(value[1], len(value[0]))


def _pair(path: Path, images: Any, labels: Any, what: str) -> Pair:
    if not _images(images):
        raise FormatError(f"{path}: {what} are {_shown(images)}; expected a tensor (N, C, H, W)")
    if not isinstance(labels, Tensor):
        raise FormatError(
            f"{path}: labels of {what} are {_shown(labels)}; expected a tensor, one row an image"
        )
    if labels.dim() == 2 and labels.shape[1] == 1 or labels.dim() == 0:
        labels = labels.reshape(-1)
    if not _labels(labels, len(images)):
        raise FormatError(
            f"{path}: labels have shape {tuple(labels.shape)} for {len(images)} {what}; expected one row an image"
        )
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise FormatError(f"{path}: {what} are {images.dtype}; expected floats or uint8")
    if labels.is_complex() or labels.dtype == torch.bool:
        raise FormatError(f"{path}: labels of {what} are {labels.dtype}; expected class ids or floats")
    if not images.numel():
        raise FormatError(f"{path}: {what} have shape {tuple(images.shape)}; expected at least one value")
    return images.detach(), labels.detach()


# ------------------------------------------------------------------------------------------------ torch files


def _accuracies(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    parts = []
    for network, numbers in list(value.items())[:10]:
        if (
            isinstance(numbers, (list, tuple))
            and numbers
            and all(isinstance(x, (int, float, np.number)) for x in numbers)
        ):
            mean = sum(float(x) for x in numbers) / len(numbers)
            parts.append(f"{str(network)[:40]} {100 * mean if mean <= 1 else mean:.2f} % of {len(numbers)}")
    return ", ".join(parts)


def _dc(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    data = value["data"]
    if not isinstance(data, (list, tuple)) or not data:
        raise FormatError(f"{path}: its data are {_shown(data)}; expected [images, labels] or a list of them")
    nested = isinstance(data[0], (list, tuple))
    experiments = list(data) if nested else [data]
    pairs = []
    for number, experiment in enumerate(experiments):
        if not isinstance(experiment, (list, tuple)) or len(experiment) < 2:
            raise FormatError(
                f"{path}: experiment {number} is {_shown(experiment)}; expected [images, labels] as DC saves them"
            )
        pairs.append(_pair(path, experiment[0], experiment[1], f"images of experiment {number}"))
    facts = {"form": "nested" if nested else "flat"}
    if said := _accuracies(value.get("accs_all_exps")):
        facts["accuracies that the authors saved"] = said
    if "net_parameters" in value:
        facts["left out"] = "weights of networks (net_parameters)"
    return {"format": "dc", "pairs": tuple(pairs), "facts": facts}


def _step(path: Path, number: int, step: Any) -> tuple[Pair, float | None]:
    pair = _pair(path, step[0], step[1], f"images of step {number}")
    if len(step) < 3:
        return pair, None
    rate = step[2]
    if isinstance(rate, Tensor) and rate.numel() == 1 and not rate.is_complex():
        return pair, float(rate)
    if isinstance(rate, (int, float)) and not isinstance(rate, bool):
        return pair, float(rate)
    raise FormatError(f"{path}: the step size of step {number} is {_shown(rate)}; expected one number")


def _by_value(path: Path, value: Any) -> dict[str, Any]:
    """Format and parts of what a torch file holds.

    Raises:
        FormatError: something else than a distilled set; says what it looks like.
    """
    if isinstance(value, dict) and "data" in value:
        return _dc(path, value)
    if isinstance(value, dict) and {"images", "labels"} <= set(value):
        pair = _pair(path, value["images"], value["labels"], "images")
        return {"format": "pair", "pairs": (pair,), "facts": {"form": "by name"}}
    if isinstance(value, Tensor):
        return {"format": "mtt", "tensor": value}
    if isinstance(value, (list, tuple)) and value:
        if _is_pair(value):
            return {
                "format": "pair",
                "pairs": (_pair(path, value[0], value[1], "images"),),
                "facts": {"form": "list"},
            }
        if all(isinstance(s, (list, tuple)) and len(s) in (2, 3) and _images(s[0]) for s in value):
            steps = [_step(path, i, s) for i, s in enumerate(value)]
            rates = tuple(r for _, r in steps if r is not None)
            return {"format": "dd", "pairs": tuple(p for p, _ in steps), "rates": rates}
        if len(value) == 6 and isinstance(value[5], Tensor) and isinstance(value[0], Tensor):
            raise FormatError(
                f"{path} is one label file of FKD; name their folder, the one that has epoch_0, and the set that they label"
            )
        first: Any = value[0]
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        if isinstance(value[0], (list, tuple)) and isinstance(first, Tensor):
            raise FormatError(
                f"{path} is {_shown(value)}: expert trajectories (a replay buffer), not a distilled set; "
                f"make experts with: ddbench experts make"
            )
    if isinstance(value, dict) and isinstance(value.get("subset"), dict):
        raise FormatError(
            f"{path} is a checkpoint of DeepCore: a selection, not pictures.  Save its indices and import them: "
            f"s = torch.load(file, weights_only=False)['subset']['indices']; numpy.save('indices.npy', s)"
        )
    if isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values()):
        raise FormatError(f"{path} is {_shown(value)}: the weights of a network, not a distilled set")
    raise FormatError(
        f"{path} holds {_shown(value)}; expected images and labels in one of the forms: {'; '.join(FORMATS.values())}"
    )


_IMAGES = re.compile(r"(?i)images")


def _label_names(name: str) -> str:
    """images_best.pt -> labels_best.pt, CIFAR10_IPC10_images.pt -> CIFAR10_IPC10_labels.pt."""
    return _IMAGES.sub(lambda m: "LABELS" if m.group().isupper() else "labels", name)


def _parts_of(path: Path) -> list[Path]:
    """images_best_0.pt, _1, ... of one set; [path] where it is whole."""
    found = re.fullmatch(r"(.*images_best)_(\d+)(\.\w+)", path.name)
    if not found:
        return [path]
    parts: list[Path] = []
    while (part := path.with_name(f"{found[1]}_{len(parts)}{found[3]}")).is_file():
        parts.append(part)
    if path not in parts:
        raise FormatError(
            f"{path} is a part of a set whose part 0 to {found[2]} are not all there; copy all of them into one folder"
        )
    return parts


def _mtt(path: Path, tensor: Tensor, limit_mib: float) -> dict[str, Any]:
    """A tensor file, with the labels and the step size that lie beside it."""
    if tensor.dim() != 4:
        what = "labels" if "labels" in path.name.lower() else "a tensor"
        raise FormatError(
            f"{path} holds {what} {tensor.dtype} {tuple(tensor.shape)}; name the file of the images (N, C, H, W)"
        )
    if "zca" in path.name.lower() and "images" in path.name.lower():
        raise FormatError(
            f"{path} by its name holds un-whitened pictures, for viewing; the set itself is "
            f"{path.name.replace('_zca', '')}, with --space zca"
        )
    if not _IMAGES.search(path.name):
        raise FormatError(
            f"{path} holds one tensor {tuple(tensor.shape)} and no labels; expected labels in a file beside it whose name has "
            f"labels where this one has images (images_best.pt, labels_best.pt)"
        )
    parts = _parts_of(path)
    images, labels, files = [], [], []
    for part in parts:
        beside = part.with_name(_label_names(part.name))
        if not beside.is_file():
            raise FormatError(
                f"{part} has no {beside.name} beside it; copy it there: labels are never made up from the order of images"
            )
        pixels = tensor if part == path else foreign.load_torch(part, limit_mib)
        pair = _pair(part, pixels, foreign.load_torch(beside, limit_mib), "images")
        images.append(pair[0])
        labels.append(pair[1])
        files += [part, beside]
    if len({tuple(t.shape[1:]) for t in images}) > 1 or len({tuple(t.shape[1:]) for t in labels}) > 1:
        raise FormatError(
            f"{path}: its {len(parts)} parts are of different shapes; expected parts of one set"
        )
    if sum(t.nbytes for t in images) > limit_mib * (1 << 20):
        raise FormatError(f"{path}: its parts are larger than {limit_mib:,.0f} MiB together (--limit)")
    rates: tuple[float, ...] = ()
    name = _IMAGES.sub("lr", parts[0].name)
    for beside in (path.with_name(name), path.with_name(re.sub(r"_0(\.\w+)$", r"\1", name))):
        if beside.is_file() and beside not in files:
            rate = foreign.load_torch(beside, limit_mib)
            if not isinstance(rate, Tensor) or rate.numel() != 1:
                raise FormatError(f"{beside} holds {_shown(rate)}; expected one learned step size")
            rates, files = (float(rate),), [*files, beside]
            break
    facts = {"parts": str(len(parts))} if len(parts) > 1 else {}
    return {
        "format": "mtt",
        "pairs": ((torch.cat(images) if len(parts) > 1 else images[0], torch.cat(labels)),),
        "rates": rates,
        "facts": facts,
        "files": tuple(files),
    }


# ------------------------------------------------------------------------------------------------ other files


def _arrays(path: Path, found: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    named = {k.lower(): v for k, v in found.items()}
    if not {"images", "labels"} <= set(named):
        raise FormatError(
            f"{path} has the arrays {', '.join(found) or '(none)'}; expected images and labels (KIP's names)"
        )
    images, labels = (torch.from_numpy(np.ascontiguousarray(_known(named[k]))) for k in ("images", "labels"))
    pair = _pair(path, images, labels, "images")
    last = pair[0].shape[3] in (1, 3) and pair[0].shape[1] not in (1, 3)
    return {"format": "kip" if last else "pair", "pairs": (pair,), "facts": {"form": "by name"}}


def _known(array: NDArray[Any]) -> NDArray[Any]:
    """Types that torch has everywhere; unsigned ones larger than a byte are widened."""
    return array.astype(np.int64) if array.dtype.kind == "u" and array.dtype.itemsize > 1 else array


def _indices(path: Path, limit_mib: float) -> dict[str, Any]:
    array = foreign.load_npy(path, limit_mib)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise FormatError(
            f"{path} is an array {array.dtype} {array.shape}; expected indices into the training split (n,), integers; "
            f"images and labels go into one file: numpy.savez(file, images=..., labels=...)"
        )
    return {"format": "dq", "indices": torch.from_numpy(np.ascontiguousarray(array.astype(np.int64)))}


def _safetensors(path: Path, limit_mib: float) -> dict[str, Any]:
    from safetensors import safe_open

    if path.stat().st_size > limit_mib * (1 << 20):
        raise FormatError(
            f"{path} is larger than {limit_mib:,.0f} MiB; allow more where that is right (--limit)"
        )
    with foreign.guarded(path, "safetensors file"), safe_open(path, framework="pt") as file:
        if "ddbench" in (file.metadata() or {}):
            return {"format": "safetensors", "ours": path}
        keys = set(file.keys())  # noqa: SIM118
        if not {"images", "labels"} <= keys:
            raise FormatError(
                f"{path} has the tensors {', '.join(sorted(keys)[:8]) or '(none)'}; expected images and labels, or a card "
                f"of ddbench"
            )
        pair = _pair(path, file.get_tensor("images"), file.get_tensor("labels"), "images")
    return {"format": "pair", "pairs": (pair,), "facts": {"form": "by name"}}


def _parquet(paths: Sequence[Path], limit_mib: float) -> dict[str, Any]:
    """Hugging Face's form: a column ``image`` (bytes, or a struct with bytes) and one of class ids."""
    schema = foreign.parquet_file(paths[0], limit_mib).schema_arrow
    columns = {str(name).lower(): str(name) for name in schema.names}
    image = next((columns[c] for c in ("image", "img", "jpg", "png") if c in columns), None)
    label = next((columns[c] for c in ("class_id", "label", "labels", "fine_label") if c in columns), None)
    if image is None or label is None:
        raise FormatError(
            f"{paths[0]} has the columns {', '.join(list(columns.values())[:8]) or '(none)'}; expected image and class_id "
            f"(or label)"
        )
    leaves = {}
    for path in paths:
        leaves[path] = foreign.parquet_column(path, (f"{image}.bytes", image), ("BYTE_ARRAY",), limit_mib)
        foreign.parquet_column(path, (label,), ("INT32", "INT64"), limit_mib)
    counts: dict[str, int] = {}
    for path in paths:
        for row in foreign.parquet_rows(path, [label], limit_mib, 4096):
            if not isinstance(row[label], int):
                raise FormatError(
                    f"{path}: column {label} has {str(row[label])[:40]!r}; expected whole class ids"
                )
            counts[str(row[label])] = counts.get(str(row[label]), 0) + 1

    def read(most: int | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        number = 0
        for path in paths:
            for row in foreign.parquet_rows(path, [leaves[path], label], limit_mib):
                if number == most:
                    return
                value = row[image]
                data = value.get("bytes") if isinstance(value, dict) else value
                if not isinstance(data, bytes):
                    raise FormatError(f"{path}: row {number} has no bytes of a picture in column {image}")
                yield str(row[label]), foreign.picture(data, f"{path} row {number}")
                number += 1

    facts = {"columns": f"{image}, {label}", "files": str(len(paths)), "items": "in the order of the rows"}
    return {"format": "parquet", "pictures": Pictures(counts, read), "facts": facts}


# ------------------------------------------------------------------------------------------------ folders


def _entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Sub-folders with pictures right inside them, by name, each with its pictures sorted by name."""
    found = {}
    for entry in _entries(folder):
        if entry.is_dir() and not entry.is_symlink():
            files = [p for p in _entries(entry) if p.suffix.lower() in _PICTURES and p.is_file()]
            if files:
                found[entry.name] = files
    return found


def _check_numbers(folder: Path, groups: Mapping[str, Sequence[Path]]) -> None:
    """SRe2L's and RDED's files name their class, too: class007_id003.jpg lies in new007."""
    for name, files in groups.items():
        number = re.fullmatch(r"(?:new)?(\d+)", name)
        for file in files if number else ():
            own = re.match(r"class(\d+)_id", file.name)
            if own and int(own[1]) != int(number[1]):  # type: ignore[index]
                raise FormatError(
                    f"{folder / name} has {file.name}: the folder says class {int(number[1])} and the file class "  # type: ignore[index]
                    f"{int(own[1])}; sort them out before they are used"
                )


def _pictures(folder: Path, groups: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    _check_numbers(folder, groups)
    files = [(name, path) for name, paths in groups.items() for path in paths]

    def read(most: int | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        stride = 1 if most is None else max(1, len(files) // most)
        for name, path in files[::stride][: most or len(files)]:
            yield name, foreign.picture(path, str(path))

    counts = {name: len(paths) for name, paths in groups.items()}
    suffixes = sorted({path.suffix.lower() for _, path in files})
    return {
        "format": "folder",
        "pictures": Pictures(counts, read),
        "files": tuple(path for _, path in files),
        "facts": {"files": f"{len(files)} of {', '.join(suffixes)}"},
    }


def _one_of(folder: Path, names: Sequence[str], what: str) -> Path:
    if len(names) == 1:
        return folder / names[0]
    raise FormatError(
        f"{folder} has {len(names)} {what}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}; name one of them"
    )


def _folder(folder: Path, limit_mib: float, depth: int = 0) -> dict[str, Any]:
    entries = _entries(folder)
    names = [p.name for p in entries]
    if "epoch_0" in names or any(re.fullmatch(r"epoch_\d+", n) for n in names):
        return {"format": "fkd", "fkd": folder}
    if groups := _class_folders(folder):
        return _pictures(folder, groups)
    files = [p for p in entries if p.is_file()]
    if parquet := [p for p in files if p.suffix == ".parquet"]:
        return {**_parquet(parquet, limit_mib), "files": tuple(parquet)}
    for wanted in ("images_best.pt", "images_best_0.pt", "images.pt", "data.pt", "results.pth", "images.npy"):
        if wanted in names:
            return _file(folder / wanted, limit_mib)
    known = [
        p.name for p in files if p.suffix in (".pt", ".pth", ".npz", ".npy", ".safetensors", ".zip", ".gz")
    ]
    images = [n for n in known if _IMAGES.search(n) and "zca" not in n.lower()]
    if images:
        return _file(_one_of(folder, images, "files of images"), limit_mib)
    if known:
        return _file(_one_of(folder, known, "files that may be a set"), limit_mib)
    folders = [p for p in entries if p.is_dir() and not p.is_symlink()]
    if len(folders) == 1 and depth < 4:
        return _folder(folders[0], limit_mib, depth + 1)
    if any(p.suffix.lower() in _PICTURES for p in files):
        raise FormatError(
            f"{folder} has pictures that are in no folder of a class; expected a folder a class (new000/, 00000/, cat/)"
        )
    raise FormatError(
        f"{folder} has {', '.join(names[:6]) or 'nothing'}{', ...' if len(names) > 6 else ''}; expected pictures in a folder a "
        f"class, epoch_0/ of label files, parquet files or images_best.pt with labels_best.pt"
    )


def _file(path: Path, limit_mib: float) -> dict[str, Any]:
    kind = foreign.container(path)
    found: dict[str, Any] = {"container": kind, "files": (path,)}
    if kind in ("torch", "legacy torch"):
        parts = _by_value(path, foreign.load_torch(path, limit_mib))
        tensor = parts.pop("tensor", None)
        return {**found, **parts, **({} if tensor is None else _mtt(path, tensor, limit_mib))}
    if kind == "npz":
        return {**found, **_arrays(path, foreign.load_npz(path, limit_mib))}
    if kind == "npy":
        return {**found, **_indices(path, limit_mib)}
    if kind == "safetensors":
        return {**found, **_safetensors(path, limit_mib)}
    if kind == "parquet":
        return {**found, **_parquet([path], limit_mib)}
    if kind == "pickle":
        raise foreign.refuse_pickle(path)
    if kind == "picture":
        raise FormatError(
            f"{path} is one picture; name the folder that has a folder of pictures for each class"
        )
    raise FormatError(
        f"{path} is of no known kind; expected a torch, numpy, safetensors or parquet file, a zip or tar.gz of such, or a "
        f"folder of pictures"
    )


def _own_card(folder: Path) -> dict[str, Any]:
    """The card that our export writes beside the files, else nothing."""
    path = folder / CARD
    if not path.is_file() or path.stat().st_size > _CARD_BYTES:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}  # somebody else's file of that name
    return (
        dict(found["exported"]) if isinstance(found, dict) and isinstance(found.get("exported"), dict) else {}
    )


@contextlib.contextmanager
def sealed(path: Path) -> Iterator[None]:
    """Every fault of what runs inside as a FormatError that names the file."""
    try:
        yield
    except FormatError:
        raise
    except (ValueError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise FormatError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what an archive holds, removed with the plain files and folders that were unpacked into it."""
    folder = Path(tempfile.mkdtemp(prefix="ddbench-import-"))
    try:
        yield folder
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


@contextlib.contextmanager
def opened(path: Path, limit_mib: float = LIMIT_MIB) -> Iterator[Opened]:
    """Open what was published; archives are unpacked into a temporary folder for as long as it is open.

    Raises:
        FileNotFoundError: nothing there.
        FormatError: it is not, or not safely, a distilled set.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    with contextlib.ExitStack() as stack:
        place = path
        packed = "" if path.is_dir() else foreign.container(path)
        if packed in ("zip", "gzip", "tar"):
            place = stack.enter_context(_scratch())
            foreign.unpack(path, place, limit_mib)
        try:
            found = _folder(place, limit_mib) if place.is_dir() else _file(place, limit_mib)
        except FormatError as error:
            if place is path:
                raise
            raise FormatError(f"in {path}: {str(error).replace(str(place) + '/', '')}") from error
        files = found.pop("files", ()) if place is path else (path,)
        found.pop("files", None)
        container = found.pop("container", "folder")
        if place is not path:
            container = f"{packed} of a {container}"
        card = _own_card(place if place.is_dir() else place.parent)
        base = path if path.is_dir() else path.parent
        yield Opened(path=path, container=container, files=tuple(files), base=base, card=card, **found)
