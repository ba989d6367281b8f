"""A Ray Serve application out of weights and a configuration: what `serve deploy` imports.

No `from __future__ import annotations` here: Ray Serve reads the builder's annotation to validate its arguments.
"""

import os
from pathlib import Path
from typing import Any

from cogvideox.ranks import Split
from groundwork.config import FrozenModel
from groundwork.errors import RunError
from groundwork.storage import open_storage
from serving.card import ModelCard
from serving.config import ElasticReplicas, Replicas, ServingConfig
from serving.desk import Rules
from serving.jobs.job import JobSettings
from serving.webhooks import check_secret

_HEALTH_CHECK_SECONDS = 2.0  # how soon a killed replica is noticed and replaced


class ServiceArguments(FrozenModel):
    """What `build_app` takes: the `args` of an application in a Ray Serve config."""

    weights: str
    """Weights in the diffusers layout, any URI."""
    config: ServingConfig = ServingConfig()


class Places(FrozenModel):
    """Where a service keeps what outlives it."""

    database: str
    results_uri: str

    @classmethod
    def of(cls, config: ServingConfig, *, weights: str) -> "Places":
        """Raises RunError where state_dir must be given."""
        storage = open_storage(weights)
        if config.database is not None and config.results is not None:
            return cls(database=config.database, results_uri=config.results)
        if config.state_dir is None and not storage.is_local:
            hint = "Give --state-dir, a folder on a local disk that survives a restart, or --database and --results."
            raise RunError("The job database needs a local folder, and the weights are elsewhere.", hint)
        state = Path(config.state_dir or Path(storage.root).parent / "serving").expanduser().absolute()
        database = config.database or str(state / "jobs.sqlite")
        return cls(database=database, results_uri=config.results or str(state / "results"))


def build_app(arguments: ServiceArguments) -> Any:
    """The Serve application; `import_path` of a Serve config. Raises WeightsError, RunError, ValueError."""
    from serving.decoder import Decoder
    from serving.denoiser import Denoiser
    from serving.ingress import Ingress
    from serving.jobs.deployment import Jobs
    from serving.text import Text

    config, weights = arguments.config, arguments.weights
    places, card = Places.of(config, weights=weights), offered_card(config, weights=weights)
    common = {"weights": weights, "results_uri": places.results_uri, "lease_seconds": config.lease_seconds}
    jobs = _bound(
        Jobs,
        config,
        config.jobs,
        places.database,
        results_uri=places.results_uri,
        max_losses=config.max_losses,
        slice_seconds=config.slice_seconds,
        retention_seconds=config.retention_hours * 3600,
        history_seconds=config.history_days * 86_400,
        webhook_secret_env=config.webhook_secret_env,
        private_addresses=config.allow_private_addresses,
    )
    text = _bound(Text, config, config.text, weights, threads=config.text.threads)
    denoiser = _bound(
        Denoiser,
        config,
        config.denoiser,
        jobs,
        text,
        threads=config.denoiser.threads,
        checkpoint_every_steps=config.checkpoint_every_steps,
        loras={name: absolute(uri) for name, uri in config.loras.items()},
        ranks=_ranks(config.denoiser),
        clear_queue_seconds=config.denoiser.clear_queue_seconds,
        trial=_trial(card),
        **common,
    )
    decoder = _bound(Decoder, config, config.decoder, jobs, threads=config.decoder.threads, **common)
    return _bound(
        Ingress,
        config,
        config.ingress,
        jobs,
        text,
        denoiser,
        decoder,
        card=card,
        results_uri=places.results_uri,
        keys=config.api_keys,
        rules=rules_of(config),
    )


def _trial(card: ModelCard) -> Any:
    """The smallest job on offer, to time a step with."""
    from serving.denoiser import Trial

    size, num_frames = min(card.sizes, key=lambda size: size.width * size.height), card.frame_counts()[0]
    settings = JobSettings(
        model=card.name,
        prompt="",
        negative_prompt="",
        num_frames=num_frames,
        height=size.height,
        width=size.width,
        fps=card.fps,
        steps=2,
        guidance_scale=card.guidance_scale,
        seed=0,
        seconds="",
    )
    guided = settings.guidance_scale != 1
    return Trial(settings=settings, tflop=card.tflop(size=size, num_frames=num_frames, guided=guided))


def rules_of(config: ServingConfig) -> Rules:
    """What the routes must know of the configuration. Raises RunError for a webhook secret that is missing or off."""
    name = config.webhook_secret_env
    if name is not None:
        if not os.environ.get(name):
            raise RunError(f"webhook_secret_env: the environment has no {name}.", "Set it where the service starts.")
        check_secret(os.environ[name])
    return Rules(
        limits=config.limits,
        upsampling=config.upsampling,
        webhooks=name is not None,
        private_addresses=config.allow_private_addresses,
        # A service that may scale to zero is ready without a denoiser.
        awaited=("denoise", "decode") if config.denoiser.min_replicas else ("decode",),
    )


def absolute(uri: str) -> str:
    """A local path made absolute: replicas have another working folder."""
    return uri if is_remote(uri) else open_storage(uri).root


def is_remote(uri: str) -> bool:
    """Whether it is an address and no path; told by its looks, so that a config can be made without a network."""
    return "://" in uri and not uri.startswith("file://")


def offered_card(config: ServingConfig, *, weights: str) -> ModelCard:
    """The model as it will be offered. Raises WeightsError, RunError for a model or sizes that cannot be offered."""
    from serving.model import read_card

    variant = read_card(weights)
    try:
        Split.of(config.denoiser.ranks).check(heads=variant.denoiser.num_heads)
    except ValueError as error:
        raise RunError(f"denoiser.{error}.", "Change denoiser.ranks.") from error
    for name, uri in config.loras.items():
        if not open_storage(uri).exists(""):
            raise RunError(f"There is no adapter {name!r} at {uri}.", "Give the file or folder that training wrote.")
    try:
        return ModelCard.of(
            variant,
            sizes=config.sizes,
            steps=config.num_inference_steps,
            max_steps=config.max_inference_steps,
            adapters=tuple(config.loras),
            enhances_prompts=config.upsampling is not None,
        )
    except ValueError as error:
        raise RunError(f"The configuration offers what {variant.name} cannot make: {error}", "Change sizes.") from error


def _bound(
    deployment: Any, config: ServingConfig, replicas: Replicas | ElasticReplicas, *args: Any, **kwargs: Any
) -> Any:
    """A deployment with its share of the cluster and its constructor's arguments."""
    return deployment.options(
        **_how_many(replicas),
        **resources(replicas),
        graceful_shutdown_timeout_s=config.drain_seconds,
        health_check_period_s=_HEALTH_CHECK_SECONDS,
    ).bind(*args, **kwargs)


def resources(replicas: Replicas | ElasticReplicas) -> dict[str, Any]:
    """What one replica reserves; with ranks all on one machine, where they exchange much."""
    if isinstance(replicas, Replicas) or replicas.ranks == 1:
        return {"ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus}}
    bundles = _ranks(replicas).bundles
    return {
        "ray_actor_options": {"num_cpus": bundles[0]["CPU"]},
        "placement_group_bundles": bundles,
        "placement_group_strategy": "STRICT_PACK",
    }


def _ranks(replicas: ElasticReplicas) -> Any:
    from serving.ranks import RankShares

    return RankShares(Split.of(replicas.ranks), num_cpus=replicas.num_cpus, num_gpus=replicas.num_gpus)


def _how_many(replicas: Replicas | ElasticReplicas) -> dict[str, Any]:
    if isinstance(replicas, Replicas):
        return {"num_replicas": replicas.replicas}
    if replicas.min_replicas == replicas.max_replicas:
        return {"num_replicas": replicas.min_replicas}
    scaling = {
        "min_replicas": replicas.min_replicas,
        "max_replicas": replicas.max_replicas,
        "metrics_interval_s": 2.0,
        "look_back_period_s": 5.0,
        "upscale_delay_s": 5.0,
        "downscale_delay_s": replicas.clear_queue_seconds,
        "policy": {
            "policy_function": "serving.autoscaling:FollowTheWork",
        },
    }
    return {"num_replicas": None, "autoscaling_config": scaling}
