"""``lrs`` and ``ars`` as protocols: which students they train on what, what is shared, and what the scores say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_protocols import crew, made

from ddbench import protocols, store
from ddbench.contract import CodecSpec, DistilledSet, Labeller, NetworkRef, RealData, Targets, ViewPlan
from ddbench.nets.build import build
from ddbench.protocols import robust, train
from ddbench.protocols.robust import AugmentationRobust, LabelRobust, hardened, held_out, unaugmented
from ddbench.protocols.rows import ROWS
from ddbench.protocols.train import RowProtocol
from ddbench.seeding import Generators
from ddbench.train.engine import EngineOptions

NET = "ConvNetD1W32"
RATES = (0.01, 0.1)
CELLS = {
    "lrs": ["real-hard", "syn-hard", "syn-any", "rdm-any"],
    "ars": ["syn-aug", "rdm-aug", "syn-naug", "rdm-naug"],
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    """Makes a protocol of the kind whose base rows take a few steps."""
    short = {"epochs": 4, "milestones": (3,)}
    monkeypatch.setitem(
        ROWS, "tiny", replace(ROWS["quick"], name="tiny", plan=ROWS["quick"].plan.changed(**short))
    )
    full = ROWS["quick-full"].plan.changed(max_steps=4)
    monkeypatch.setitem(ROWS, "tiny-full", replace(ROWS["quick-full"], name="tiny-full", plan=full))
    plan = ROWS["quick-kd"].plan
    kd = plan.changed(epochs=4, views=replace(plan.views, epochs=4))
    monkeypatch.setitem(ROWS, "tiny-kd", replace(ROWS["quick-kd"], name="tiny-kd", plan=kd))

    def make(kind: str, **fields):
        bases = {"own": "tiny", "taught": "tiny-kd", "full": "tiny-full"}
        row = replace(ROWS[f"quick-{kind}"], name=f"tiny-{kind}", bases=bases, rates=RATES, **fields)
        return {"lrs": LabelRobust, "ars": AugmentationRobust}[kind](row)

    return make


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list:
    """(items, learning rate, augmentation, hard, students) of every training."""
    seen, real = [], train.train_students

    def count(items, plan, network, generators, *rest, **more):
        seen.append((len(items), plan.lr, plan.augment, plan.hard, len(generators)))
        return real(items, plan, network, generators, *rest, **more)

    monkeypatch.setattr(train, "train_students", count)
    return seen


def with_labeller(real: RealData) -> DistilledSet:
    """A set whose labelling network lies inside it."""
    net = build("MLP", real.train.shape, real.train.classes, Generators(3)("weights"))
    inline = {f"teacher.{name}": t for name, t in net.state_dict().items()}
    base = made(real)
    labeller = Labeller((NetworkRef("MLP", "inline", "teacher."),), real.train.space)
    return base.changed(
        tensors={**base.tensors, **inline}, targets=Targets(ids=base.targets.ids, labeller=labeller)
    )


def with_soft(real: RealData) -> DistilledSet:
    base = made(real)
    logits = torch.randn((6, 2), generator=Generators(5)("soft"))
    return base.changed(targets=Targets(ids=base.targets.ids, soft=logits, kind="logits"))


class TestScores:
    @pytest.mark.parametrize("kind", ["lrs", "ars"])
    def test_one_score_a_repetition_and_its_four_accuracies_beside_it(self, kind, tiny, gauss2, fresh_cache):
        got = tiny(kind).evaluate(made(gauss2), gauss2, NET, crew(1, 2))
        assert got.metric == kind
        head = [s for s in got.scores if not s.task]
        assert [(s.metric, s.chosen_by, s.chosen_on, s.network) for s in head] == [
            (kind, "last", "holdout", NET)
        ] * 2
        four = {name: [s.value for s in got.scores if s.task == name] for name in CELLS[kind]}
        assert [len(v) for v in four.values()] == [2] * 4
        assert len(got.scores) == 10 and {s.metric for s in got.scores if s.task} == {"top1"}
        formula = robust.lrs if kind == "lrs" else robust.ars
        assert [s.value for s in head] == [formula(*(four[n][i] for n in CELLS[kind])) for i in range(2)]
        assert len(got.ece) == 2 and len(got.class_accuracy) == 2
        assert "labelled by their own classes (hard)" in got.notes["random images"]
        assert "weight 0.5" in got.notes["protocol"]

    def test_nothing_is_chosen_on_test_data(self, tiny, gauss2, fresh_cache, monkeypatch):
        tested = []
        real = robust.tester

        def watch(distilled, data, *rest):
            tested.append(data.test)
            return real(distilled, data, *rest)

        monkeypatch.setattr(robust, "tester", watch)
        got = tiny("lrs").evaluate(made(gauss2), gauss2, NET, crew(1))
        assert tested and all(t.split == "held-out" for t in tested)
        assert all(s.chosen_on != "test" for s in got.scores)
        chosen = {s.task: (s.chosen_by, s.chosen_on) for s in got.scores}
        assert chosen["real-hard"] == ("last", "none")
        assert chosen["syn-any"] == chosen["rdm-any"] == ("lr", "holdout")

    def test_w_and_gamma_are_those_of_the_row(self, tiny, gauss2, fresh_cache):
        alone = tiny("lrs", weight=1.0).evaluate(made(gauss2), gauss2, NET, crew(1))
        value = {s.task: s.value for s in alone.scores}
        assert value[""] == robust.normaliser(value["syn-any"] - value["rdm-any"])

    def test_the_same_seeds_give_the_same_scores(self, tiny, gauss2, tmp_path, monkeypatch):
        found = []
        for folder in ("one", "two"):
            monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / folder))
            found.append(tiny("lrs").evaluate(made(gauss2), gauss2, NET, crew(1, 2)).scores)
        assert found[0] == found[1]

    def test_progress_ends_at_its_total_and_never_before(self, tiny, gauss2, fresh_cache):
        told = []
        tiny("lrs").evaluate(
            made(gauss2), gauss2, NET, crew(1), progress=lambda done, total, *_: told.append((done, total))
        )
        assert told[-1][0] == told[-1][1] and all(done < total for done, total in told[:-1])


class TestCells:
    def test_a_set_of_hard_labels_is_trained_once_a_rate_and_held_against_three_kinds(
        self, tiny, gauss2, trained, fresh_cache
    ):
        tiny("lrs").evaluate(made(gauss2), gauss2, NET, crew(1, 2))
        n = len(gauss2.train)
        assert [t for t in trained if t[0] == n] == [(n, 0.1, "dsa", True, 2)], "real: its own rate"
        # syn: both repetitions at once; rdm: one subset each
        assert [t[1:] for t in trained if t[0] == 6] == [
            *((r, "dsa", False, 2) for r in RATES),
            *((r, "dsa", False, 1) for r in RATES * 2),
        ]

    def test_what_is_not_of_the_set_is_trained_once_for_all_sets(self, tiny, gauss2, trained, fresh_cache):
        protocol = tiny("lrs")
        first = protocol.evaluate(made(gauss2), gauss2, NET, crew(1, 2))
        trained.clear()
        other = made(gauss2).changed(tensors={"images": made(gauss2).tensors["images"] * 0.9})
        second = protocol.evaluate(other, gauss2, NET, crew(1, 2))
        assert [t[4] for t in trained] == [2, 2], "the set alone"
        for name in ("real-hard", "rdm-any"):
            assert [s.value for s in first.scores if s.task == name] == [
                s.value for s in second.scores if s.task == name
            ]
        files = sorted((fresh_cache / robust.KIND).glob("*.json"))
        assert len(files) == 3
        said = [json.loads(f.read_text()) for f in files]
        assert sorted(s["of"]["kind"] for s in said) == ["rdm", "rdm", "real"]

    def test_another_space_ipc_or_network_is_another_baseline(self, tiny, gauss2, trained, fresh_cache):
        protocol = tiny("lrs")
        protocol.evaluate(made(gauss2), gauss2, NET, crew(1))
        space = replace(gauss2.train.space, mean=(0.4,))
        for distilled, network in (
            (made(gauss2).changed(space=space), NET),
            (made(gauss2, per_class=2), NET),
            (made(gauss2), "MLP"),
        ):
            trained.clear()
            protocol.evaluate(distilled, gauss2, network, crew(1))
            assert len(trained) > len(RATES), "more than the set's own"

    def test_a_learned_step_size_needs_no_search(self, tiny, gauss2, trained, fresh_cache, monkeypatch):
        from ddbench.contract import Program

        plan = ROWS["tiny"].plan.changed(learned_rate=True)
        monkeypatch.setitem(ROWS, "tiny", replace(ROWS["tiny"], plan=plan))
        learned = made(gauss2).changed(program=Program(torch.tensor([0.03])))
        got = tiny("lrs").evaluate(learned, gauss2, NET, crew(1))
        assert [round(t[1], 6) for t in trained if t[0] == 6] == [0.03, *RATES]
        assert {s.task: s.chosen_by for s in got.scores}["syn-any"] == "last"

    def test_soft_labels_get_a_hard_run_and_random_images_a_teacher(self, tiny, gauss2, trained, fresh_cache):
        got = tiny("lrs").evaluate(with_soft(gauss2), gauss2, NET, crew(1))
        assert [t[3] for t in trained if t[0] == 6] == [
            *[False] * len(RATES),
            *[True] * len(RATES),
            *[False] * len(RATES),
        ]
        assert "labelled once an image by the protocol's own ConvNetD2W32BN" in got.notes["random images"]
        assert got.teacher_s > 0 and got.labels == "soft"
        again = tiny("lrs").evaluate(with_soft(gauss2), gauss2, NET, crew(1))
        assert again.scores == got.scores

    def test_a_labeller_labels_random_images_too_and_the_hard_run_has_no_augmentation(
        self, tiny, gauss2, trained, fresh_cache
    ):
        got = tiny("lrs").evaluate(with_labeller(gauss2), gauss2, NET, crew(1))
        assert got.notes["random images"] == "labelled by the set's own MLP"
        assert got.labels == "teacher, stored"
        hard = [t for t in trained if t[0] == 6 and t[3]]
        assert [t[1:3] for t in hard] == [(r, "none") for r in RATES]
        assert {s.task for s in got.scores} == {"", *CELLS["lrs"]}

    def test_ars_drops_augmentation_and_mixes_and_keeps_who_labels(self, tiny, gauss2, trained, fresh_cache):
        tiny("ars").evaluate(made(gauss2), gauss2, NET, crew(1))
        assert [t[2] for t in trained] == [*["dsa"] * 2, *["none"] * 2, *["dsa"] * 2, *["none"] * 2]
        plan = unaugmented(ROWS["quick-kd"].plan)
        assert (plan.views.crop, plan.views.flip, plan.views.mix) == ("none", 0.0, "none")
        assert plan.labels == ROWS["quick-kd"].plan.labels and plan.loss == "kl"

    def test_the_hard_form_of_a_plan(self):
        own, taught = hardened(ROWS["quick"].plan), hardened(ROWS["ddranking-kd"].plan)
        assert own == ROWS["quick"].plan.changed(hard=True)
        assert (taught.loss, taught.labels, taught.views, taught.hard) == ("ce", None, None, True)
        assert taught.optimiser == "adamw"


class TestImages:
    def test_held_out_images_are_a_tenth_of_each_class_and_never_trained_on(self, gauss3):
        used = torch.cat([gauss3.train.of_class(c)[:11] for c in range(3)])
        left = held_out(gauss3.train, used)
        assert len(left) == 3 and left.labels.tolist() == [0, 1, 2] and left.split == "held-out"
        for c in range(3):
            last = gauss3.train.images[gauss3.train.of_class(c)[11]]
            assert torch.equal(left.images[c], last)
        assert len(held_out(gauss3.train)) == 3
        with pytest.raises(
            ValueError, match=r"class 0 of gauss3 has 12 training images and students train on all"
        ):
            held_out(gauss3.train, torch.arange(len(gauss3.train)))

    def test_random_images_are_new_in_every_repetition_and_the_same_in_every_run(self, gauss2):
        a, b = (robust.random_images(gauss2.train, 5, Generators(s)) for s in (1, 2))
        assert not torch.equal(a, b)
        assert torch.equal(a, robust.random_images(gauss2.train, 5, Generators(1)))
        assert gauss2.train.labels[a].bincount().tolist() == [5, 5] and len(a.unique()) == 10
        with pytest.raises(ValueError, match="class 0 of gauss2 has 20 training images, and the set has 21"):
            robust.random_images(gauss2.train, 21, Generators(1))

    def test_real_images_go_through_the_space_of_the_set(self, gauss2):
        space = replace(gauss2.train.space, mean=(0.1,), std=(0.5,), real_mean=(0.2,), real_std=(0.4,))
        like = made(gauss2).changed(space=space)
        images = robust.real_set(gauss2, torch.arange(4), like)
        items = train.make_items(images, gauss2, EngineOptions())
        assert torch.allclose(
            items.to_input(items.stored), space.real_to_input(gauss2.train.images[:4]), atol=1e-6
        )


class TestTrouble:
    def test_a_rate_at_which_a_student_diverges_is_not_chosen(self, tiny, gauss2, fresh_cache, monkeypatch):
        real = RowProtocol.teach

        def teach(self, *args, plan=None, **more):
            if plan.lr == 0.1 and not plan.hard:
                raise FloatingPointError("a student diverged")
            return real(self, *args, plan=plan, **more)

        monkeypatch.setattr(RowProtocol, "teach", teach)
        got = tiny("lrs").evaluate(made(gauss2), gauss2, NET, crew(1, 2))
        assert "syn-any 0.01; rdm-any 0.01" in got.notes["learning rates"]
        with pytest.raises(
            FloatingPointError, match=r"diverged at every learning rate of 0.1: a student diverged"
        ):
            protocol = tiny("lrs")
            LabelRobust(replace(protocol.row, rates=(0.1,))).evaluate(made(gauss2), gauss2, NET, crew(1))

    def test_a_damaged_baseline_is_named(self, tiny, gauss2, fresh_cache):
        protocol = tiny("lrs")
        protocol.evaluate(made(gauss2), gauss2, NET, crew(1))
        for file in (fresh_cache / robust.KIND).glob("*.json"):
            file.write_text("{")
        with pytest.raises(
            store.DamagedError, match=r"cannot be read .* remove it and the baseline is measured again"
        ):
            protocol.evaluate(made(gauss2), gauss2, NET, crew(1))

    def test_sets_that_have_no_such_score_are_refused_with_the_reason(self, gauss2):
        base, lrs_, ars_ = made(gauss2), protocols.get("lrs"), protocols.get("ars")
        soft = Targets(soft=torch.full((6, 2), 0.5), kind="probabilities")
        assert "also trains by class labels, and the set has no label ids" in (
            lrs_.accepts(base.changed(targets=soft)) or ""
        )
        assert ars_.accepts(base.changed(targets=soft)) is None
        assert "protocol lrs trains students as ddranking: protocol ddranking trains image classifiers" in (
            lrs_.accepts(base.changed(kind="graph")) or ""
        )
        stored = Labeller((), gauss2.train.space, views=ViewPlan(4, 8))
        only = base.changed(targets=Targets(ids=base.targets.ids, labeller=stored))
        assert "this set has stored answers alone" in (lrs_.accepts(only) or "")
        views = replace(ROWS["quick-kd"].plan.views, flip=0.0)
        same = only.changed(
            targets=Targets(ids=base.targets.ids, labeller=Labeller((), gauss2.train.space, views=views))
        )
        quick = protocols.get("quick-lrs").accepts(same, real=gauss2.train)
        assert "labelled by the networks that label the set, and this one brings stored answers" in (
            quick or ""
        )
        unknown = DistilledSet(
            {"images": torch.zeros(1, 1, 8, 8)}, Targets(ids=torch.zeros(1, dtype=int)), None
        )
        assert "does not say how many it has" in (lrs_.accepts(unknown) or "")
        whole = DistilledSet(
            {"indices": torch.arange(len(gauss2.train))},
            Targets(ids=gauss2.train.labels),
            gauss2.train.space,
            CodecSpec("subset"),
            card=replace(base.card, ipc=0),
        )
        assert "on the whole training split" in (lrs_.accepts(whole) or "")

    def test_a_weight_outside_its_range_is_named(self):
        with pytest.raises(ValueError, match="ProtocolRow.weight is 2; expected 0 to 1"):
            replace(ROWS["lrs"], weight=2)


class TestRows:
    def test_the_recipes_are_those_of_the_released_evaluation(self):
        plan = ROWS["ddranking"].plan
        assert (plan.epochs, plan.batch, plan.lr, plan.momentum, plan.weight_decay) == (
            1000, 256, 0.01, 0.9, 5e-4,
        )  # fmt: skip
        assert (plan.milestones, plan.gamma, plan.reset_optimiser, plan.augment) == (
            (500,),
            0.1,
            False,
            "dsa",
        )
        assert ROWS["lrs"].rates == (0.001, 0.005, 0.01, 0.05, 0.1) and ROWS["lrs"].plan.repeats == 5
        taught = ROWS["ddranking-kd"]
        cases = {
            ("cifar10", 10, 32): (400, 256, 30.0, "pad", "mixup", 0.8),
            ("tiny_imagenet", 200, 64): (400, 1024, 20.0, "resized", "cutmix", 1.0),
            ("imagenet1k", 1000, 224): (300, 1024, 20.0, "resized", "cutmix", 1.0),
        }
        for (dataset, classes, side), want in cases.items():
            p = taught.plan_for(train.Case(dataset, "ResNet18BN", 10, classes, side))
            v = p.views
            assert (p.epochs, p.batch, p.temperature, v.crop, v.mix, v.mix_alpha) == want
            assert (p.optimiser, p.weight_decay, p.loss, p.temperature_squared) == (
                "adamw",
                0.01,
                "kl",
                False,
            )
            assert not p.labels.store and p.lr_at(p.epochs) == pytest.approx(p.lr / 2), "half of a cosine"

    def test_bases_of_every_composed_row_exist(self):
        kinds = {name: row for name, row in ROWS.items() if row.bases}
        assert {"lrs", "ars", "quick-lrs", "quick-ars", "pgd", "autoattack", "quick-pgd"} == set(kinds)
        for row in kinds.values():
            assert all(ROWS[base].kind == "train" for base in row.bases.values())
            assert not row.comparable
            assert ("full" in row.bases) == (row.kind != "attack")
            assert ROWS[row.bases["taught"]].plan.labels is not None
