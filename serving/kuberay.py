"""A KubeRay RayService around the Ray Serve config: head, workers, and what a pod needs to drain in peace."""

from __future__ import annotations

import math
from typing import Any

import ray
import yaml

from groundwork.errors import RunError
from serving.config import ServingConfig
from serving.graph import is_remote

_SECRETS = "cogvideox-serving"  # the Secret with PGPASSWORD and the webhooks' secret
_STOP_SECONDS = 30  # beyond the drain: Serve's own way down
_OTHERS_CPUS = 2.0  # the proxy and Ray's own agents on a worker


def ray_service(document: dict[str, Any], config: ServingConfig, *, weights: str, image: str) -> dict[str, Any]:
    """The manifest for `kubectl apply`: RayService of ray.io/v1, with `document` as its serveConfigV2.

    A new config makes a second cluster, which shares the database with the old one until that has drained.
    Raises RunError where something would lie in a pod and go with it.
    """
    _refuse_what_goes_with_a_pod(config, weights=weights)
    served = document | {"proxy_location": "EveryNode"}
    port = document["http_options"]["port"]
    head = _pod("ray-head", config, image=image, port=port, cpus=2, gpus=0)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "cogvideox"},
        "spec": {
            "serveConfigV2": yaml.safe_dump(served, sort_keys=False),
            "rayClusterDeletionDelaySeconds": math.ceil(config.drain_seconds) + _STOP_SECONDS,
            "rayClusterConfig": {
                "rayVersion": ray.__version__,
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": True,
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
                "workerGroupSpecs": _groups(config, image=image, port=port),
            },
        },
    }


def _refuse_what_goes_with_a_pod(config: ServingConfig, *, weights: str) -> None:
    if config.database_is_file:
        hint = "Give --database postgresql://USER@HOST/NAME; the password comes from the Secret."
        raise RunError("On Kubernetes the job database must outlive its pod, and a SQLite file does not.", hint)
    for name, uri in (("results", config.results), ("weights", weights)):
        if uri is None or not is_remote(uri):
            raise RunError(f"--{name}: on Kubernetes this must be an address that every pod reaches.", "Like s3://…")


def _groups(config: ServingConfig, *, image: str, port: int) -> list[dict[str, Any]]:
    """One group for all that needs no GPU, and one whose pods hold a denoiser each where it needs any."""
    denoiser, elastic = config.denoiser, config.denoiser.num_gpus > 0
    parts = [config.ingress, config.jobs, config.text, config.decoder]
    cpus = sum(part.num_cpus * part.replicas for part in parts) + _OTHERS_CPUS
    gpus = sum(part.num_gpus * part.replicas for part in parts)
    if not elastic:
        cpus += denoiser.replica_cpus * denoiser.max_replicas
    groups = [_group("base", config, image=image, port=port, cpus=cpus, gpus=gpus, fewest=1, most=2)]
    if elastic:
        share = min(1.0, denoiser.replica_gpus)
        fewest, most = (math.ceil(count * share) for count in (denoiser.min_replicas, denoiser.max_replicas))
        cpus = denoiser.replica_cpus + _OTHERS_CPUS
        size: dict[str, Any] = {"cpus": cpus, "gpus": denoiser.replica_gpus, "fewest": fewest, "most": most}
        groups.append(_group("denoisers", config, image=image, port=port, **size))
    return groups


def _group(
    name: str, config: ServingConfig, *, image: str, port: int, cpus: float, gpus: float, fewest: int, most: int
) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": fewest,
        "minReplicas": fewest,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": _pod("ray-worker", config, image=image, port=port, cpus=math.ceil(cpus), gpus=math.ceil(gpus)),
    }


def _pod(name: str, config: ServingConfig, *, image: str, port: int, cpus: int, gpus: int) -> dict[str, Any]:
    # Memory is the cluster's own matter: weights differ by a factor of a thousand. Add it where it matters.
    limits: dict[str, Any] = {"cpu": str(cpus)} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "resources": {"requests": dict(limits), "limits": limits},
        "env": [_secret(variable) for variable in ("PGPASSWORD", config.webhook_secret_env) if variable],
    }
    if name == "ray-worker":
        container["ports"] = [{"name": "serve", "containerPort": port}]
    stop = math.ceil(config.drain_seconds) + _STOP_SECONDS
    return {"spec": {"terminationGracePeriodSeconds": stop, "containers": [container]}}


def _secret(variable: str) -> dict[str, Any]:
    reference = {"name": _SECRETS, "key": variable, "optional": variable == "PGPASSWORD"}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}
