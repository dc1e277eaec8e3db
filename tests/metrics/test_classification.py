import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from kanseg.metrics import ClassificationMetrics, classification_table
from kanseg.metrics.classification import confusion_table
from kanseg.utils.errors import InputError


def scored(count=200, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    labels[:classes] = torch.arange(classes)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.0
    return logits, labels


def measured(logits, labels, batch=16, order=None, **options):
    metrics = ClassificationMetrics([f"c{i}" for i in range(logits.shape[1])])
    order = torch.arange(len(labels)) if order is None else order
    for part in order.split(batch):
        metrics.update(logits[part], labels[part], part, **options)
    return metrics.compute()


def per_class(result, name):
    return [row[name] for row in result["classes"].values()]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores_are_scikit_learns(classes):
    logits, labels = scored(classes=classes)
    y, p = labels.numpy(), logits.argmax(dim=1).numpy()
    result = measured(logits, labels)
    for name in ("precision", "recall", "f1"):
        function = getattr(sklearn_metrics, f"{name}_score")
        np.testing.assert_allclose(
            per_class(result, name), function(y, p, average=None), atol=1e-12
        )
        for key, average in (("mean", "macro"), ("micro", "micro")):
            assert abs(result[f"{key}_{name}"] - function(y, p, average=average)) < 1e-12
    assert abs(result["top1"] - sklearn_metrics.accuracy_score(y, p)) < 1e-12
    assert result["confusion"] == sklearn_metrics.confusion_matrix(y, p).tolist()
    assert per_class(result, "support") == np.bincount(y).tolist()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [3, 7])
def test_areas_are_scikit_learns(classes, ties):
    logits, labels = scored(classes=classes)
    if ties:
        logits = logits.round()
    single = logits.softmax(dim=1)  # rounds what is equal to what is not
    for result, given in (
        (measured(logits, labels), logits.double().softmax(dim=1).float()),
        (measured(single, labels, probabilities=True), single),
    ):
        for kind in ("ovr", "ovo"):
            assert (
                abs(
                    result[f"auc_{kind}"]
                    - sklearn_metrics.roc_auc_score(labels, given, multi_class=kind)
                )
                < 1e-9
            )


def test_areas_with_equal_scores_are_scikit_learns_to_the_last_digit():
    """On quarters, which are exact: equal scores count half."""
    probabilities = torch.tensor(
        [
            [0.5, 0.25, 0.25],
            [0.25, 0.5, 0.25],
            [0.5, 0.25, 0.25],
            [0.25, 0.25, 0.5],
            [0.25, 0.5, 0.25],
            [0.5, 0.5, 0.0],
        ]
    )
    labels = torch.tensor([0, 0, 1, 2, 1, 2])
    result = measured(probabilities, labels, probabilities=True)
    for kind in ("ovr", "ovo"):
        assert (
            abs(
                result[f"auc_{kind}"]
                - sklearn_metrics.roc_auc_score(labels, probabilities, multi_class=kind)
            )
            < 1e-12
        )


def test_two_classes_have_the_binary_area():
    logits, labels = scored(classes=2)
    result = measured(logits, labels)
    expected = sklearn_metrics.roc_auc_score(labels, (logits[:, 1] - logits[:, 0]).double())
    assert abs(result["auc_ovr"] - expected) < 1e-6
    assert abs(result["auc_ovo"] - expected) < 1e-6


def test_top5_is_scikit_learns_and_undefined_where_it_says_nothing():
    logits, labels = scored(classes=9)
    expected = sklearn_metrics.top_k_accuracy_score(labels, logits, k=5)
    assert abs(measured(logits, labels)["top5"] - expected) < 1e-12
    assert math.isnan(measured(*scored(classes=5))["top5"])
    assert not math.isnan(measured(*scored(classes=6))["top5"])


def test_batches_order_and_processes_do_not_matter():
    logits, labels = scored()
    reference = measured(logits, labels)
    for batch in (1, 3, 200):
        assert measured(logits, labels, batch=batch, order=torch.randperm(200)) == reference
    parts = [ClassificationMetrics([f"c{i}" for i in range(7)]) for _ in range(2)]
    for rank, part in enumerate(parts):
        mine = torch.tensor(
            [*range(rank, 200, 2), 0]
        )  # the first image again, as padding of a batch would
        part.update(logits[mine], labels[mine], mine.tolist())
    parts[0].merge(parts[1].per_image)
    assert parts[0].compute() == reference


def test_logits_that_probabilities_cannot_tell_apart_are_still_ranked():
    logits = torch.tensor([[80.0, 81.0, -300.0], [200.0, 0.0, 1.0]])
    assert measured(logits, torch.tensor([1, 0]))["top1"] == 1
    close = torch.tensor([[1.0, 1.0 + 2e-7, 0.0]])
    assert measured(close, torch.tensor([1]))["top1"] == 1


def test_equal_scores_go_to_the_first_class():
    assert measured(torch.zeros(1, 3), torch.tensor([0]))["top1"] == 1
    assert measured(torch.zeros(1, 3), torch.tensor([1]))["top1"] == 0
    assert measured(torch.zeros(1, 7), torch.tensor([5]))["top5"] == 0


def test_what_is_undefined_is_nan_left_out_of_means_and_counted():
    logits = 5 * torch.eye(4)[[0, 0, 1, 3]]
    result = measured(logits, torch.tensor([0, 1, 1, 1]))
    rows = result["classes"]
    assert math.isnan(rows["c2"]["precision"])
    assert math.isnan(rows["c2"]["recall"])
    assert math.isnan(rows["c2"]["f1"])
    assert math.isnan(rows["c3"]["auc"])
    assert (rows["c3"]["precision"], rows["c3"]["f1"]) == (0, 0)
    assert abs(result["mean_recall"] - (1 + 1 / 3) / 2) < 1e-12
    assert abs(result["mean_precision"] - (0.5 + 1 + 0) / 3) < 1e-12
    assert (result["absent"], result["never_predicted"]) == (2, 1)
    y, p = [0, 1, 1, 1], [0, 0, 1, 3]
    for name in ("precision", "recall", "f1"):
        expected = getattr(sklearn_metrics, f"{name}_score")(
            y, p, labels=[0, 1, 2, 3], average=None, zero_division=np.nan
        )
        np.testing.assert_allclose(per_class(result, name), expected)
    one = measured(logits, torch.zeros(4, dtype=torch.long))
    assert math.isnan(one["auc_ovr"])
    assert math.isnan(one["auc_ovo"])
    none = ClassificationMetrics(["a", "b"]).compute()
    assert math.isnan(none["top1"])
    assert none["images"] == 0


def test_half_precision_logits_and_defaults_of_the_numbers():
    logits, labels = scored()
    metrics = ClassificationMetrics([f"c{i}" for i in range(7)])
    metrics.update(logits[:100].bfloat16(), labels[:100])
    metrics.update(logits[100:].bfloat16(), labels[100:])
    result = metrics.compute()
    assert result["images"] == 200
    assert result["top1"] == (logits.bfloat16().argmax(dim=1) == labels).double().mean()
    assert json.loads(json.dumps(result))["confusion"] == result["confusion"]


def test_what_cannot_be_measured_is_refused_by_number():
    metrics = ClassificationMetrics(["a", "b"])
    with pytest.raises(InputError, match="image 8: .* not finite"):
        metrics.update(
            torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), torch.tensor([0, 1]), [7, 8]
        )
    with pytest.raises(InputError, match="image 7: label 2"):
        metrics.update(torch.zeros(1, 2), torch.tensor([2]), [7])
    with pytest.raises(InputError, match=r"expected scores \(B, 2\)"):
        metrics.update(torch.zeros(1, 3), torch.tensor([1]))


def test_table_has_a_row_a_class_and_says_why_there_is_no_top5():
    lines = classification_table(measured(*scored(classes=3))).splitlines()
    assert [line.split()[0] for line in lines] == [
        "precision",
        "c0",
        "c1",
        "c2",
        "mean",
        "micro",
        "accuracy",
        "top1",
    ]
    assert "top5 - (fewer than 6 classes)" in lines[-1]
    assert "top5 -" not in classification_table(measured(*scored(classes=7)))
    assert (
        "-"
        in classification_table(measured(torch.eye(3)[[0, 0]], torch.tensor([0, 0])))
        .splitlines()[2]
        .split()
    )


def test_the_confusion_matrix_is_text_or_of_many_classes_the_most_frequent_mistakes():
    logits = torch.eye(3)[[0, 1, 1, 2]]
    lines = confusion_table(measured(logits, torch.tensor([0, 0, 1, 2]))).splitlines()
    assert [line.split()[-3:] for line in lines[1:]] == [list("110"), list("010"), list("001")]
    labels = torch.arange(30)
    labels[3:6] = 7
    lines = confusion_table(measured(torch.eye(30), labels)).splitlines()
    assert [line.split() for line in lines[1:]] == [["c7", f"c{n}", "1"] for n in (3, 4, 5)]


def test_balanced_accuracy_and_calibration_are_scikit_learns():
    logits, labels = scored()
    result = measured(logits, labels)
    expected = sklearn_metrics.balanced_accuracy_score(labels, logits.argmax(dim=1))
    assert result["mean_recall"] == pytest.approx(expected)
    onehot = torch.eye(7)[labels]
    brier = ((logits.softmax(dim=1) - onehot) ** 2).sum(dim=1).mean() / 2
    assert result["calibration"]["brier"] == pytest.approx(brier.item(), abs=1e-6)
    assert f"balanced accuracy {expected:.4f}" in classification_table(result)
