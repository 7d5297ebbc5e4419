"""The parent run of a cell shows the mean over its seeds, and follows them."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.support import (
    active,
    assert_cell_of,
    query,
    seeds,
    shown,
    slug_of,
    store_uri,
    sync,
    tags,
    write_run,
)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def cell(one: Path, trained: dict[str, Path]) -> list[Path]:
    """Three seeds of a run, and no other run."""
    shutil.rmtree(one)
    return [write_run(trained["acdc"], one.parent, config) for config in seeds(trained["acdc"], 3)]


def test_the_seeds_lie_below_their_cell(runs: Path, trained: dict[str, Path]) -> None:
    more = [write_run(trained["acdc"], runs, config) for config in seeds(trained["acdc"], 2)]
    sync(runs)
    uri = store_uri(runs)
    cells, ids = active(uri, "cell"), active(uri, "run")
    assert set(cells) == {slug_of(folder).rpartition("_seed")[0] for folder in trained.values()}
    for folder in [*(runs / folder.name for folder in trained.values()), *more]:
        slug = slug_of(folder)
        parent = cells[slug.rpartition("_seed")[0]]
        assert tags(uri, ids[slug])["mlflow.parentRunId"] == parent
        for key in ("method", "sparsity", "model", "dataset", "scale"):
            assert tags(uri, parent)[key] == tags(uri, ids[slug])[key]
    text = "SELECT key FROM params WHERE run_uuid = :r"
    parent_keys = {key for (key,) in query(uri, text, r=parent)}
    assert parent_keys == {key for (key,) in query(uri, text, r=ids[slug])} - {"seed"}


def test_a_cell_shows_mean_and_deviation(cell: list[Path]) -> None:
    sync(cell[0].parent)
    uri = store_uri(cell[0].parent)
    assert_cell_of(uri, cell)
    results = [json.loads((folder / "result.json").read_text()) for folder in cell]
    (parent,) = active(uri, "cell").values()
    found = shown(uri, parent)
    for product in ("sparse", "dense"):
        for key in ("test_accuracy", "inference_flops"):
            values = [result["products"][product]["last"][key] for result in results]
            assert found[f"{product}_last/{key}_mean"] == pytest.approx(statistics.mean(values))
            assert found[f"{product}_last/{key}_std"] == pytest.approx(statistics.stdev(values))
    training = [result["flops"]["training"] for result in results]
    assert found["flops/training_mean"] == pytest.approx(statistics.mean(training))


def test_a_cell_follows_its_seeds(cell: list[Path]) -> None:
    runs, uri = cell[0].parent, store_uri(cell[0].parent)
    late = (cell[2] / "result.json").read_bytes()
    (cell[2] / "result.json").unlink()
    sync(runs)
    assert_cell_of(uri, cell[:2])
    (parent,) = active(uri, "cell").values()
    assert shown(uri, parent)["seeds/running"] == 1
    assert query(uri, "SELECT status FROM runs WHERE run_uuid = :r", r=parent) == [("RUNNING",)]
    (cell[2] / "result.json").write_bytes(late)
    sync(cell[2])  # the others count, though they are not named
    assert_cell_of(uri, cell)
    assert list(active(uri, "cell").values()) == [parent]
    assert shown(uri, parent)["seeds/running"] == 0
    assert query(uri, "SELECT status FROM runs WHERE run_uuid = :r", r=parent) == [("FINISHED",)]


def test_a_mean_that_no_longer_is_one_disappears(cell: list[Path]) -> None:
    runs, uri = cell[0].parent, store_uri(cell[0].parent)
    sync(runs)
    for folder in cell[1:]:
        edit(folder, status="diverged", diverged_at=1, products={})
    sync(runs)
    (parent,) = active(uri, "cell").values()
    found = shown(uri, parent)
    assert (found["sparse_last/n"], found["seeds/diverged"]) == (1, 2)
    assert "sparse_last/test_accuracy_std" not in found
    last = json.loads((cell[0] / "result.json").read_text())["products"]["sparse"]["last"]
    assert found["sparse_last/test_accuracy_mean"] == last["test_accuracy"]
    parents = {tags(uri, run)["mlflow.parentRunId"] for run in active(uri, "run").values()}
    assert parents == {parent}
    assert query(uri, "SELECT COUNT(*) FROM params WHERE run_uuid = :r", r=parent) > [(5,)]


def test_what_failed_diverged_or_is_refused_enters_no_mean(cell: list[Path]) -> None:
    runs, uri = cell[0].parent, store_uri(cell[0].parent)
    edit(cell[1], status="failed", products={}, error="gone", exit_status=3)
    result = json.loads((cell[2] / "result.json").read_text())
    layers = result["products"]["sparse"]["last"]["certificate"]["layers"]
    layers[0]["nonzeros"] = layers[0]["kept"] + 1
    edit(cell[2], products=result["products"])
    sync(runs)
    (parent,) = active(uri, "cell").values()
    found = shown(uri, parent)
    assert (found["seeds/finished"], found["seeds/failed"]) == (2, 1)
    assert (found["sparse_last/n"], found["sparse_last/refused"]) == (1, 1)
    assert (found["dense_last/n"], found["dense_last/refused"]) == (2, 0)
    refused = tags(uri, active(uri, "run")[slug_of(cell[2])])
    assert "mask keeps" in refused["refused.sparse"]
    assert "refused.dense" not in refused


def test_a_cell_that_nothing_has_happened_to_is_sent_once(cell: list[Path]) -> None:
    runs, uri = cell[0].parent, store_uri(cell[0].parent)
    for _ in range(3):
        sync(runs)
    (parent,) = active(uri, "cell").values()
    text = "SELECT key, COUNT(*) FROM metrics WHERE run_uuid = :r GROUP BY key"
    assert {count for _, count in query(uri, text, r=parent)} == {1}
