from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cosyvoice.engine.speech import Report

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"


@pytest.fixture
def names(make_service: Any) -> set[str]:
    """Names of all series that a server has."""
    metrics = make_service().service.metrics
    metrics.worked(Report(0, 24000, stage_seconds={"llm": 1.0}))
    return (
        {sample.name for family in metrics.registry.collect() for sample in family.samples}
        | {f"{family.name}_total" for family in metrics.registry.collect() if family.type == "counter"}
        | {f"{family.name}_bucket" for family in metrics.registry.collect() if family.type == "histogram"}
    )


def test_every_name_of_the_dashboard_is_a_metric(names: set[str]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    used = {name for expression in expressions for name in re.findall(r"cosyvoice_\w+", expression)}
    assert len(used) >= 12
    assert used <= names


def test_every_metric_begins_with_the_name_of_the_project(names: set[str]) -> None:
    assert all(name.startswith("cosyvoice_") for name in names)
