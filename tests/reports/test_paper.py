"""The paper's values: all that tables.csv holds can be looked up, and is what the paper prints."""

import csv
from pathlib import Path

import pytest

import study.paper
from reports.text import paper_text
from study.columns import COLUMNS
from study.model import PaperRow, ReportError
from study.paper import PaperValue, paper_metrics, paper_setting, paper_values

FILE = Path(study.paper.__file__).with_name("tables.csv")
with FILE.open(newline="", encoding="utf-8") as _file:
    LINES = list(csv.DictReader(_file))
TABLES = [str(number) for number in range(1, 15)]


def value(table: str, method: str, variant: str, percent: float, metric: str) -> PaperValue:
    return paper_values(PaperRow(table, method, variant, percent / 100))[metric]


@pytest.mark.parametrize("table", [*TABLES, "text"])
def test_every_line_is_reached_by_its_key(table: str) -> None:
    lines = [line for line in LINES if line["table"] == table]
    assert lines
    for line in lines:
        found = value(
            table, line["method"], line["variant"], float(line["sparsity_pct"]), line["metric"]
        )
        if line["value"] not in ("", "-"):
            assert found.value == float(line["value"])
            assert found.source == line["source"]
        elif line["value"] == "-":
            assert found.is_dash
        else:
            assert found.value is None or found.is_cited


def test_keys_are_unique_in_the_tables() -> None:
    names = ("table", "method", "variant", "sparsity_pct", "metric")
    keys = [tuple(line[name] for name in names) for line in LINES if line["table"] in TABLES]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("table", "method", "variant", "percent", "metric", "printed"),
    [
        ("2", "Top-KAST", "98 fwd 90 bwd", 98, "top1", 67.06),
        ("3", "Dense", "", 0, "top1", 71.78),
        ("3", "WoodFisher", "", 89, "top1", 63.87),
        ("4", "AC/DC", "embeddings 50%", 90, "dense_ppl", 21.34),
        ("4", "Top-KAST", "80 bwd", 90, "sparse_ppl", 25.1),
        ("6", "AC/DC*", "", 90, "dense_ft_top1", 76.85),
        ("8", "AC/DC", "global", 98, "zero_weights_pct", 49.8),
        ("10", "Top-KAST", "bwd 80", 80, "top1", 72.19),
        ("11", "AC/DC*", "global", 95, "top1", 74.16),
        ("12", "RigL (ERK) 2x", "", 90, "top1", 65.92),
        ("13", "AC/DC", "ResNet50, DeepSparse, uniform", 90, "latency_ms_bs1_4cores", 8.495),
        ("13", "Dense", "MobileNetV1, DeepSparse", 0, "latency_ms_bs64_16cores", 55.845),
        ("14", "GMP", "", 90, "cross_entropy", 1.29),
    ],
)
def test_numbers_of_the_papers_text(
    table: str, method: str, variant: str, percent: float, metric: str, printed: float
) -> None:
    found = value(table, method, variant, percent, metric)
    assert (found.value, found.mark) == (printed, "")


def test_dashes_and_unknown_numbers() -> None:
    assert value("14", "SparseVD", "", 80, "cross_entropy").is_dash
    assert value("4", "Dense", "", 0, "sparse_ppl").is_dash
    unknown = value("1", "WoodFisher", "", 80, "top1")
    assert (unknown.value, unknown.is_dash, unknown.confidence) == (None, False, "unknown")


def test_released_model_replaces_unknown() -> None:
    stand_in = value("1", "AC/DC", "global", 80, "top1")
    assert (stand_in.value, stand_in.mark) == (76.45, "‡")
    assert "released checkpoint" in stand_in.source
    assert value("9", "AC/DC", "global", 95, "sparse_top1").value == 73.14
    # Known, if only from the text.
    assert value("1", "AC/DC", "global", 90, "top1").value == 75.04
    # No such model was released.
    assert value("1", "AC/DC", "global", 80, "train_flops_ratio").value is None


def test_a_row_that_the_paper_cites_is_marked() -> None:
    own = PaperRow("1", "RigL1x", "uniform", 0.9)
    cited = PaperRow("1", "RigL1x", "uniform", 0.9, cites="Evci et al. 2020")
    assert paper_values(own)["top1"].mark == "†"
    assert paper_values(cited)["top1"].mark == "‡"


def test_what_is_counted_is_not_cited() -> None:
    """Also in rows of another publication: it is printed nowhere there."""
    for line in LINES:
        if line["table"] not in TABLES or line["confidence"] == "unknown" or line["value"] == "-":
            continue
        key = (line["table"], line["method"], line["variant"], float(line["sparsity_pct"]) / 100)
        mark = paper_values(PaperRow(*key, cites="Somebody 2020"))[line["metric"]].mark
        assert mark == ("†" if line["confidence"] == "derived" else "‡")


@pytest.mark.parametrize("metric", ["top1", "inference_flops_ratio", "train_flops_ratio"])
@pytest.mark.parametrize("percent", [95, 98])
def test_tables_2_and_11_agree(metric: str, percent: int) -> None:
    first = value("2", "Top-KAST", f"{percent} fwd 90 bwd", percent, metric)
    assert first.value == value("11", "Top-KAST 1x", "bwd 90", percent, metric).value


def test_top_kast_training_flops() -> None:
    counted = value("2", "Top-KAST", "98 fwd 90 bwd", 98, "train_flops_ratio")
    assert counted.value == round((2 * 0.0488 + 0.1264) / 3, 2)
    assert "= 0.0747" in counted.source


@pytest.mark.parametrize(
    ("found", "printed"),
    [
        (("8", "AC/DC", "global", 98, "zero_weights_pct"), "49.8"),
        (("8", "AC/DC", "global", 95, "zero_weights_pct"), "22.0"),
        (("1", "RigL1x", "uniform", 90, "top1"), "72.0 ± 0.05†"),
        (("11", "Top-KAST 1x", "bwd 95", 98, "train_flops_ratio"), "0.06†"),
        (("13", "Dense", "MobileNetV1, DeepSparse", 0, "latency_ms_bs64_16cores"), "55.845"),
        (("14", "SparseVD", "", 80, "cross_entropy"), "\N{EN DASH}"),
        (("1", "WoodFisher", "", 80, "top1"), "unknown"),
    ],
)
def test_digits_of_the_paper(found: tuple[str, str, str, float, str], printed: str) -> None:
    assert paper_text(value(*found)) == printed


def test_a_wrong_key_is_named() -> None:
    assert paper_values(PaperRow("1", "AC/DC", "global", 0.95)) == {}
    with pytest.raises(ReportError, match="AC/DC"):
        paper_values(PaperRow("1", "ACDC", "", 0.9))
    with pytest.raises(ReportError, match="global"):
        paper_values(PaperRow("1", "AC/DC", "uniform", 0.9))
    with pytest.raises(ReportError, match="bwd 0, bwd 50, bwd 80"):
        paper_values(PaperRow("10", "Top-KAST", "", 0.9))
    with pytest.raises(ReportError, match="README"):
        paper_metrics(["15"])


def test_columns_name_metrics_that_there_are() -> None:
    there = paper_metrics(TABLES)
    assert {metric for column in COLUMNS.values() for metric in column.metrics} <= there


def test_table_14_dense_partners() -> None:
    def first(method: str, variant: str) -> str:
        there = paper_values(PaperRow("14", method, variant, 0.9))
        return next(metric for metric in COLUMNS["companion_top1"].metrics if metric in there)

    assert first("AC/DC", "global") == "dense_ft_top1"
    assert first("GMP", "") == "dense_top1"


def test_settings_name_every_model() -> None:
    assert paper_setting(["13"]) == "ResNet50 and MobileNetV1 on ImageNet"
    assert paper_setting(["1", "5"]) == "ResNet50 on ImageNet; WideResNet-28-10 on CIFAR-100"
