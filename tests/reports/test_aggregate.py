"""The tidy tables hold what the runs wrote, and nothing else."""

import json
import shutil
from pathlib import Path

import pandas as pd

from reports.source import Source, open_study


def test_one_row_a_run_product_and_which(source: Source) -> None:
    runs = source.tables.runs
    for name in source.study.runs:
        rows = runs[runs["run"] == name]
        path = source.folder / "runs" / name / "result.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["status"] == "diverged":
            assert len(rows) == 1
            assert (
                rows[["product", "which", "test_accuracy", "training_flops"]].isna().all(axis=None)
            )
            continue
        assert len(rows) == 2 * len(result["products"])
        for row in rows.itertuples():
            record = result["products"][row.product][row.which]
            assert row.test_accuracy == record["test_accuracy"]
            assert row.sparsity_achieved == record["certificate"]["achieved"]
            certificate = record["certificate"]
            assert row.certificate_holds
            assert row.sparsity_pruned == certificate["pruned"]
            assert row.dead_filters == certificate["dead_filters"]
            assert row.exempt.split() == certificate["exempt"]
            for key, value in (result["mask_changes"] or [{}])[-1].items():
                assert getattr(row, f"mask_change_{key}") == value
            assert (
                row.inference_ratio
                == record["inference_flops"] / result["flops"]["dense_inference"]
            )


def test_epochs_are_the_journal_without_events(source: Source) -> None:
    epochs, events = source.tables.epochs, source.tables.events
    for name in source.study.runs:
        path = source.folder / "runs" / name / "journal.jsonl"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        plain = [record for record in records if "event" not in record]
        mine = epochs[epochs["run"] == name]
        assert list(mine["val_accuracy"]) == [record["val_accuracy"] for record in plain]
        assert list(mine["nonzeros"]) == [sum(record["nonzeros"].values()) for record in plain]
        assert (events["run"] == name).sum() == len(records) - len(plain)


def test_only_runs_of_the_study_are_read(copy: Path, source: Source) -> None:
    extra = next((copy / "runs").iterdir())
    shutil.copytree(extra, copy / "runs" / "a-run-of-another-study")
    assert open_study(copy).tables == source.tables


def test_parquet_and_csv_hold_the_same(outputs: Path, source: Source) -> None:
    folder = outputs / "tables"
    for name in ("runs", "epochs", "events"):
        stored = pd.read_parquet(folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(stored, getattr(source.tables, name))
        text = pd.read_csv(folder / f"{name}.csv")
        assert list(text.columns) == list(stored.columns)
        assert list(text["run"]) == list(stored["run"])
    text = pd.read_csv(folder / "runs.csv")
    pd.testing.assert_series_equal(text["test_accuracy"], source.tables.runs["test_accuracy"])


def test_training_before_a_run_that_starts_from_it_costs_time_too(copy: Path) -> None:
    """Two dense epochs and two sparse ones of a network trained before, at twice the speed."""
    study = json.loads((copy / "study.json").read_text(encoding="utf-8"))
    (name, *_) = (run for run in study["runs"] if study["runs"][run]["config"]["method"] == "acdc")
    (dense, *_) = (
        run for run in study["runs"] if study["runs"][run]["config"]["method"] == "dense"
    )
    before = next(row for row in open_study(copy).tables.rows if row.run == name)
    study["runs"] = {dense: study["runs"].pop(dense), **study["runs"]}
    study["runs"][name]["parent"] = dense
    (copy / "study.json").write_text(json.dumps(study), encoding="utf-8")
    after = next(row for row in open_study(copy).tables.rows if row.run == name)
    assert (before.training_time, after.training_time) == (3.0, 7.0)
