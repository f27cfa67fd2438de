"""The contract over every data set, and what is known of single ones."""

from __future__ import annotations

import ast
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from ddbench import data, registry
from ddbench.contract import ImageData

NAMES = registry.names("datasets")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TABLE = {  # section 1 of the dc-dsa specification: shape, classes, mean, std
    "mnist": ((1, 28, 28), 10, (0.1307,), (0.3081,)),
    "fashion_mnist": ((1, 28, 28), 10, (0.2861,), (0.3530,)),
    "svhn": ((3, 32, 32), 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((3, 32, 32), 100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny_imagenet": ((3, 64, 64), 200, *IMAGENET),
    "imagenet1k": ((3, 224, 224), 1000, *IMAGENET),
}
SUBSETS = {
    "imagenette": "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257",
    "imagewoof": "n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394 n02115641 n02099601 n02105641",
    "imagefruit": "n07753275 n07753592 n07745940 n07747607 n07749582 n07768694 n07753113 n07720875 n07718472 n07760859",
    "imagemeow": "n02123045 n02123159 n02123394 n02123597 n02124075 n02129165 n02129604 n02128925 n02128757 n02127052",
    "imagesquawk": "n01806143 n02007558 n01818515 n02051845 n02056570 n01614925 n01843383 n01518878 n01860187 n01819313",
    "imageyellow": "n02206856 n12057211 n07753592 n07749582 n12144580 n04146614 n03530642 n02129165 n01773797 n01531178",
}
NO_FLIP = {"digits", "mnist", "svhn"}


def test_all_fourteen_are_there():
    assert set(NAMES) >= {"digits", *TABLE, *SUBSETS} and len({"digits", *TABLE, *SUBSETS}) == 14


@pytest.mark.parametrize("name", NAMES)
class TestEveryDataSet:
    def test_its_facts_are_read_from_the_source_and_are_those_of_the_class(self, name):
        facts = registry.facts("datasets", name).keywords
        assert dict(facts) == dict(registry.get("datasets", name).__ddbench__.keywords)
        assert len(facts["shape"]) == 3 and facts["classes"] >= 2 and facts["test"] >= facts["classes"]
        assert facts["flip"] is (name not in NO_FLIP) and facts["licence"]

    def test_its_docstring_has_bytes_source_and_licence(self, name):
        doc = registry.facts("datasets", name).doc
        assert "\nBytes: " in doc and "Source: " in doc and "Licence: " in doc

    def test_it_imports_only_what_its_layer_may(self, name):
        (path,) = registry.sources("datasets", name)
        modules = [n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        assert {m for m in modules if m.startswith("ddbench")} <= {
            "ddbench.contract",
            "ddbench.data",
            "ddbench.registry",
        }

    def test_nowhere_and_offline_it_says_which_file_goes_where_or_is_built_in(
        self, name, tmp_path, monkeypatch
    ):
        def refuse(*args: object, **kwargs: object) -> None:
            raise urllib.error.URLError("no route to host")

        monkeypatch.setattr(urllib.request, "urlopen", refuse)
        if data.available(name, tmp_path) == "built in":
            assert isinstance(data.load(name, tmp_path).train, ImageData)
            return
        assert data.available(name, tmp_path) is None
        with pytest.raises(
            FileNotFoundError, match=rf"{name} is not under {tmp_path} and .*put .* into {tmp_path}"
        ):
            data.load(name, tmp_path)

    def test_a_third_split_is_refused(self, name, tmp_path):
        with pytest.raises(ValueError, match="split is 'extra'; expected train or test"):
            registry.get("datasets", name)().load("extra", tmp_path)


@pytest.mark.parametrize("name", TABLE)
def test_shape_classes_and_statistics_are_those_of_the_specification(name):
    facts = registry.facts("datasets", name).keywords
    assert (facts["shape"], facts["classes"], facts["mean"], facts["std"]) == TABLE[name]
    listed = getattr(registry.get("datasets", name), "class_names", ())
    assert len(set(listed)) in (0, facts["classes"])


@pytest.mark.parametrize("name", SUBSETS)
def test_subsets_have_the_listed_classes_in_the_listed_order(name):
    facts = registry.facts("datasets", name)
    assert facts.keywords["shape"] == (3, 128, 128) and facts.keywords["mean"] == IMAGENET[0]
    assert registry.get("datasets", name).class_names == tuple(SUBSETS[name].split())
    assert [f.name for f in facts.fields] == ["resize"] and "short side to 128" in facts.doc


def test_digits_are_scaled_and_split_as_written(tmp_path):
    from sklearn.datasets import load_digits

    real = data.load("digits", tmp_path)
    values, labels = load_digits(return_X_y=True)
    assert (len(real.train), len(real.test)) == (1437, 360) and real.train.shape == (1, 8, 8)
    assert real.test.labels.tolist() == labels[::5].tolist()
    assert real.test.images[1].flatten().tolist() == [round(v * 255 / 16) for v in values[5]]
    assert int(real.train.images.max()) == 255 and 128 in real.train.images  # the tie: 8 -> 127.5 -> 128
    unit = real.train.images.double() / 255
    assert real.train.mean == pytest.approx([unit.mean().item()]) == real.test.mean
    assert real.train.std == pytest.approx([unit.std(correction=0).item()])
    assert not real.train.flip and real.train.class_names[3] == "3"
    assert real.train.labels.bincount(minlength=10).min() > 100
    assert real.fingerprint == data.load("digits", tmp_path).fingerprint == "28ba0f0452365efc"


def test_a_data_set_file_of_the_users_is_loaded_by_name(tmp_path):
    file = Path(tmp_path / "two_greys.py")
    file.write_text(
        '"""Two greys.  Source: none.  Licence: none."""\n'
        "from dataclasses import dataclass\nimport torch\nfrom ddbench.contract import ImageData\n"
        "from ddbench.registry import dataset\n"
        "@dataset(shape=(1, 2, 2), classes=2, train=4, test=4, sha256=None)\n@dataclass(frozen=True)\nclass TwoGreys:\n"
        "    dark: int = 0\n"
        "    def load(self, split, root):\n"
        "        y = torch.tensor([0, 1, 0, 1])\n"
        "        x = (self.dark + 100 * y).to(torch.uint8).view(4, 1, 1, 1).repeat(1, 1, 2, 2)\n"
        "        return ImageData('two_greys', split, x, y, 2, (0.5,), (0.5,))\n"
    )
    assert registry.add_file(file) == "two_greys"
    try:
        assert data.available("two_greys") == "built in" and data.prepare("two_greys") is None
        assert torch.unique(data.load("two_greys?dark=7").train.images).tolist() == [7, 107]
    finally:
        registry._added.clear()
