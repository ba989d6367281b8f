"""The dashboard asks for what the service tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from serving.jobs.job import QueueFacts
from serving.metrics import exposition

DASHBOARD = Path(__file__).parents[2] / "platform" / "deploy" / "grafana" / "serving.json"


def test_every_metric_of_the_dashboard_is_exported_and_none_is_forgotten() -> None:
    text = exposition(QueueFacts(queued=0, in_progress=0), []).decode()
    families = {(family.name, family.type) for family in text_string_to_metric_families(text)}
    endings = {"counter": "_total", "histogram": "_bucket", "gauge": ""}
    exported = {name + endings[kind] for name, kind in families}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for target in panel["targets"] for name in re.findall(r"cog\w+", target["expr"])}
    assert asked == exported
