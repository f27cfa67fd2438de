"""A claim beside records: every verdict, every reason, the errors by hand."""

from __future__ import annotations

import math

import pytest

from ddbench.claims import Claim
from ddbench.records import Cell, DistilCell, Provenance, Record, Score, Spent
from ddbench.verdicts import (
    authors,
    authors_recipe,
    error_of_mean,
    fits,
    network,
    own_protocols,
    published_error,
    published_runs,
    stand,
    standings,
)


def claim(**what) -> Claim:
    fields = dict(
        id="dm-1", paper="dm", method="dm", dataset="cifar10", network="ConvNet", protocol="dc-dsa", ipc=10,
        value=48.9, chosen="last", source="arXiv:2110.04181, Table 1",
    )  # fmt: skip
    return Claim(**(fields | what))


def record(
    values=(0.489, 0.489), *, method="dm", dataset="cifar10", ipc=10, seed=0, protocol="dc-dsa",
    network="ConvNet", settings=None, scores=None, precision="fp32", **what,
) -> Record:  # fmt: skip
    distil = DistilCell(method=method, dataset=dataset, ipc=ipc, seed=seed, settings=settings or {})
    if scores is None:
        scores = [Score(value=v, network=network, seed=i) for i, v in enumerate(values)]
    fields = dict(
        key=f"k{seed}",
        set_key=f"s{seed}",
        cell=Cell(distil=distil, protocol=protocol, network=network, repeats=max(len(values), 1)),
        status="ok",
        protocol_version="1.0",
        recipe="authors",
        recipe_source="the code",
        data_fingerprint="d",
        scores=scores,
        spent=Spent(distil_s=10, teacher_s=5, evaluate_s=1, distil_peak_mib=100, evaluate_peak_mib=300),
        provenance=Provenance(ddbench="0", revision="0123456789ab", device="cpu", precision=precision),
        created=f"2026-01-01T00:00:0{seed}+00:00",
    )
    return Record(**(fields | what))


def best(values, chosen="best-epoch", students=None):
    return [
        Score(value=v, network="ConvNet", seed=i, chosen_by=chosen, chosen_on="test", students=students)
        for i, v in enumerate(values)
    ]


def last(values):
    return [Score(value=v, network="ConvNet", seed=i) for i, v in enumerate(values)]


# ------------------------------------------------------------------------------------------------ numbers


def test_the_error_of_a_mean_is_of_distillations_where_there_are_several():
    # means 2 and 4: deviation sqrt(2), over sqrt(2) sets
    assert error_of_mean([[1.0, 3.0], [3.0, 5.0]]) == pytest.approx(1.0)


def test_the_error_of_one_distillation_is_of_its_students():
    # 1, 3, 5: sample deviation 2, over sqrt(3)
    assert error_of_mean([[1.0, 3.0, 5.0]]) == pytest.approx(2 / math.sqrt(3))


def test_a_single_value_has_no_error_of_its_own():
    assert error_of_mean([[1.0]]) is None


def test_the_published_error_uses_the_stated_runs_else_the_repeats_of_the_protocol():
    assert published_error(claim(std=2.0, n=4)) == 1.0
    assert published_runs(claim(std=2.0)) == 5
    assert published_error(claim(std=2.0)) == pytest.approx(2 / math.sqrt(5))
    assert published_error(claim()) is None
    assert published_error(claim(std=2.0, protocol="theirs", external=("protocol",))) is None


def test_a_standing_has_mean_deviation_gap_errors_cost_and_records():
    s = stand(claim(value=49.0, std=1.0, n=4), [record((0.47, 0.51)), record((0.50, 0.54), seed=1)])
    assert (s.verdict, s.reason) == ("reproduced", "")
    assert s.mean == pytest.approx(50.5)
    # around 50.5: -3.5, 0.5, -0.5, 3.5
    assert s.std == pytest.approx(2.5)
    assert (s.n, s.sets) == (4, 2)
    assert s.error == pytest.approx(1.5)  # means 49 and 52
    assert s.gap == pytest.approx(1.5)
    assert s.gap_errors == pytest.approx(1.5 / math.hypot(1.5, 0.5))
    assert (s.seconds, s.peak_mib) == (32, 300)
    assert (s.records, s.revision, s.device, s.recipe) == (("k0", "k1"), "012345678", "cpu", "authors")


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.499, "reproduced"),  # +1.0 exactly
        (0.4991, "above"),
        (0.479, "reproduced"),
        (0.4789, "below"),
    ],
)
def test_without_errors_one_point_decides(value, verdict):
    s = stand(claim(), [record((value, value))])
    assert (s.verdict, s.gap_errors) == (verdict, None)


def test_within_two_combined_errors_is_reproduced_though_more_than_a_point():
    # measured error 0.5 (1 point apart, 2 students: sample deviation 0.7071), published 1.5 / sqrt(5)
    s = stand(claim(std=1.5), [record((0.499, 0.509))])
    combined = math.hypot(0.5, 1.5 / math.sqrt(5))
    assert s.gap == pytest.approx(1.5) and s.gap_errors == pytest.approx(1.5 / combined)
    assert s.verdict == "reproduced"
    assert stand(claim(std=1.5), [record((0.504, 0.514))]).verdict == "above"  # 2.0 of 1.67
    assert stand(claim(std=1.5), [record((0.464, 0.474))]).verdict == "below"


def test_a_single_student_is_held_against_the_published_deviation():
    found = stand(claim(std=2.0, n=5), [record((0.519,))])
    assert found.error is None and found.std is None and found.n == 1
    assert found.gap_errors == pytest.approx(3.0 / math.hypot(2.0, 2 / math.sqrt(5)))
    assert found.verdict == "reproduced"
    assert found.note == (
        "1 student: the published deviation stands for its error; uncertain: the error is 4.4 points"
    )


def test_a_single_student_without_any_deviation_says_that_one_point_decides():
    found = stand(claim(), [record((0.489,))])
    assert (found.verdict, found.note) == (
        "reproduced",
        "1 student and no published deviation: 1 point decides",
    )


def test_one_set_says_that_its_error_leaves_out_how_sets_differ():
    assert stand(claim(), [record()]).note == "1 set: its error leaves out how sets differ"
    assert stand(claim(), [record(), record(seed=1)]).note == ""


def test_a_large_error_says_that_the_verdict_is_uncertain():
    # means 46.9 and 50.9: error 2.0; 48.9 is within, and so would much else be
    wide = [record((0.469, 0.469)), record((0.509, 0.509), seed=1)]
    found = stand(claim(), wide)
    assert (found.verdict, found.note) == ("reproduced", "uncertain: the error is 4.0 points")
    near = [record((0.475, 0.475)), record((0.503, 0.503), seed=1)]  # error 1.4
    assert stand(claim(), near).note == ""


def test_an_epoch_that_the_source_does_not_state_is_told():
    found = stand(claim(chosen="unstated"), [record(), record(seed=1)])
    assert (found.verdict, found.note) == ("reproduced", "which epoch the source reports is not stated")


def test_the_mean_is_of_sets_as_its_error_is():
    found = stand(claim(), [record((0.40,)), record((0.50, 0.50, 0.50), seed=1)])
    assert found.mean == pytest.approx(45.0) and found.error == pytest.approx(5.0)
    # the deviation is that of the four students around their own mean, 47.5
    assert found.std == pytest.approx(math.sqrt(3 * 2.5**2 / 4 + 7.5**2 / 4))


# ------------------------------------------------------------------------------------------------ which records


@pytest.mark.parametrize(
    "what",
    [
        dict(method="dsa"),
        dict(dataset="cifar100"),
        dict(ipc=1),
        dict(protocol="dc"),
        dict(network="ConvNetW32"),
        dict(status="failed", scores=[]),
        dict(scores=[]),
    ],
)
def test_a_record_of_another_cell_or_without_scores_does_not_fit(what):
    assert not fits(claim(), record(**what))


def test_spellings_of_networks_are_one():
    assert fits(claim(network="ConvNetD3"), record(network="ConvNet"))
    assert network("ResNet18BN", "imagenet1k") == "torchvision:resnet18"
    assert network("ResNet18BN", "cifar10") == "ResNet18BN"
    assert network("none-such", "nowhere") == "none-such"


def test_scores_of_another_task_or_metric_do_not_count():
    more = [
        Score(value=0.9, network="ConvNet", seed=1, task="svhn"),
        Score(value=0.9, network="ConvNet", seed=1, metric="lrs"),
    ]
    assert stand(claim(), [record(scores=[*last([0.489]), *more])]).mean == pytest.approx(48.9)
    assert not fits(claim(), record(scores=more))


def test_a_claim_that_is_external_or_of_a_task_fits_nothing():
    assert not fits(claim(external=("network",)), record())
    assert not fits(claim(task="cross-arch"), record())
    assert not fits(claim(metric="rocauc"), record())


def test_of_one_seed_the_newest_record_stands():
    old, new = record((0.40,), created="2025"), record((0.489,), created="2026", key="new")
    s = stand(claim(), [new, old])
    assert s.records == ("new",) and s.mean == pytest.approx(48.9)
    assert "1 other record of the cell left out" in s.note


def test_of_one_seed_the_record_of_the_most_students_stands_before_a_newer_one():
    many, newer = record((0.489, 0.499), created="2025"), record((0.40,), created="2026", key="new")
    assert stand(claim(), [many, newer]).records == ("k0",)


def test_kinds_are_never_pooled_and_comparable_ones_stand_first():
    mine = record((0.489, 0.489), seed=3)
    s = stand(
        claim(),
        [
            record((0.1,), seed=0, recipe="cpu"),
            record((0.1,), seed=1, recipe="cpu"),
            record((0.1,), seed=2, settings={"iterations": "5"}),
            mine,
            record((0.2,), seed=4, status="partial", reason="stopped after 3 of 9 iterations"),
            record((0.3,), seed=5, precision="bf16"),
        ],
    )
    assert (s.verdict, s.records) == ("reproduced", ("k3",))
    assert "5 other records of the cell left out" in s.note


def test_of_several_comparable_kinds_more_sets_then_more_students_then_the_newest_stand():
    two = [record((0.48,), seed=s, precision="float64", key=f"d{s}") for s in (0, 1)]
    assert stand(claim(), [record((0.489, 0.489), seed=7), *two]).records == ("d0", "d1")
    more = record((0.48, 0.48), seed=1, precision="float64", key="more")
    assert stand(claim(), [record((0.489,), seed=7), more]).records == ("more",)
    newer = record((0.48,), seed=1, precision="float64", key="newer", created="2027")
    assert stand(claim(), [record((0.489,)), newer]).records == ("newer",)
    assert "trained in float64" in stand(claim(), [newer]).note


def test_among_incomparable_kinds_the_authors_recipe_stands():
    both = [record((0.1,), recipe="cpu", seed=0), record((0.2,), precision="bf16", seed=1)]
    assert stand(claim(), both).records == ("k1",)


# ------------------------------------------------------------------------------------------------ not comparable


def against(one: Claim, *records: Record) -> str:
    s = stand(one, records)
    assert s.verdict == "not comparable" and s.mean is not None and s.gap is not None
    return s.reason


def test_a_partial_run_says_how_far_it_came():
    cut = record(status="partial", reason="stopped after 30 of 100 iterations")
    assert against(claim(), cut) == "partial run: stopped after 30 of 100 iterations"
    assert against(claim(), record(status="partial")) == "partial run: the set is not finished"


def test_another_recipe_is_named():
    assert against(claim(), record(recipe="cpu")) == "other recipe: 'cpu' is not the authors'"
    assert against(claim(), record(settings={"b": 1, "a": 2})) == (
        "other recipe: authors with settings of one's own (a=2, b=1)"
    )


def test_a_claim_that_names_its_recipe_is_of_this_one_only():
    mine = claim(method="rded", protocol="rded", recipe="convnet")
    measured = dict(method="rded", protocol="rded")
    assert stand(mine, [record(recipe="convnet", **measured)]).verdict == "reproduced"
    assert (
        against(mine, record(**measured))
        == "other recipe: 'authors' is not 'convnet', which this number is of"
    )
    own = record(recipe="convnet", settings={"iterations": 1}, **measured)
    assert "settings of one's own (iterations=1)" in against(mine, own)
    near = record(recipe="convnet", notes={"recipe": "recipe x, the nearest to cifar10 ipc 10"}, **measured)
    assert "the nearest to cifar10" in against(mine, near)
    both = [record(**measured), record((0.1,), recipe="convnet", seed=1, **measured)]
    assert stand(mine, both).records == ("k1",)
    plain = record(method="dm", recipe="defaults")
    assert stand(claim(recipe="defaults"), [plain]).verdict == "reproduced"


def test_the_recipe_of_a_claim_is_the_one_that_it_names_else_the_authors():
    assert authors_recipe(claim()).name == "authors"
    assert authors_recipe(claim(recipe="cpu", dataset="mnist", ipc=1)).name == "cpu"
    assert authors_recipe(claim(recipe="nobodys")) is None
    assert authors_recipe(claim(method="random")).name == "defaults"


def test_another_network_of_the_distillation_is_not_compared():
    of = claim(distill_network="ResNet18BN")
    made = record().model_copy(update={"settings": {"network": "ConvNet"}})
    assert against(of, made) == (
        "other distillation network: published with ResNet18BN, measured with ConvNet"
    )
    same = record().model_copy(update={"settings": {"base.network": "ResNet18BN"}})
    assert stand(of, [same]).verdict == "reproduced"
    assert stand(of, [record()]).verdict == "reproduced"  # the record does not say
    for unknown in ("", "committee(2 of ResNet18BN;ResNet50BN)"):
        assert stand(claim(distill_network=unknown), [made]).verdict == "reproduced"
    large = record(dataset="imagenette", settings={}).model_copy(
        update={"settings": {"network": "ResNet18BN"}}
    )
    spelt = claim(dataset="imagenette", distill_network="torchvision:resnet18")
    assert "network" not in stand(spelt, [large]).reason  # one network, two spellings


def test_a_claim_with_a_caveat_is_not_comparable_whatever_was_measured():
    doubtful = claim(caveat="its test images are others")
    assert against(doubtful, record()) == "its test images are others"
    assert against(doubtful, record(recipe="cpu")).startswith("its test images are others; other recipe")
    found = stand(doubtful, [])
    assert (found.verdict, found.reason) == ("not run", "would not be comparable: its test images are others")


def test_the_authors_recipe_for_another_cell_is_not_theirs_for_this_one():
    note = {"recipe": "recipe authors of cifar10 ipc 10, the nearest to cifar10 ipc 3"}
    near = record(ipc=3, notes=note)
    assert against(claim(ipc=3), near) == f"other recipe: {note['recipe']}"
    assert not authors(near)


def test_defaults_are_the_authors_only_where_these_have_no_recipe():
    plain = dict(recipe="defaults", recipe_source="")
    assert authors(record(method="random", **plain))
    assert authors(record(method="herding", notes={"recipe": "no recipe of herding fits cifar10"}, **plain))
    assert not authors(record(method="dm", **plain))
    assert not authors(record(method="of a plug-in that is not here", **plain))
    assert authors(record(recipe="released")) and authors(record(recipe="paper"))


def test_a_number_that_was_chosen_on_test_data_is_no_match_for_the_last_epoch():
    assert against(claim(chosen="best-epoch"), record()) == (
        "test-selected: published is the best epoch, chosen on test data; measured is the last"
    )
    assert "best snapshot" in against(claim(chosen="best-snapshot"), record())


def test_numbers_chosen_alike_are_compared_and_say_so():
    scores = [*last([0.1, 0.1]), *best([0.489, 0.487])]
    s = stand(claim(chosen="best-epoch"), [record(scores=scores)])
    assert (s.verdict, s.n) == ("reproduced", 2) and s.mean == pytest.approx(48.8)
    assert s.note.startswith("published and measured are each the best epoch, chosen on test data")
    assert stand(claim(chosen="last"), [record(scores=scores)]).verdict == "below"


def test_a_snapshots_value_counts_its_students():
    scores = [*last([0.1] * 5), *best([0.489], "best-snapshot", 5)]
    s = stand(claim(chosen="best-snapshot", std=1.0, n=1), [record(scores=scores)])
    assert (s.verdict, s.n, s.sets, s.error, s.std) == ("reproduced", 5, 1, None, None)
    assert "each set's value is a mean over its 5 students" in s.note
    assert "1 set with one value: the published deviation stands for its error" in s.note


def test_sets_with_and_without_a_best_epoch_are_not_mixed():
    whole = record(scores=[*last([0.1]), *best([0.489])], seed=1)
    s = stand(claim(chosen="best-epoch"), [record((0.1, 0.1), seed=0), whole])
    assert (s.verdict, s.records) == ("reproduced", ("k1",))


@pytest.mark.parametrize("one", [True, False])
def test_whitened_and_plain_images_are_not_compared(one):
    said = against(claim(zca=one), record(whitened=not one))
    words = ["plain images", "whitened images (ZCA)"]
    assert said == f"other preprocessing: published on {words[one]}, measured on {words[not one]}"
    assert stand(claim(zca=one), [record(whitened=one)]).verdict == "reproduced"
    assert stand(claim(), [record(whitened=one)]).verdict == "reproduced"  # the source does not say


def test_an_older_record_tells_its_whitening_by_the_setting():
    assert "measured on plain" in against(claim(zca=True), record())
    assert stand(claim(zca=True), [record(settings=None, **{"whitened": None})]).verdict == "not comparable"
    for key in ("zca", "mtt.zca"):
        old = record().model_copy(update={"settings": {key: True}})
        assert stand(claim(zca=True), [old]).verdict == "reproduced"


def test_another_form_or_size_of_the_data_is_not_compared():
    squashed = dict(dataset="imagenette?resize=squash")
    said = against(claim(**squashed), record(dataset="imagenette"))
    assert said == "other preprocessing: published on imagenette?resize=squash, measured on imagenette"
    assert stand(claim(**squashed), [record(**squashed)]).verdict == "reproduced"
    said = against(claim(dataset="imagenette"), record(**squashed))
    assert said == "other preprocessing: published on imagenette, measured on imagenette?resize=squash"
    said = against(claim(resolution=64), record())
    assert said == "other preprocessing: published at 64 pixels, measured at 32"
    assert stand(claim(resolution=32), [record()]).verdict == "reproduced"


def test_other_labels_are_not_compared():
    soft = record(labels="teacher, stored")
    assert against(claim(labels="hard"), soft) == (
        "other labels: published with hard ones, measured with teacher, stored"
    )
    assert "other labels" in against(claim(labels="learned-soft"), record())
    for labels in ("hard", "", "none"):
        assert stand(claim(labels=labels), [record()]).verdict == "reproduced"
    assert stand(claim(labels="soft"), [soft]).verdict == "reproduced"


def test_students_in_bf16_are_not_compared_and_tf32_is_told():
    assert against(claim(), record(precision="bf16")) == ("other precision: students were trained in bf16")
    assert "students were trained in tf32" in stand(claim(), [record(precision="tf32")]).note


def test_another_version_of_the_protocol_is_not_compared():
    assert against(claim(), record(protocol_version="0.9.2")) == (
        "other protocol version: measured under dc-dsa 0.9.2, which is 1.0 now"
    )
    assert stand(claim(), [record(protocol_version="1.0.7")]).verdict == "reproduced"


def test_a_protocol_of_our_own_is_no_test_of_a_published_number():
    ours = record(protocol="quick", network="ConvNetD2W32")
    assert against(claim(protocol="quick", network="ConvNetD2W32"), ours) == (
        "other protocol: quick is ddbench's own"
    )


def test_several_reasons_are_all_said():
    said = against(claim(zca=True), record(recipe="cpu"))
    assert said.startswith("other recipe: 'cpu'") and "; other preprocessing" in said


# ------------------------------------------------------------------------------------------------ not run


def reason(one: Claim, *records: Record) -> str:
    s = stand(one, records)
    assert (s.verdict, s.mean, s.gap, s.n, s.records) == ("not run", None, None, 0, ())
    return s.reason


def test_what_nobody_ran_says_so_without_a_number():
    assert reason(claim()) == ""


def test_what_is_external_says_what_of_it():
    theirs = claim(external=("network", "protocol"), network="GCN", protocol="theirs")
    assert reason(theirs, record()) == "not in ddbench: network GCN, protocol theirs"
    assert (
        reason(claim(external=("ipc",), ipc=None, keep=0.1))
        == "not in ddbench: counts other than images a class"
    )
    assert (
        reason(claim(external=("dataset",), dataset="imagenet100")) == "not in ddbench: data set imagenet100"
    )
    sized = claim(external=("dataset",), dataset="imagenette", resolution=224)
    assert reason(sized) == "not in ddbench: form imagenette at 224 pixels"
    formed = claim(external=("dataset",), dataset="imagenette?x=1")
    assert reason(formed) == "not in ddbench: form imagenette in that form"
    assert reason(claim(external=("protocol",))) == "not in ddbench: settings of dc-dsa for cifar10"
    assert reason(claim(task="cross-arch")) == "cross-arch is not what ddbench measures here"
    assert reason(claim(metric="rocauc")) == "rocauc is not what ddbench measures here"


def test_a_cell_that_failed_says_why():
    old = record(status="skipped", reason="no", scores=[], created="2025")
    new = record(status="failed", reason="out of memory", scores=[], created="2026")
    assert reason(claim(), new, old) == "failed: out of memory"


def test_what_was_measured_otherwise_only_is_said():
    others = [record(protocol=p, network=n) for p in ("quick", "dc") for n in ("MLP", "ConvNet")]
    assert reason(claim(), others[0]) == "measured under quick with MLP only"
    assert reason(claim(), *others) == ("measured under dc with ConvNet, dc with MLP and 2 more only")


def test_a_number_without_a_recipe_has_a_state_of_its_own():
    found = stand(claim(method="dc", ipc=500), [])
    assert (found.verdict, found.mean) == ("no recipe", None)
    assert found.reason == "the authors of dc give no recipe for cifar10 at ipc 500"
    assert stand(claim(recipe="nobodys"), []).reason == "dm has no recipe 'nobodys' for cifar10 at ipc 10"
    failed = record(status="failed", reason="no", scores=[], method="dc", ipc=500)
    assert stand(claim(method="dc", ipc=500), [failed]).reason.endswith("ipc 500; failed: no")
    near = record(method="dc", ipc=500, notes={"recipe": "recipe x, the nearest to cifar10 ipc 500"})
    assert "the nearest to" in against(claim(method="dc", ipc=500), near)  # measured: shown with its values
    assert stand(claim(method="dc", ipc=500, external=("network",)), []).verdict == "not run"


# ------------------------------------------------------------------------------------------------ own papers


def test_own_protocols_are_those_of_the_methods_own_file():
    def of(protocol, **what):
        return claim(id=f"{protocol}{sorted(what.items())}", protocol=protocol, **what)

    sre2l = dict(method="sre2l", paper="sre2l")
    claims = [
        of("sre2l-kd", ipc=1, **sre2l), of("sre2l-kd", ipc=10, **sre2l), of("rded", ipc=10, **sre2l),
        of("cda-kd", quoted=True, **sre2l), of("rethink-soft", method="sre2l", paper="pca"),
        of("ncfm", method="ncfm", paper="ncfm"), of("ncfm", ipc=1, method="ncfm", paper="ncfm"),
        of("ncfm-40", method="ncfm", paper="ncfm"),
        of("mtt", method="mtt", paper="mtt", quoted=True),
        of("dc-dsa-flip", method="fyi+dm", paper="fyi"),
        of("dc-dsa", method="random", paper="dc", quoted=True),
        of("theirs", external=("protocol",)),
    ]  # fmt: skip
    assert own_protocols(claims) == {
        "sre2l": {"sre2l-kd"},
        "ncfm": {"ncfm", "ncfm-40"},
        "mtt": {"mtt"},
        "fyi+dm": {"dc-dsa-flip"},
    }


# ------------------------------------------------------------------------------------------------ many


def test_many_stand_in_the_order_of_the_claims():
    claims = [claim(id="a", ipc=1), claim(id="b"), claim(id="c", method="dsa"), claim(id="d", ipc=None)]
    found = standings(claims, iter([record(), record(ipc=1, dataset="cifar10?x=1")]))
    assert [s.claim.id for s in found] == ["a", "b", "c", "d"]
    assert [s.verdict for s in found] == ["not comparable", "reproduced", "not run", "not run"]
    assert found == [stand(c, [record(), record(ipc=1, dataset="cifar10?x=1")]) for c in claims]
