"""``ddbench teachers``: what is printed, kept and refused; digits and tiny networks, in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Ddbench, program

from ddbench import store

ROOT = Path(__file__).resolve().parent.parent
TINY = ("ConvNetD1W8BN", "--dataset", "digits", "--set", "epochs=2", "--device", "cpu")


@pytest.fixture
def teachers(capfd: pytest.CaptureFixture[str], fresh_cache: Path) -> Ddbench:
    return program(capfd, "teachers")


def test_a_teacher_is_trained_once_measured_and_listed(teachers: Ddbench, fresh_cache: Path) -> None:
    assert teachers("list").out.endswith("0 B in 0 entries\n(none)\n")
    said = teachers("train", *TINY)
    assert said.status == 0 and said.out.startswith("1 teacher: 1 trained now, 0 found\n")
    again = teachers("train", *TINY, "--json").json
    assert again["trained_now"] == 0
    (made,) = again["teachers"]
    assert (made["data"], made["network"], made["recipe"]["epochs"]) == ("digits", "ConvNetD1W8BN", 2)
    assert 0.5 < made["accuracy"] <= 1 and 0.5 < made["test_accuracy"] <= 1
    assert made["recipe"]["held_out"] == 0.1 and made["space"]["mean"]
    listed = teachers("list").out
    assert made["fingerprint"] in listed and f"{100 * made['test_accuracy']:.1f}" in listed
    assert [e["fingerprint"] for e in teachers("list", "--json").json] == [made["fingerprint"]]
    assert (fresh_cache / "teachers" / made["fingerprint"] / "test.json").is_file()


def test_count_seed_held_out_and_fields_reach_the_recipe(teachers: Ddbench) -> None:
    said = teachers(
        "train", *TINY, "--count", 2, "--seed", 3, "--held-out", 0, "--set", "augment=crop-flip", "--json"
    )
    assert said.json["trained_now"] == 2
    for made in said.json["teachers"]:
        recipe = made["recipe"]
        assert (recipe["seed"], recipe["held_out"], recipe["augment"]) == (3, 0.0, "crop-flip")
    assert teachers("list").out.count(" (train)") == 2
    more = teachers("train", *TINY, "--count", 3, "--seed", 3, "--held-out", 0, "--set", "augment=crop-flip")
    assert more.out.startswith("3 teachers: 1 trained now, 2 found\n")


def test_a_teacher_is_measured_again_on_its_own_data(teachers: Ddbench, fresh_cache: Path) -> None:
    (made,) = teachers("train", *TINY, "--json").json["teachers"]
    key = made["fingerprint"]
    (fresh_cache / "teachers" / key / "test.json").unlink()
    assert teachers("list", "--json").json[0]["test_accuracy"] is None
    for more in ((), ("--dataset", "digits")):
        said = teachers("evaluate", key, *more, "--device", "cpu", "--json").json
        assert said["test_accuracy"] == made["test_accuracy"]
    assert key in teachers("evaluate", key).out
    said = teachers("evaluate", key[:-1])
    assert said.status == 2 and f"no teacher {key[:-1]} in the cache" in said.err and key in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ConvNut",), "error: no network 'ConvNut'"),
        (("MLP", "--squeeze", "sre2"), "error: no recipe 'sre2' for teachers; nearest: sre2l"),
        (
            ("MLP", "--squeeze", "cvdd"),
            "error: the recipe 'cvdd' for teachers has no row for digits; it has cifar10",
        ),
        (("MLP", "--dataset", "digit"), "error: no data set 'digit'; nearest: digits"),
        (("MLP", "--set", "epoch=2"), "error: a recipe of teachers has no field 'epoch'; nearest: epochs"),
        (("MLP", "--set", "epochs=many"), "error: setting 'epochs' of teachers is 'many'; expected int"),
        (("MLP", "--set", "epochs"), "error: --set: given 'epochs'; expected KEY=VALUE"),
        (("MLP", "--held-out", 1), "error: TeacherRecipe.held_out is 1.0; expected a share in [0, 1)"),
        (
            ("MLP", "--set", "optimiser=lion"),
            "error: TeacherRecipe.optimiser is 'lion'; expected sgd or adam",
        ),
        (("LeNet",), "LeNet accepts 32x32 images or 1x28x28, not 1x8x8"),
        (("ConvNetD6W8BN",), "halves its images 6 times, but 1x8x8 images can be halved 3 times"),
        (
            ("ResNet18BN", "--dataset", "imagenet1k", "--squeeze", "sre2l"),
            "error: torchvision:resnet18 has public weights IMAGENET1K_V1 under this recipe: nothing to train; methods load",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(
    teachers: Ddbench, fresh_cache: Path, words: tuple[object, ...], message: str
) -> None:
    said = teachers("train", *words, "--device", "cpu")
    assert said.status == 2 and message in said.err and said.out == ""
    assert not list(fresh_cache.rglob("*.safetensors"))


def test_teachers_are_removed_by_name_or_all(teachers: Ddbench, fresh_cache: Path) -> None:
    made = [m["fingerprint"] for m in teachers("train", *TINY, "--count", 3, "--json").json["teachers"]]
    assert teachers("remove").status == 2
    both = teachers("remove", made[0], "--all")
    assert both.status == 2 and "--all and fingerprints were both given; expected fingerprints" in both.err
    assert teachers("remove", "--all", "--dry-run").out.startswith("would remove 3 entries, ")
    assert teachers("remove", made[0]).out.startswith("removed 1 entry, ")
    with store.Lock(fresh_cache / "teachers" / made[1]):
        busy = teachers("remove", "--all")
    assert busy.status == 2 and f"teacher {made[1]} is being trained by another process" in busy.err
    assert len(teachers("remove", "--all", "--json").json) == 2 and teachers("list", "--json").json == []


def test_under_torchrun_the_first_process_alone_prints_and_writes(tmp_path: Path, fresh_cache: Path) -> None:
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "ddbench",
        "teachers",
        "train",
    ]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words, *TINY],
        cwd=tmp_path,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 teacher: 1 trained now, 0 found") == 1 == done.stdout.count("fingerprint")
    assert len(list(fresh_cache.rglob("network.safetensors"))) == 1
