"""The plans that the workflow writes are plans that the reports can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.outputs import kind_of
from study import model as studies
from study.columns import COLUMNS
from study.paper import paper_values
from study.plan import ReportError, read_plan

SCALES = sorted(path.stem for path in (studies.FOLDER / "scales").glob("*.yaml"))


@pytest.mark.parametrize("scale", SCALES)
def test_the_workflows_plan_is_understood(scale: str, tmp_path: Path) -> None:
    written = studies.load(scale).plan()
    (tmp_path / "plan.json").write_text(json.dumps(written), encoding="utf-8")
    plan = read_plan(tmp_path)
    assert set(plan.runs) == set(written["runs"])
    assert any(row.paper for experiment in plan.experiments for row in experiment.rows)
    for experiment in plan.experiments:
        assert kind_of(experiment)
        assert set(experiment.columns) <= set(COLUMNS)
        for row in experiment.all_rows:
            if row.paper:
                assert paper_values(row.paper), f"{experiment.id}: {row.paper}"


def test_a_plan_that_needs_an_undescribed_run_is_refused(study: Path, tmp_path: Path) -> None:
    plan = json.loads((study / "plan.json").read_text(encoding="utf-8"))
    name = next(row["runs"][0] for e in plan["experiments"] for row in e["rows"] if row["runs"])
    del plan["runs"][name]
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(ReportError, match=name):
        read_plan(tmp_path)


def test_a_key_that_is_not_there_is_named(study: Path, tmp_path: Path) -> None:
    plan = json.loads((study / "plan.json").read_text(encoding="utf-8"))
    del next(e["rows"] for e in plan["experiments"] if e["rows"])[0]["product"]
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(ReportError, match="product"):
        read_plan(tmp_path)
