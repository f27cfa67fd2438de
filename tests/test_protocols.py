"""Protocols: rows, what they accept, and what they find out."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddbench import data, protocols, registry, runner, sets
from ddbench.contract import (
    Card,
    CodecSpec,
    DistilledSet,
    Items,
    Labeller,
    NetworkRef,
    Program,
    RealData,
    Space,
    Targets,
    TeacherRecipe,
)
from ddbench.nets.build import build, trains_on_one
from ddbench.protocols import labelling, train
from ddbench.protocols.native import NativeProtocol, replay, start_
from ddbench.protocols.rows import ROWS, Form, ProtocolRow
from ddbench.protocols.train import RowProtocol
from ddbench.records import Cell, DistilCell
from ddbench.seeding import Generators
from ddbench.train import labels as labels_module
from ddbench.train import students
from ddbench.train.engine import EngineOptions, train_students
from ddbench.train.students import Feed
from ddbench.trainplan import LabelPlan, TrainPlan, ViewPlan

NET = "ConvNetD1W32"
CPU = torch.device("cpu")


def tiny(row: ProtocolRow | None = None, **plan) -> RowProtocol:
    """A protocol of a few steps."""
    row = row or ROWS["quick"]
    return RowProtocol(replace(row, plan=row.plan.changed(**{"epochs": 6, "milestones": (4,), **plan})))


def made(real: RealData, per_class: int = 3, **more) -> DistilledSet:
    """The first images of each class as network inputs."""
    train = real.train
    chosen = torch.cat([train.of_class(c)[:per_class] for c in range(train.classes)])
    images = train.space.real_to_input(train.images[chosen])
    card = Card(dataset=train.name, ipc=per_class, classes=train.classes, data_fingerprint=train.fingerprint)
    parts = {
        "tensors": {"images": images},
        "targets": Targets(ids=train.labels[chosen]),
        "space": train.space,
        "card": card,
    }
    return DistilledSet(**{**parts, **more})


def whole(real: RealData) -> DistilledSet:
    train = real.train
    card = Card(dataset=train.name, classes=train.classes, data_fingerprint=train.fingerprint)
    return DistilledSet(
        {"indices": torch.arange(len(train))},
        Targets(ids=train.labels),
        train.space,
        CodecSpec("subset"),
        card=card,
    )


def crew(*seeds: int) -> list[Generators]:
    return [Generators(s) for s in seeds]


class TestRows:
    def test_every_row_is_registered_under_its_name(self):
        assert sorted(ROWS) == sorted(registry.names("protocols"))
        assert {"dc-dsa", "dc-none", "dc-dsa-full", "datadam", "quick", "quick-full", "native"} <= set(ROWS)
        assert {"mtt", "mtt-flip", "datm"} <= set(ROWS)
        assert {"dc", "dc-dsa-flip", "idc", "idc-nomix", "idc-cutout", "ncfm", "ncfm-300", "ncfm-40"} <= set(
            ROWS
        )
        for name, row in ROWS.items():
            protocol = protocols.get(name)
            assert (protocol.name, protocol.version, protocol.comparable) == (
                name,
                row.version,
                row.comparable,
            )
            assert row.summary and row.source and len(row.version.split(".")) == 2

    @pytest.mark.parametrize(
        ("name", "epochs", "high", "low", "batch"),
        [("dc-none", 301, 152, 149, 256), ("dc-dsa", 1001, 502, 499, 256), ("datadam", 1801, 902, 899, 64)],
    )
    def test_epochs_at_each_rate_are_those_of_the_spec(self, name, epochs, high, low, batch):
        plan = ROWS[name].plan
        rates = [plan.lr_at(e) for e in range(plan.epochs)]
        assert (plan.epochs, plan.batch, plan.reset_optimiser) == (epochs, batch, True)
        assert [rates.count(0.01), sum(abs(r - 0.001) < 1e-12 for r in rates)] == [high, low]
        assert (plan.momentum, plan.weight_decay, plan.loss) == (0.9, 5e-4, "ce")

    def test_quick_is_short_and_not_comparable(self):
        assert ROWS["quick"].plan.epochs <= 100
        assert not any(ROWS[n].comparable for n in ("quick", "quick-full", "dc-dsa-full", "native"))
        assert all(row.plan.max_steps for row in ROWS.values() if row.data == "full")

    def test_full_twins_differ_from_their_protocol_in_cap_and_repeats_alone(self):
        for name, row in ROWS.items():
            if row.data == "full":
                plan = ROWS[name.removesuffix("-full")].plan
                assert row.plan == plan.changed(max_steps=row.plan.max_steps, repeats=row.plan.repeats)

    def test_an_unknown_protocol_gets_its_nearest_names(self):
        with pytest.raises(
            LookupError, match=r"no protocol 'dc-das'; nearest: .*dc-dsa.* \(see: ddbench list protocols\)"
        ):
            protocols.get("dc-das")

    def test_rows_need_no_torch(self):
        code = "import sys, ddbench.protocols.rows; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_wrong_kind_is_named(self):
        with pytest.raises(ValueError, match=r"ProtocolRow.kind is 'replay'; expected one of train, native"):
            replace(ROWS["quick"], kind="replay")


class TestAccepts:
    def test_images_with_hard_labels_are_accepted_by_all_but_full_ones_and_native(self, gauss2: RealData):
        distilled = made(gauss2)
        for name, row in ROWS.items():
            reason = protocols.get(name).accepts(distilled)
            if row.data == "full":
                assert "is for the whole training split only; use " + name.removesuffix("-full") in reason
            elif row.kind == "native":
                assert "replays the program of a set, and this set has none; use dc-dsa" in reason
            else:
                assert reason is None, name

    def test_the_whole_split_goes_to_capped_protocols(self, gauss2: RealData):
        full = whole(gauss2)
        assert protocols.get("quick-full").accepts(full) is None
        assert "would train 1,001 epochs on the whole training split; use a capped one: dc-dsa-full" in (
            protocols.get("dc-dsa").accepts(full) or ""
        )

    def test_a_registered_data_set_says_how_many_images_are_all(self):
        n = registry.facts("datasets", "digits").keywords["train"]
        space = made_space()
        for count, want in ((n, True), (n - 1, False)):
            card = Card(dataset="digits", ipc=0, classes=10)
            part = DistilledSet(
                {"indices": torch.arange(count)},
                Targets(ids=torch.arange(count) % 10),
                space,
                CodecSpec("subset"),
                card=card,
            )
            assert (protocols.get("quick-full").accepts(part) is None) is want

    def test_graphs_values_labellers_and_missing_labels_are_refused_with_the_reason(self, gauss2: RealData):
        base, quick = made(gauss2), protocols.get("quick")
        values = Targets(ids=base.targets.ids, soft=torch.randn(6, 2), kind="values")
        labeller = Labeller((NetworkRef(NET, "cache", "abc"),), gauss2.train.space)
        asked = Targets(ids=base.targets.ids, labeller=labeller)
        for changed, said in (
            (base.changed(kind="graph"), "trains image classifiers, and this is a set of kind 'graph'"),
            (base.changed(tensors={}), "trains on items, and this set stores none"),
            (base.changed(targets=values), "soft targets are free values; they need an mse loss"),
            (
                base.changed(targets=asked),
                "labeller answers with logits; that needs kl or mse; quick-kd trains towards them, rethink-hard by the images' "
                "own classes",
            ),
            (
                base.changed(targets=Targets(labeller=labeller)),
                "that needs kl or mse; quick-kd trains towards them",
            ),
        ):
            assert said in (quick.accepts(changed) or "accepted")
        kl = tiny(loss="kl")
        assert "needs soft targets or a labeller (loss kl), and the set has hard labels only" in (
            kl.accepts(base) or ""
        )
        assert tiny(loss="mse").accepts(base.changed(targets=values)) is None
        soft = Targets(soft=torch.full((6, 2), 0.5), kind="probabilities")
        assert quick.accepts(base.changed(targets=soft)) is None
        assert "needs label ids (loss mse-gt)" in (
            tiny(loss="mse-gt").accepts(base.changed(targets=soft)) or ""
        )

    def test_stored_views_need_the_protocol_with_their_plan(self, gauss2: RealData):
        views = ViewPlan(epochs=3, batch=4)
        labeller = Labeller((NetworkRef(NET, "cache", "abc"),), gauss2.train.space, views=views)
        distilled = made(gauss2).changed(targets=Targets(ids=made(gauss2).targets.ids, labeller=labeller))
        assert "draws its own batches, and the set's labels belong to the views of a plan" in (
            tiny(loss="kl").accepts(distilled) or ""
        )
        assert tiny(loss="kl", epochs=3, views=views).accepts(distilled) is None
        other = ViewPlan(epochs=3, batch=5)
        assert "batch is 4 there, 5 asked for" in (tiny(loss="kl", views=other).accepts(distilled) or "")

    def test_what_is_not_accepted_is_not_scored(self, gauss2: RealData):
        with pytest.raises(ValueError, match="whole training split; use a capped one"):
            protocols.get("quick").evaluate(whole(gauss2), gauss2, NET, crew(1))


def trained_plans(monkeypatch, epochs: int = 2) -> list[TrainPlan]:
    """The plans that students are trained by from now on; they are trained for a few epochs of them only."""
    plans: list[TrainPlan] = []
    real_train = train.train_students

    def spy(items, plan, *more, **named):
        plans.append(plan)
        return real_train(items, plan.changed(epochs=epochs), *more, **named)

    monkeypatch.setattr(train, "train_students", spy)
    return plans


def made_space():
    from ddbench.contract import Space

    return Space("input", (0.3,), (0.3,))


class TestEvaluate:
    def test_scores_are_fractions_with_the_seed_of_each_student(self, gauss2: RealData):
        told = []
        found = tiny().evaluate(
            made(gauss2), gauss2, NET, crew(11, 12), progress=lambda *a: told.append(a[:2])
        )
        assert [s.seed for s in found.scores] == [11, 12]
        assert all(0 <= s.value <= 1 and s.metric == "top1" and s.network == NET for s in found.scores)
        assert all((s.chosen_by, s.chosen_on) == ("last", "none") for s in found.scores)
        assert found.engine == "stacked" and found.wall_s > 0 and found.compile_s == 0
        assert told[-1] == (6, 6)

    def test_it_learns(self, gauss3: RealData):
        found = tiny(epochs=30, milestones=(20,)).evaluate(made(gauss3, 6), gauss3, NET, crew(1))
        assert found.scores[0].value > 0.9

    def test_the_same_set_scores_the_same_under_any_method_name(self, gauss2: RealData):
        one = made(gauss2)
        other = one.changed(card={"method": "something else", "recipe": "x", "seed": 9})
        a, b = (tiny().evaluate(d, gauss2, NET, crew(1, 2)).scores for d in (one, other))
        assert a == b

    def test_full_data_runs_to_its_cap(self, gauss2: RealData):
        row = replace(ROWS["quick-full"], plan=ROWS["quick-full"].plan.changed(max_steps=3, batch=16))
        found = RowProtocol(row).evaluate(whole(gauss2), gauss2, NET, crew(1, 2))
        assert len(found.scores) == 2

    def test_a_labeller_that_answers_online_is_asked(self, gauss2: RealData):
        teacher = build(NET, (1, 8, 8), 2, torch.Generator().manual_seed(4))
        inline = {f"teacher.{n}": t for n, t in teacher.state_dict().items()}
        base = made(gauss2)
        for sees in ("augmented", "clean"):
            labeller = Labeller((NetworkRef(NET, "inline", "teacher."),), gauss2.train.space, sees=sees)
            distilled = base.changed(
                tensors={**base.tensors, **inline}, targets=Targets(ids=base.targets.ids, labeller=labeller)
            )
            found = tiny(loss="kl", temperature=4.0).evaluate(distilled, gauss2, NET, crew(1))
            assert found.engine == "plain" and len(found.scores) == 1

    def test_stored_views_are_answered_in_their_plan(self, gauss2: RealData):
        teacher = build(NET, (1, 8, 8), 2, torch.Generator().manual_seed(4))
        inline = {f"teacher.{n}": t for n, t in teacher.state_dict().items()}
        base, views = made(gauss2), ViewPlan(epochs=4, batch=4, crop="resized", mix="cutmix")
        labeller = Labeller((NetworkRef(NET, "inline", "teacher."),), gauss2.train.space, views=views)
        distilled = base.changed(
            tensors={**base.tensors, **inline}, targets=Targets(ids=base.targets.ids, labeller=labeller)
        )
        protocol = tiny(loss="kl", epochs=4, views=views, augment="none")
        assert len(protocol.evaluate(distilled, gauss2, NET, crew(1)).scores) == 1

    def test_tests_on_the_way_give_a_second_score_a_student_the_end_included(self, gauss2: RealData):
        found = tiny(epochs=7, test_every=2).evaluate(made(gauss2), gauss2, NET, crew(1, 2))
        last, best = found.scores[:2], found.scores[2:]
        assert [(s.chosen_by, s.chosen_on, s.seed) for s in last] == [
            ("last", "none", 1),
            ("last", "none", 2),
        ]
        assert [(s.chosen_by, s.chosen_on, s.seed) for s in best] == [
            ("best-epoch", "test", 1),
            ("best-epoch", "test", 2),
        ]
        assert all(b.value >= a.value for a, b in zip(last, best, strict=True))
        without = tiny(epochs=7).evaluate(made(gauss2), gauss2, NET, crew(1, 2))
        assert without.scores == last, "testing on the way changes nothing"

    def test_mixing_protocols_take_soft_labels_and_refuse_labellers(self, gauss2: RealData):
        mixing = tiny(mix="cutmix")
        soft = Targets(soft=torch.randn(6, 2, generator=torch.Generator().manual_seed(1)), kind="logits")
        assert len(mixing.evaluate(made(gauss2, targets=soft), gauss2, NET, crew(1)).scores) == 1
        labeller = Labeller((NetworkRef(NET, "cache", "abc"),), gauss2.train.space)
        asked = made(gauss2, targets=Targets(ids=made(gauss2).targets.ids, labeller=labeller))
        assert "labeller answers with logits; that needs kl or mse" in (mixing.accepts(asked) or "")

    def test_soft_labels_and_double_precision(self, gauss2: RealData):
        soft = Targets(soft=torch.eye(2)[made(gauss2).targets.ids].mul(0.8).add(0.1), kind="probabilities")
        found = tiny().evaluate(
            made(gauss2, targets=soft), gauss2, NET, crew(1), EngineOptions(precision="float64")
        )
        assert len(found.scores) == 1


class TestLearnedRates:
    @pytest.mark.parametrize("name", ["mtt", "mtt-flip", "datm", "native"])
    def test_a_row_of_learned_rates_differs_from_the_classic_one_as_it_says(self, name: str):
        different = {"mtt-flip": {"augment": "dsa-flip"}, "datm": {"batch": 128}}.get(name, {})
        assert ROWS[name].plan == ROWS["dc-dsa"].plan.changed(learned_rate=True, **different)

    def test_no_other_row_looks_at_the_learned_rate(self, gauss2: RealData, monkeypatch):
        learning = {"mtt", "mtt-flip", "datm", "native", "ddranking", "ddranking-full"}
        assert {n for n, r in ROWS.items() if r.plan.learned_rate} == learning
        plans = trained_plans(monkeypatch)
        learned = made(gauss2, program=Program(torch.tensor([0.037])))
        protocols.get("dc-dsa").evaluate(learned, gauss2, NET, crew(1))
        assert plans == [ROWS["dc-dsa"].plan]

    @pytest.mark.parametrize("name", ["mtt", "mtt-flip", "datm"])
    def test_a_set_starts_at_its_own_rate_and_one_without_at_the_plans(
        self, name: str, gauss2: RealData, monkeypatch
    ):
        plans, protocol = trained_plans(monkeypatch), protocols.get(name)
        plain = made(gauss2)
        learned = plain.changed(program=Program(torch.tensor([0.037])))
        for distilled, rate in ((learned, 0.037), (plain, 0.01)):
            assert protocol.accepts(distilled) is None
            found = protocol.evaluate(distilled, gauss2, NET, crew(1))
            assert len(found.scores) == 1 and found.rate == pytest.approx(rate)
        assert [p.lr for p in plans] == [pytest.approx(0.037), 0.01]
        assert all(p == protocol.plan.changed(lr=p.lr) for p in plans), "nothing else depends on the set"
        rates = [plans[0].lr_at(e) for e in range(1001)]
        assert rates[501] == rates[0] and rates[502] == pytest.approx(0.0037), "it falls as it stands"

    @pytest.mark.parametrize("name", ["mtt", "mtt-flip", "datm", "native"])
    @pytest.mark.parametrize("rate", [0.0, -0.003])
    def test_a_rate_that_is_not_above_zero_is_refused_with_its_value(
        self, name: str, rate: float, gauss2: RealData
    ):
        distilled = made(gauss2, program=Program(torch.tensor([rate])))
        assert protocols.get(name).accepts(distilled) == (
            f"protocol {name} starts at the step size that the set learned, and that is {rate:g}; expected above 0: use "
            "dc-dsa, which starts at 0.01"
        )
        assert protocols.get("dc-dsa").accepts(distilled) is None
        with pytest.raises(ValueError, match=r"starts at the step size that the set learned, and that is"):
            protocols.get(name).evaluate(distilled, gauss2, NET, crew(1))

    @pytest.mark.parametrize("rate", [float("nan"), float("inf")])
    def test_a_rate_that_is_not_finite_is_no_program(self, rate: float):
        with pytest.raises(ValueError, match=r"step sizes: 1 of 1 values are not finite"):
            Program(torch.tensor([rate]))

    @pytest.mark.parametrize("name", ["mtt", "mtt-flip", "datm"])
    def test_a_program_in_order_belongs_to_native(self, name: str, gauss2: RealData):
        for sizes, order in (([0.05], ((0, 3),)), ([0.05, 0.04], ((0, 3), (1, 4)))):
            distilled = made(gauss2, program=Program(torch.tensor(sizes), order))
            assert protocols.get(name).accepts(distilled) == (
                f"protocol {name} starts at one learned step size, and this set has a program of {len(sizes)} steps in order; "
                "use native"
            )
            assert protocols.get("native").accepts(distilled) is None


KD_PLAN = ROWS["quick-kd"].plan.changed(
    epochs=3, batch=4, views=ViewPlan(3, 4, crop="resized", flip=0.5, mix="cutmix"), networks=(NET,)
)
BN = "ConvNetD1W16BN"


def kd(**plan) -> RowProtocol:
    """A protocol of teacher labels of a few steps."""
    labels = plan.pop("labels", LabelPlan(store=True, networks=(BN,), squeeze="quick"))
    return RowProtocol(replace(ROWS["quick-kd"], plan=KD_PLAN.changed(labels=labels, **plan)))


def inline(real: RealData, distilled: DistilledSet, networks: int = 1, **more) -> DistilledSet:
    """The set with labelling networks inside."""
    tensors, refs = dict(distilled.tensors), []
    for i in range(networks):
        net = build(BN, real.train.shape, real.train.classes, torch.Generator().manual_seed(4 + i))
        tensors |= {f"t{i}.{n}": t for n, t in net.state_dict().items()}
        refs.append(NetworkRef(BN, "inline", f"t{i}."))
    labeller = Labeller(tuple(refs), replace(real.train.space, stored="input"), **more)
    return distilled.changed(tensors=tensors, targets=Targets(ids=distilled.targets.ids, labeller=labeller))


def folders(path: Path) -> list[Path]:
    """Without the locks beside them."""
    return [p for p in path.iterdir() if p.is_dir()]


@pytest.fixture
def quick_teachers(monkeypatch, fresh_cache) -> list[tuple[str, str, str]]:
    """Own teachers of one epoch; what they were asked for."""
    asked = []

    def recipe(name: str, network: str, dataset: str) -> TeacherRecipe:
        asked.append((name, network, dataset))
        return TeacherRecipe(network=network, epochs=2, batch=16, lr=0.05, held_out=0.1)

    monkeypatch.setattr(labelling, "squeeze_recipe", recipe)
    return asked


class TestWhatStudentsLearnedFrom:
    def test_hard_and_soft_labels_are_the_sets_own(self, gauss2: RealData):
        found = tiny().evaluate(made(gauss2), gauss2, NET, crew(1))
        assert (found.labels, found.labelled_by) == ("hard", ())
        soft = Targets(soft=torch.eye(2)[made(gauss2).targets.ids], kind="probabilities")
        found = tiny().evaluate(made(gauss2, targets=soft), gauss2, NET, crew(1))
        assert (found.labels, found.labelled_by) == ("soft", ())

    def test_hard_protocols_leave_the_labeller_of_a_set_out(self, gauss2: RealData):
        hard = RowProtocol(
            replace(ROWS["rethink-hard"], plan=ROWS["rethink-hard"].plan.changed(epochs=2), forms=())
        )
        found = hard.evaluate(inline(gauss2, made(gauss2)), gauss2, NET, crew(1))
        assert (found.labels, found.labelled_by) == ("hard", ())

    @pytest.mark.parametrize(
        ("labels", "how"),
        [
            (dict(store=True), "stored"),
            (dict(store=False), "online"),
            (dict(store=True, sees="clean"), "static"),
        ],
    )
    def test_the_protocols_own_teacher_is_named_by_its_key(self, gauss2, quick_teachers, labels, how):
        protocol = kd(labels=LabelPlan(networks=(BN,), squeeze="quick", **labels))
        found = protocol.evaluate(made(gauss2), gauss2, NET, crew(1))
        assert found.labels == f"teacher, {how}" and len(found.labelled_by) == 1
        assert found.labelled_by[0] in found.notes["labels"], "who labelled stands in the note too"
        assert protocol.evaluate(made(gauss2), gauss2, NET, crew(2)).labelled_by == found.labelled_by

    def test_a_committee_counts_its_members_and_unequal_shares(self, gauss2: RealData):
        found = kd().evaluate(inline(gauss2, made(gauss2), networks=2), gauss2, NET, crew(1))
        assert found.labels == "committee of 2, stored" and len(set(found.labelled_by)) == 2
        refs = (NetworkRef(BN, "cache", "b", weight=3.0), NetworkRef(BN, "cache", "a"))
        space = gauss2.train.space
        assert labelling.identities(Labeller(refs, space), made(gauss2)) == ("a x 0.25", "b x 0.75")
        same = Labeller(tuple(replace(r, weight=2.0) for r in refs), space)
        assert labelling.identities(same, made(gauss2)) == ("a", "b")

    def test_networks_inside_a_set_are_its_own(self, gauss2: RealData):
        one, two = inline(gauss2, made(gauss2)), inline(gauss2, made(gauss2), networks=2)
        keys = [labelling.identities(d.targets.labeller, d)[0] for d in (one, two)]
        assert keys[0] != keys[1] and all(key.startswith("t0.") for key in keys)


class TestPartsOfOneImage:
    """PyTorch's batch norm raises at one value a channel: one image whose maps are one pixel."""

    def of(self, n: int, dataset: str = "digits") -> DistilledSet:
        side = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}[dataset]
        card = Card(dataset=dataset, classes=10, shape=side)
        images = {"images": torch.zeros(n, *side)}
        space = Space("input", (0.5,) * side[0], (0.5,) * side[0])
        return DistilledSet(images, Targets(ids=torch.arange(n) % 10), space, card=card)

    def test_torch_itself_says_which_networks_these_are(self):
        g = torch.Generator().manual_seed(0)
        for network, shape, takes in (
            ("ResNet18BN", (1, 8, 8), False), ("ResNet18BN", (3, 32, 32), True), ("ConvNetBN", (1, 8, 8), True),
            ("MobileNetV2", (3, 8, 8), False), ("MLP", (1, 8, 8), True), ("torchvision:resnet18", (3, 32, 32), False),
            ("torchvision:resnet18", (3, 64, 64), True),
        ):  # fmt: skip
            assert trains_on_one(network, shape, 10) is takes, (network, shape)
            net = build(network, shape, 10, g).train()
            with contextlib.nullcontext() if takes else pytest.raises(ValueError, match="more than 1 value"):
                net(torch.randn(1, *shape, generator=g))

    def test_a_last_batch_of_one_is_refused_before_anything_is_trained(self, monkeypatch):
        monkeypatch.setattr(train, "train_students", lambda *_: pytest.fail("trained"))
        said = tiny().accepts(self.of(257), "ResNet18BN")
        assert said == (
            "protocol quick gives the student ResNet18BN a part of 1 image (257 items in batches of 256), of which batch norm "
            "has no statistics where maps are one pixel, as for 8x8 images there; expected items whose remainder by 256 is "
            "none of 1 (another ipc), or a student with larger maps, such as ConvNetBN"
        )
        real = data.load("digits")
        with pytest.raises(ValueError, match="a part of 1 image"):
            tiny().evaluate(self.of(257), real, "ResNet18BN", crew(1))

    @pytest.mark.parametrize(
        ("n", "network", "dataset"),
        [(257, "", "digits"), (257, "ConvNetBN", "digits"), (257, "MLP", "digits"), (257, "ResNet18BN", "cifar10"),
         (256, "ResNet18BN", "digits"), (258, "ResNet18BN", "digits")],
    )  # fmt: skip
    def test_where_torch_would_not_fail_nothing_is_said(self, n: int, network: str, dataset: str):
        assert tiny().accepts(self.of(n, dataset), network) is None

    def test_a_short_batch_that_is_dropped_does_not_count(self):
        assert tiny(drop_last=True).accepts(self.of(257), "ResNet18BN") is None
        assert "(1 items in batches" in (tiny(drop_last=True).accepts(self.of(1), "ResNet18BN") or "")

    def test_parts_of_a_student_and_halves_of_a_teacher(self):
        """cvdd-bssl on images of 8x8: batches of 16, student's parts of 8, halves of the teachers."""
        protocol = protocols.get("cvdd-bssl")
        student, teacher = set(), set()
        for n in range(16, 33):
            said = protocol.accepts(self.of(n), "ResNet18BN") or ""
            (student if "student ResNet18BN" in said else teacher if said else set()).add(n % 16)
            own = protocol.accepts(self.of(n), "ConvNetBN") or ""
            assert bool(own) is (n % 16 in (1, 2, 3)), "the teachers are one-pixel networks all the same"
        assert (student, teacher) == ({1, 9}, {2, 3})
        said = protocol.accepts(self.of(25), "ResNet18BN")
        assert "(25 items in batches of 16 in 2 parts)" in said and "is none of 1, 9 (another ipc)" in said
        said = protocol.accepts(self.of(18), "ResNet18BN")
        assert (
            "the labelling network ResNet18BN a part of 1 image (18 items in batches of 16 in halves)" in said
        )
        assert "is none of 1, 2, 3 (another ipc), or a labelling network with larger maps" in said
        assert protocol.accepts(self.of(25, "cifar10"), "ResNet18BN") is None

    def test_only_networks_that_label_in_train_mode_matter(self, gauss2: RealData):
        base = self.of(17)
        plan = KD_PLAN.changed(batch=16, views=replace(KD_PLAN.views, batch=16))
        for labels, refused in (
            (LabelPlan(batch_norm="train", squeeze="quick"), True),
            (LabelPlan(squeeze="quick"), False),
            (LabelPlan(batch_norm="train", networks=("ConvNetBN",), squeeze="quick"), False),
        ):
            protocol = RowProtocol(replace(ROWS["quick"], plan=plan.changed(labels=labels)))
            assert bool(protocol.accepts(base, "ConvNetBN")) is refused
        own = Labeller((NetworkRef("ConvNetBN", "cache", "k"),), gauss2.train.space)
        small = base.changed(targets=Targets(ids=base.targets.ids, labeller=own))
        protocol = RowProtocol(
            replace(ROWS["quick"], plan=plan.changed(labels=LabelPlan(batch_norm="train")))
        )
        assert protocol.accepts(small, "ConvNetBN") is None and protocol.accepts(base, "ConvNetBN")


class TestTeacherLabels:
    def test_a_set_without_a_labeller_is_labelled_by_the_protocols_own_teachers(
        self, gauss2: RealData, quick_teachers
    ):
        told: list[tuple] = []
        two = kd(labels=LabelPlan(store=True, networks=(BN, "ConvNetD1W8BN"), squeeze="mine"))
        found = two.evaluate(made(gauss2), gauss2, BN, crew(1, 2), progress=lambda *a: told.append(a))
        assert quick_teachers == [
            ("mine", BN, "imagefolder:gauss2"),
            ("mine", "ConvNetD1W8BN", "imagefolder:gauss2"),
        ]
        assert len(found.scores) == 2 and found.engine == "stacked"
        assert found.notes["labels"].startswith(f"the protocol's own {BN} ")
        assert (
            "weight 0.5" in found.notes["labels"]
            and "% on held-out images; ConvNetD1W8BN" in found.notes["labels"]
        )
        assert found.notes["labels"].endswith("every view of 3 epochs stored")
        assert "training images" not in found.notes["labels"]
        assert 0 < found.teacher_s <= found.teaching_s and found.wall_s > 0
        assert found.label_bytes == 3 * 6 * 2 * 2 and found.beside == {}
        assert {a[1] for a in told} == {2, 18, 3}, "teachers' epochs, views, students' epochs"
        again = two.evaluate(made(gauss2), gauss2, BN, crew(1, 2))
        assert again.scores == found.scores
        assert again.teacher_s == found.teacher_s and again.teaching_s < found.teaching_s, "from the cache"

    def test_always_means_the_protocols_own_even_where_a_set_brings_teachers(
        self, gauss2: RealData, quick_teachers
    ):
        distilled = inline(gauss2, made(gauss2))
        own = kd(labels=LabelPlan(networks=(BN,), always=True)).evaluate(distilled, gauss2, BN, crew(1))
        assert "the protocol's own" in own.notes["labels"] and len(quick_teachers) == 1
        sets_own = kd(labels=LabelPlan(networks=(BN,))).evaluate(distilled, gauss2, BN, crew(1))
        assert (
            sets_own.notes["labels"] == f"the set's own {BN} t0.; while students train"
            and len(quick_teachers) == 1
        )
        assert sets_own.teacher_s == 0

    def test_networks_that_answer_meanwhile_stand_beside_the_set(self, gauss2: RealData, quick_teachers):
        online = kd(labels=LabelPlan(networks=(BN, BN)))
        found = online.evaluate(made(gauss2), gauss2, BN, crew(1))
        state = build(BN, (1, 8, 8), 2).state_dict()
        size = sum(t.nbytes for t in state.values())
        assert list(found.beside.values()) == [size, size] and found.label_bytes == 0
        assert [name.startswith(f"teacher {BN}") for name in found.beside] == [True, True]
        inside = kd(labels=LabelPlan()).evaluate(inline(gauss2, made(gauss2)), gauss2, BN, crew(1))
        assert inside.beside == {}, "counted with the set"

    def test_stored_answers_are_kept_and_found_again(self, gauss2: RealData, tmp_path, monkeypatch):
        distilled, options = inline(gauss2, made(gauss2), 2), EngineOptions(labels=tmp_path)
        first = kd().evaluate(distilled, gauss2, BN, crew(1), options)
        (folder,) = folders(tmp_path)
        assert sum(f.stat().st_size for f in folder.rglob("*.npy")) >= first.label_bytes == 3 * 6 * 2 * 2

        def never(*_):
            raise AssertionError("the networks were asked again")

        monkeypatch.setattr(labels_module, "answer", never)
        assert kd().evaluate(distilled, gauss2, BN, crew(1), options).scores == first.scores
        with pytest.raises(AssertionError, match="asked again"):
            kd(batch=3, views=ViewPlan(3, 3)).evaluate(distilled, gauss2, BN, crew(1), options)

    def test_students_of_stored_and_of_online_answers_to_the_same_views_agree(
        self, gauss2: RealData, monkeypatch
    ):
        """A stored answer is the online one, rounded to fp16."""
        distilled = inline(gauss2, made(gauss2, 6))
        trained = []
        monkeypatch.setattr(
            train, "train_students", lambda *a, **k: trained.append(train_students(*a, **k)) or trained[-1]
        )
        kd().evaluate(distilled, gauss2, BN, crew(1))
        seed = ViewPlan(3, 4).seed
        monkeypatch.setattr(students, "derive", lambda *_: seed)
        kd(labels=LabelPlan()).evaluate(distilled, gauss2, BN, crew(1))
        stored, online = trained
        assert torch.allclose(stored.losses, online.losses, rtol=2e-2, atol=1e-4)
        assert not torch.equal(stored.losses, online.losses)

    def test_views_do_not_mirror_what_a_mirror_would_change(
        self, gauss2: RealData, gauss3: RealData, monkeypatch
    ):
        plans = trained_plans(monkeypatch)
        assert not gauss2.train.flip and gauss3.train.flip
        for real in (gauss2, gauss3):
            kd().evaluate(inline(real, made(real)), real, BN, crew(1))
        assert [p.views.flip for p in plans] == [0.0, 0.5]
        for name, flip in (("digits", 0.0), ("mnist?pad=2", 0.0), ("cifar10", 0.5)):
            assert kd().plan_for(made(gauss3), BN, name).views.flip == flip

    def test_hard_protocols_look_at_ids_alone(self, gauss2: RealData, monkeypatch):
        seen = []
        real_train = train.train_students
        monkeypatch.setattr(
            train, "train_students", lambda items, *a, **k: seen.append(items) or real_train(items, *a, **k)
        )
        hard = tiny(loss="ce", hard=True, augment="none", views=ViewPlan(6, 4))
        base = made(gauss2)
        values = Targets(ids=base.targets.ids, soft=torch.randn(6, 2), kind="values")
        sets_ = [base, base.changed(targets=values), inline(gauss2, base)]
        scores = [hard.evaluate(d, gauss2, NET, crew(1)).scores for d in sets_]
        assert scores[0] == scores[1] == scores[2]
        assert all(i.soft is None and i.labeller is None for i in seen)
        nameless = base.changed(targets=Targets(soft=torch.full((6, 2), 0.5), kind="probabilities"))
        assert hard.accepts(nameless) == "protocol quick needs label ids (loss ce), and the set has none"

    def test_labelled_protocols_take_sets_of_any_targets(self, gauss2: RealData):
        base = made(gauss2)
        without = [
            base.changed(targets=Targets(soft=torch.full((6, 2), 0.5), kind="probabilities")),
            base.changed(targets=Targets(soft=torch.randn(6, 5), kind="values")),
            inline(gauss2, base).changed(targets=Targets(labeller=inline(gauss2, base).targets.labeller)),
        ]
        for name in (
            "sre2l-kd",
            "rded",
            "cvdd-bssl",
            "infer-static",
            "infer-dyn",
            "rethink-soft",
            "quick-kd",
        ):
            assert [protocols.get(name).accepts(d) for d in [base, *without]] == [None] * 4, name
        said = protocols.get("g-vbsm").accepts(without[0])
        assert said == "protocol g-vbsm needs label ids (loss mse-gt), and the set has none"
        assert "whole training split; use a capped one" in (
            protocols.get("rethink-soft").accepts(whole(gauss2)) or ""
        )

    def test_an_accuracy_says_on_which_images_it_was_measured(
        self, gauss2: RealData, monkeypatch, fresh_cache
    ):
        def recipe(name: str, network: str, dataset: str) -> TeacherRecipe:
            return TeacherRecipe(network=network, epochs=1, lr=0.05, held_out=float(network != BN) / 10)

        monkeypatch.setattr(labelling, "squeeze_recipe", recipe)
        both = kd(labels=LabelPlan(networks=(BN, "ConvNetD1W8BN"), squeeze="mine"))
        first, second = both.evaluate(made(gauss2), gauss2, BN, crew(1)).notes["labels"].split("; ")[:2]
        assert first.endswith("% on its training images") and second.endswith("% on held-out images")

    def test_static_labels_stay_in_fp16_until_a_batch_needs_them(self, gauss2: RealData, monkeypatch):
        seen = []
        real_train = train.train_students
        monkeypatch.setattr(
            train, "train_students", lambda items, *a, **k: seen.append(items) or real_train(items, *a, **k)
        )
        static = kd(labels=LabelPlan(store=True, sees="clean"))
        scores = static.evaluate(inline(gauss2, made(gauss2)), gauss2, BN, crew(1)).scores
        (kept,) = seen
        assert kept.soft.dtype == torch.float16 and kept.kind == "logits" and len(scores) == 1
        plan = static.plan_for(made(gauss2))
        wide = replace(kept, soft=kept.soft.float())
        for step, other in zip(
            *(iter(Feed(i, plan, crew(1), CPU, torch.float32)) for i in (kept, wide)), strict=True
        ):
            assert step.soft.dtype == torch.float32 and torch.equal(step.soft, other.soft)

    def test_static_labels_are_given_once(self, gauss2: RealData):
        found = kd(labels=LabelPlan(store=True, sees="clean")).evaluate(
            inline(gauss2, made(gauss2)), gauss2, BN, crew(1)
        )
        assert found.label_bytes == 6 * 2 * 2 and found.notes["labels"].endswith("one label an image")

    def test_sets_drawn_anew_every_epoch_cannot_be_labelled_beforehand(self, gauss2: RealData):
        part = whole(gauss2).changed(
            tensors={"indices": torch.arange(10)},
            targets=Targets(ids=gauss2.train.labels[:10]),
            codec=CodecSpec("resampled", {"variant": "without", "ratio": 0.4}),
        )
        said = kd().accepts(part) or ""
        assert "labels views before training, and this set draws its items anew every epoch" in said
        assert kd(labels=LabelPlan()).accepts(part) is None

    def test_a_set_that_came_with_answers_is_scored_from_them_where_its_views_fit(
        self, gauss2: RealData, tmp_path
    ):
        asked = inline(gauss2, made(gauss2), views=replace(KD_PLAN.views, flip=0.0))
        items = train.make_items(asked, gauss2, EngineOptions())
        networks = labels_module.load_networks(asked.targets.labeller, asked, (1, 8, 8), 2)
        bare = asked.changed(
            tensors={"images": asked.tensors["images"]},
            targets=replace(asked.targets, labeller=replace(asked.targets.labeller, networks=())),
        )
        labels_module.store_answers(tmp_path / "a", asked, items, networks)
        (there,) = folders(tmp_path / "a")
        place = labels_module.store_path(tmp_path / "b", bare)
        place.parent.mkdir()
        there.rename(place)
        protocol, options = kd(), EngineOptions(labels=tmp_path / "b")
        assert protocol.accepts(bare, BN, "digits") is None
        found = protocol.evaluate(bare, gauss2, BN, crew(1), options)
        assert found.scores == protocol.evaluate(asked, gauss2, BN, crew(1)).scores
        assert found.label_bytes == 72 and found.notes["labels"] == "answers that came with the set"
        counted = bare.changed(card={"notes": {"stored_label_bytes": 72}})
        assert protocol.evaluate(counted, gauss2, BN, crew(1), options).label_bytes == 0, (
            "the set counts them"
        )
        with pytest.raises(FileNotFoundError, match=r"no stored answers for this set"):
            protocol.evaluate(bare, gauss2, BN, crew(1), EngineOptions(labels=tmp_path / "c"))
        for other, message in (
            (
                kd(labels=LabelPlan()),
                "has networks label views while students train, and this set has stored answers alone",
            ),
            (kd(batch=3), "batch is 4 there, 3 asked for"),
            (
                kd(labels=LabelPlan(store=True, batch_norm="train")),
                "batch_norm is 'eval' there, 'train' asked for",
            ),
        ):
            assert message in (other.accepts(bare, BN, "digits") or "accepted")
        assert kd(labels=LabelPlan(always=True)).accepts(bare, BN, "digits") is None

    @pytest.mark.parametrize(
        ("shape", "classes", "message"),
        [((1, 8, 8), 3, "do not fit"), ((3, 8, 8), 2, "do not fit")],
    )
    def test_teachers_of_other_classes_or_images_are_named_before_any_training(
        self, shape, classes, message, gauss2: RealData, monkeypatch
    ):
        monkeypatch.setattr(train, "train_students", lambda *_: pytest.fail("trained"))
        net = build(BN, shape, classes)
        distilled = inline(gauss2, made(gauss2))
        tensors = {**distilled.tensors, **{f"t0.{n}": t for n, t in net.state_dict().items()}}
        with pytest.raises(ValueError, match=message):
            kd().evaluate(distilled.changed(tensors=tensors), gauss2, BN, crew(1))

    def test_batch_statistics_of_networks_without_batch_norm_are_refused(self, gauss2: RealData):
        net = build(NET, (1, 8, 8), 2)
        base = made(gauss2)
        labeller = Labeller((NetworkRef(NET, "inline", "t."),), gauss2.train.space)
        distilled = base.changed(
            tensors={**base.tensors, **{f"t.{n}": t for n, t in net.state_dict().items()}},
            targets=Targets(ids=base.targets.ids, labeller=labeller),
        )
        with pytest.raises(ValueError, match=r"has no batch norm"):
            kd(labels=LabelPlan(store=True, batch_norm="train-halves")).evaluate(
                distilled, gauss2, BN, crew(1)
            )

    def test_what_the_forms_came_to_is_in_the_notes(self, gauss2: RealData, monkeypatch):
        row = replace(
            ROWS["quick-kd"],
            plan=KD_PLAN,
            forms=(
                Form(
                    ipc=(3, 3),
                    networks=("*d1w16bn",),
                    side=(8, 8),
                    plan={"batch": 6, "micro_batches": 2, "lr": 0.5},
                ),
                Form(classes=(3, 9), plan={"lr": 7.0}),
                Form(("gauss2",), views={"mix": "none"}, labels={"store": False}, plan={"eta": 2.0}),
            ),
        )
        plans = trained_plans(monkeypatch)
        found = RowProtocol(row).evaluate(inline(gauss2, made(gauss2)), gauss2, BN, crew(1))
        assert (plans[0].batch, plans[0].views.batch, plans[0].part, plans[0].lr) == (6, 6, 3, 0.5)
        assert found.rate == 0.5
        assert found.notes["protocol"] == (
            "3 epochs, batch 6 in 2 parts, adamw lr 0.5 decay 0.01 on matrices, cosine eta 2, resized crop 0.08 to 1, "
            "flip 0, no mix, kl T 4"
        )

    def test_a_cells_record_has_labels_bytes_and_notes(
        self, gauss2: RealData, tmp_path, monkeypatch, quick_teachers
    ):
        monkeypatch.setitem(ROWS, "kd-here", replace(ROWS["quick-kd"], name="kd-here", plan=KD_PLAN))
        monkeypatch.setitem(
            ROWS,
            "kd-online",
            replace(ROWS["quick-kd"], name="kd-online", plan=KD_PLAN.changed(labels=LabelPlan())),
        )
        session = runner.Session(runner.Context(run=tmp_path, device="cpu"), gauss2)
        distil = DistilCell(method="random", dataset="gauss2", ipc=3, seed=0)
        records = {}
        for name in ("kd-here", "kd-online"):
            outcome = session.evaluate(Cell(distil=distil, protocol=name, network=BN, repeats=2))
            assert outcome.status == "ok", outcome.reason
            records[name] = outcome.record
        stored, online = records["kd-here"], records["kd-online"]
        assert stored.bytes.labels == 6 + 3 * 6 * 2 * 2 and stored.bytes.beside == {}
        assert online.bytes.labels == 6 and list(online.bytes.beside) == ["teacher ResNet18BN"]
        assert "the protocol's own" in stored.notes["labels"] and stored.spent.teacher_s > 0
        assert len(folders(tmp_path / "labels")) == 1


@pytest.fixture(scope="module")
def digits() -> RealData:
    return data.load("digits")


@pytest.fixture(scope="module")
def whitened(digits: RealData) -> DistilledSet:
    part = digits.train
    space = data.zca_space(part, data.fit_zca(part))
    chosen = torch.cat([part.of_class(c)[:14] for c in range(10)])
    ids = part.labels[chosen]
    noise = torch.randn(len(ids), 10, generator=torch.Generator().manual_seed(0))
    logits = 6 * torch.nn.functional.one_hot(ids, 10).float() + 0.3 * noise
    return DistilledSet(
        {"images": space.real_to_input(part.images[chosen])},
        Targets(soft=logits, kind="logits"),
        space,
        program=Program(torch.tensor([0.05])),
        card=Card(dataset="digits", ipc=14, classes=10, data_fingerprint=part.fingerprint),
    )


class TestLearnedThingsTravel:
    """A step size, label logits and a whitening, through a file."""

    @pytest.mark.parametrize("name", ["mtt", "datm"])
    def test_a_set_read_back_is_trained_and_tested_by_what_it_learned(
        self, name: str, digits: RealData, whitened: DistilledSet, tmp_path, monkeypatch
    ):
        sets.write(tmp_path / "set.safetensors", whitened)
        back = sets.read(tmp_path / "set.safetensors")
        assert back.program is not None and float(back.program.step_sizes) == float(torch.tensor(0.05))
        assert back.targets.kind == "logits" and torch.equal(back.targets.soft, whitened.targets.soft)
        assert back.space.zca is not None and torch.equal(
            back.space.zca.transform, whitened.space.zca.transform
        )
        net_name = "ConvNetD1W16NN"  # a norm would hide much of what a whitening does
        seen, plans = [], trained_plans(monkeypatch, epochs=60)
        kept = train.train_students
        monkeypatch.setattr(
            train, "train_students", lambda items, *a, **k: seen.append(kept(items, *a, **k)) or seen[-1]
        )
        found = protocols.get(name).evaluate(back, digits, net_name, crew(1))
        assert [p.lr for p in plans] == [pytest.approx(0.05)]

        net = build(net_name, (1, 8, 8), 10).double().eval()
        net.load_state_dict(seen[0].states[0])
        unit, zca = digits.test.images.double() / 255, whitened.space.zca
        white = ((unit.flatten(1) - zca.mean.double()) @ zca.transform.double()).view_as(unit)
        with torch.no_grad():
            right, raw = (
                (net(x).argmax(1) == digits.test.labels).double().mean().item() for x in (white, unit)
            )
        a_test_image = 1.5 / len(digits.test)  # another rounding may turn one
        assert found.scores[0].value == pytest.approx(right, abs=a_test_image)
        assert right > 0.6 and raw < right - 0.15, "the whitening of the test images makes the number"
        bare = back.changed(space=replace(back.space, zca=None))
        unwhitened = protocols.get(name).evaluate(bare, digits, net_name, crew(1))
        assert unwhitened.scores[0].value == pytest.approx(raw, abs=a_test_image)

    def test_datm_takes_hard_labels_too(self, gauss2: RealData):
        protocol = tiny(ROWS["datm"])
        soft = Targets(soft=torch.randn(6, 2, generator=torch.Generator().manual_seed(1)), kind="logits")
        for distilled in (made(gauss2), made(gauss2, targets=soft)):
            assert protocol.accepts(distilled) is None
            assert len(protocol.evaluate(distilled, gauss2, NET, crew(1)).scores) == 1


class TestNative:
    """specs of arXiv:1811.10959, numeric checks 3 and 4."""

    X = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64).view(2, 2, 1, 1)

    def linear(self) -> torch.nn.Module:
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False)).double()
        with torch.no_grad():
            net[1].weight.copy_(torch.tensor([[0.5, -0.25], [0.1, 0.3]]))
        return net

    def items(self) -> Items:
        return Items(self.X, lambda t: t, 2, ids=torch.tensor([0, 1]))

    def test_two_steps_give_the_weights_and_losses_of_the_spec(self):
        net = self.linear()
        real = torch.tensor([[0.5, 1.5], [2, -1], [-0.5, -0.5]], dtype=torch.float64).view(3, 2, 1, 1)
        labels = torch.tensor([0, 1, 1])
        before = torch.nn.functional.cross_entropy(net(real), labels)
        assert before.item() == pytest.approx(1.121853, abs=1e-6)
        replay(net, self.items(), Program(torch.tensor([0.1, 0.1], dtype=torch.float64), ((0, 1), (0, 1))))
        want = torch.tensor([[0.596203, -0.140769], [0.003797, 0.190769]], dtype=torch.float64)
        assert torch.allclose(net[1].weight, want, atol=1e-6)
        assert torch.nn.functional.cross_entropy(net(real), labels).item() == pytest.approx(
            1.047867, abs=1e-6
        )

    def test_steps_of_size_zero_change_nothing(self):
        net = self.linear()
        before = net[1].weight.clone()
        replay(net, self.items(), Program(torch.zeros(2), ((0, 1), (1,))))
        assert torch.equal(net[1].weight, before)

    def test_an_order_beyond_the_items_and_divergence_are_named(self):
        with pytest.raises(ValueError, match=r"order names item 5 but the set has 2 \(0 to 1\)"):
            replay(self.linear(), self.items(), Program(torch.tensor([0.1]), ((0, 5),)))
        sizes = torch.full((4,), 1.7e308, dtype=torch.float64)
        with pytest.raises(FloatingPointError, match=r"replayed program diverged: .* after 4 steps"):
            replay(self.linear(), self.items(), Program(sizes, ((0, 1),) * 4))

    def test_xavier_normal_weights_and_zero_biases(self, gauss2: RealData):
        net = build("MLP", (1, 8, 8), 2)
        program = Program(torch.tensor([0.1]), ((0,),), init="xavier-normal")
        start_(net, program, made(gauss2), torch.Generator().manual_seed(1))
        first = net.trunk[1]
        assert not bool(first.bias.any())
        assert first.weight.std().item() == pytest.approx((2 / (64 + 128)) ** 0.5, rel=0.05)

    def test_a_program_scores_every_student_and_frozen_weights_one(self, gauss2: RealData):
        program = Program(torch.full((4,), 0.05), ((0, 3), (1, 4), (2, 5), (0, 3)))
        native = protocols.get("native")
        distilled = made(gauss2, program=program)
        assert native.accepts(distilled) is None
        found = native.evaluate(distilled, gauss2, NET, crew(1, 2))
        assert [s.seed for s in found.scores] == [1, 2] and found.engine == "plain" and found.rate is None
        frozen = {f"w0.{n}": t for n, t in build(NET, (1, 8, 8), 2).state_dict().items()}
        inline = distilled.changed(
            tensors={**distilled.tensors, **frozen}, program=replace(program, init="inline:w0.")
        )
        assert len(native.evaluate(inline, gauss2, NET, crew(1, 2)).scores) == 1
        short = inline.changed(tensors={n: t for n, t in inline.tensors.items() if not n.endswith("bias")})
        with pytest.raises(ValueError, match=r"the frozen weights w0\.\* do not fit the network"):
            native.evaluate(short, gauss2, NET, crew(1))

    def test_a_learned_rate_is_tested_on_the_way_where_the_plan_says_so(self, gauss2: RealData):
        row = ROWS["native"]
        short = row.plan.changed(epochs=4, milestones=(3,), test_every=1)
        distilled = made(gauss2, program=Program(torch.tensor([0.037])))
        found = NativeProtocol(replace(row, plan=short)).evaluate(distilled, gauss2, NET, crew(1))
        assert [s.chosen_by for s in found.scores] == ["last", "best-epoch"]

    def test_a_learned_rate_trains_at_that_rate(self, gauss2: RealData, monkeypatch):
        plans = trained_plans(monkeypatch)
        distilled = made(gauss2, program=Program(torch.tensor([0.037])))
        found = protocols.get("native").evaluate(distilled, gauss2, NET, crew(1))
        assert plans == [ROWS["native"].plan.changed(lr=pytest.approx(0.037))]
        assert len(found.scores) == 1
