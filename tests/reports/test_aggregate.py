"""The tidy tables hold what the runs wrote, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from acdc.run.journal import read_journal
from reports.aggregate import aggregate, read_tables
from reports.outputs import Source
from study.model import ReportError, read_study


def test_one_row_a_run_product_and_which(source: Source) -> None:
    runs = source.tables.runs
    for name in source.plan.runs:
        rows = runs[runs["run"] == name]
        path = source.study / "runs" / name / "result.json"
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
    for name in source.plan.runs:
        records = list(read_journal(source.study / "runs" / name / "journal.jsonl"))
        plain = [record for record in records if "event" not in record]
        mine = epochs[epochs["run"] == name]
        assert list(mine["val_accuracy"]) == [record["val_accuracy"] for record in plain]
        assert list(mine["nonzeros"]) == [sum(record["nonzeros"].values()) for record in plain]
        assert (events["run"] == name).sum() == len(records) - len(plain)


def test_only_planned_runs_are_read(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    extra = next((copy / "runs").iterdir())
    shutil.copytree(extra, copy / "runs" / "a-run-of-another-study")
    plan = read_study(copy)
    assert set(aggregate(copy, plan).runs["run"]) == set(plan.runs)


def test_missing_result_is_named(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    plan = read_study(copy)
    victim = list(plan.runs)[2]
    (copy / "runs" / victim / "result.json").unlink()
    with pytest.raises(ReportError, match=victim):
        aggregate(copy, plan)


def test_parquet_and_csv_hold_the_same(outputs: Path, source: Source) -> None:
    stored = read_tables(outputs)
    pd.testing.assert_frame_equal(stored.runs, source.tables.runs)
    pd.testing.assert_frame_equal(stored.epochs, source.tables.epochs)
    text = pd.read_csv(outputs / "tables" / "runs.csv")
    assert list(text.columns) == list(stored.runs.columns)
    assert list(text["run"]) == list(stored.runs["run"])
    pd.testing.assert_series_equal(text["test_accuracy"], stored.runs["test_accuracy"])
