"""cluster.yaml is one that `ray up` accepts, and its start commands keep the promises of the house."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def rays_own_schema() -> dict[str, Any]:
    import ray.autoscaler

    loaded: dict[str, Any] = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    return loaded


def test_rays_own_schema_accepts_it(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, rays_own_schema())


def test_rays_own_schema_refuses_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_wokers": 3}, rays_own_schema())


def test_rays_own_preparation_accepts_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_every_start_command_sets_the_source_root_and_asks_for_the_token(cluster: dict[str, Any]) -> None:
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert len(commands) == 2
    for command in commands:
        assert "PYTHONPATH=platform" in command
        assert "RAY_AUTH_MODE=token" in command
        assert "ray stop" not in command


def test_the_dashboard_is_not_open_to_the_network(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in " ".join(cluster["head_start_ray_commands"])
