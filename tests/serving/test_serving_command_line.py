"""The command line: what is wrong is said before anything starts, and `build` prints what Ray Serve takes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import yaml

from serving.__main__ import main
from serving.config import ElasticReplicas


def test_a_port_in_use_is_named_before_anything_starts(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["run", "smoke", "--weights", str(weights), "--port", port]) == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in capfd.readouterr().err
    assert not (weights.parent / "serving").exists()


def test_missing_or_broken_weights_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "smoke", "--weights", str(tmp_path / "nowhere")]) == 1
    assert "no weights at" in capfd.readouterr().err
    assert main(["run", "smoke", "--weights", str(tmp_path)]) == 1
    assert "transformer/config.json" in capfd.readouterr().err


def test_sizes_the_model_cannot_make_are_named(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "wide.yaml"
    config.write_text("sizes: [150x96]\n")
    assert main(["run", str(config), "--weights", str(weights)]) == 1
    assert "multiple of 16" in capfd.readouterr().err


def test_ranks_that_the_model_cannot_be_split_into_are_named(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "ranks.yaml"
    config.write_text("denoiser: {ranks: 4}\n")
    assert main(["run", str(config), "--weights", str(weights)]) == 1
    assert "3 attention heads cannot be dealt out" in capfd.readouterr().err
    config.write_text("denoiser: {num_gpus: 2}\n")
    assert main(["run", str(config), "--weights", str(weights)]) == 2
    assert "for more give ranks" in capfd.readouterr().err


def test_a_replica_of_ranks_reserves_a_bundle_for_each_on_one_machine() -> None:
    from serving.graph import resources

    alone = resources(ElasticReplicas(num_cpus=2, num_gpus=1))
    assert alone == {"ray_actor_options": {"num_cpus": 2, "num_gpus": 1}}
    spread = resources(ElasticReplicas(ranks=2, num_cpus=2, num_gpus=1))
    assert spread["placement_group_bundles"] == [{"CPU": 0.1}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
    assert (spread["placement_group_strategy"], spread["ray_actor_options"]) == ("STRICT_PACK", {"num_cpus": 0.1})


def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "typo.yaml"
    config.write_text("lease_second: 3\n")
    assert main(["run", str(config), "--weights", "x"]) == 2
    assert "did you mean 'lease_seconds'" in capfd.readouterr().err


def test_build_prints_a_config_that_ray_serve_validates_and_builds(
    weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.schema import ServeDeploySchema

    from serving.graph import build_app

    assert main(["build", "toy", "--weights", str(weights), "--port", "8123", "--lease-seconds", "7"]) == 0
    document = yaml.safe_load(capfd.readouterr().out)
    schema = ServeDeploySchema.model_validate(document)
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8123)
    application = schema.applications[0]
    assert application.import_path == "serving.graph:build_app"
    assert application.args["config"]["lease_seconds"] == 7
    built = call_user_app_builder_with_args_if_necessary(build_app, application.args)
    assert built._bound_deployment.name == "Ingress"


_ON_KUBERNETES = ["--kuberay", "--image", "registry/cvx:1", "--weights", "s3://models/5b", "--results", "s3://jobs"]


def test_a_ray_service_carries_the_same_serve_config(capfd: pytest.CaptureFixture[str]) -> None:
    words = [*_ON_KUBERNETES, "--database", "postgresql://cvx@db/jobs", "--drain-seconds", "75"]
    words += ["--denoiser.ranks", "2", "--denoiser.num-gpus", "1"]
    words += ["--denoiser.min-replicas", "0", "--denoiser.max-replicas", "3"]
    assert main(["build", "toy", *words]) == 0
    manifest = yaml.safe_load(capfd.readouterr().out)
    cluster = manifest["spec"]["rayClusterConfig"]
    document = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    assert document["applications"][0]["args"]["config"]["denoiser"]["max_replicas"] == 3
    assert document["http_options"]["host"] == "0.0.0.0"
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert (groups["denoisers"]["minReplicas"], groups["denoisers"]["maxReplicas"]) == (0, 3)
    pod = groups["denoisers"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["terminationGracePeriodSeconds"] > 75


def test_a_ray_service_keeps_nothing_in_a_pod(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "toy", *_ON_KUBERNETES]) == 1
    assert "must outlive its pod" in capfd.readouterr().err


def test_the_openapi_document_in_docs_is_current(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi"]) == 0
    written = Path(__file__).parents[2] / "docs" / "openapi.json"
    hint = "write it anew: python -m serving openapi > docs/openapi.json"
    assert json.loads(written.read_text()) == json.loads(capfd.readouterr().out), hint


def test_configs_are_listed_as_json_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"configs": ["smoke", "toy"]}
