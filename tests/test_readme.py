"""What the README promises: its example works, its commands exist, its numbers are real."""

import csv
import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

import baselines
from acdc.config.run import parse_run
from acdc.methods.registry import get_method, method_names
from study.schema import RowSpec
from tests.support import Silent, tiny_config, train

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "results" / "reference"


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert match, f"the README has no {language} block"
    return match.group(1)


@pytest.fixture
def at_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the README's method where a user would, and return its name."""
    source = block("python")
    path = re.match(r"# baselines/(\w+)\.py\n", source)
    assert path, "the example names its file in its first line"
    assert len(source.splitlines()) <= 40
    (tmp_path / f"{path.group(1)}.py").write_text(source)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    monkeypatch.setattr(baselines.__spec__, "submodule_search_locations", [*baselines.__path__])
    return path.group(1)


def test_example_trains(at_init: str, tmp_path: Path) -> None:
    assert at_init in method_names()
    assert get_method(at_init).label == "At init"
    like = tiny_config("one_shot", sparsity=0.8).model_dump()
    config = parse_run({**like, "method": at_init, "settings": {}})
    result = train(config, tmp_path / "runs", Silent())
    last = result["products"]["sparse"]["last"]
    assert last["certificate"]["achieved"] >= 0.8 - 1e-4
    assert last["test_accuracy"] > 0.3
    assert result["flops"]["training"] < 0.5 * result["flops"]["dense_training"]


def test_yaml_line_is_a_row(at_init: str) -> None:
    (row,) = yaml.safe_load(block("yaml"))
    assert RowSpec.model_validate(row).method == at_init


def test_targets_and_links_exist() -> None:
    targets = set(re.findall(r"\bmake (?:SCALE=\w+ )?([a-z]+)\b", README)) - {"it"}
    listed = subprocess.run(
        ["make", "-pRrq", "-C", str(ROOT), "help"], capture_output=True, text=True
    ).stdout
    known = set(re.findall(r"^([a-z]+):", listed, flags=re.MULTILINE))
    assert {"reproduce", "test", "quick"} <= targets
    assert targets <= known
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", README):
        assert (ROOT / link).exists(), link


SPARSITIES = (80, 90, 95, 98)
AT_90 = {
    "inference FLOPs": "inference_ratio",
    "training FLOPs": "training_ratio",
    "measured time": "time_ratio",
}


@pytest.mark.parametrize(("page", "scale"), [("README.md", "laptop"), ("docs/results.md", "smoke")])
def test_table_is_that_of_the_committed_run(page: str, scale: str) -> None:
    rows: dict[tuple[str, float], dict[str, str]] = {}
    with (REFERENCE / scale / "tables" / "overview.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["label"], float(row["sparsity_requested_pct"])] = row
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| method | 80 % | 90 % |"))
    keys = [AT_90[name] for name in lines[first].strip("| ").split(" | ")[5:]]
    table = lines[first + 2 :][: lines[first:].index("") - 2]
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert {method for method, *_ in printed} == {label for label, _ in rows}
    for method, *cells in printed:
        dense = method == "Dense"
        at90 = rows[method, 0 if dense else 90]
        for cell, key in zip(cells[4:], keys, strict=True):
            expected = float(at90[f"{key}_mean"] or 1)  # dense training takes no other time
            assert float(cell) == pytest.approx(expected, abs=0.005001), method
        for cell, sparsity in zip(cells[:4], (0,) if dense else SPARSITIES, strict=False):
            row = rows[method, sparsity]
            expected = f"{float(row['top1_pct_mean']):.1f}"
            if row["n"] != "1":
                expected += f" ± {float(row['top1_pct_std']):.1f}"
            assert cell == expected, f"{method} at {sparsity} %"


def test_provenance_of_the_committed_run() -> None:
    for origin in json.loads((REFERENCE / "laptop" / "provenance.json").read_text()):
        assert re.fullmatch(r"[0-9a-f]{40}", origin["git"]["revision"])
        assert origin["git"]["revision"][:12] in README
        assert origin["git"]["clean"] is True
        assert origin["hardware"]["processor"] in README


@pytest.mark.parametrize("scale", ["laptop", "smoke"])
def test_claims_are_those_of_the_committed_run(scale: str) -> None:
    with (REFERENCE / scale / "tables" / "claims.csv").open(newline="") as file:
        claims = list(csv.DictReader(file))
    (header,) = re.findall(r"\| scale \| seeds \| (.*) \|\n", README)
    (line,) = re.findall(rf"\| \[{scale}\]\(.*claims.csv\) \| (\d) \| (.*) \|\n", README)
    assert int(line[0]) == max(int(claim["n"] or 0) for claim in claims)
    counts = Counter(claim["verdict"] for claim in claims)
    printed = dict(zip(header.split(" | "), map(int, line[1].split(" | ")), strict=True))
    assert printed == counts
    assert counts.total() == int(re.findall(r"claims: (\d+) statements", README)[0])
