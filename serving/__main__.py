"""The command line of the service: run it here, print its Ray Serve config, list the shipped configurations."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import tyro
import yaml

from groundwork.commands import Command, Options, RayOptions, Recipes, leave, run_command_line
from groundwork.config import shipped_recipes
from groundwork.errors import UsageError
from serving.config import CONFIGS, ServingConfig
from serving.keys import new_key


class RunOptions(RayOptions):
    """Flags of `run`."""

    weights: str
    """Weights in the diffusers layout, any URI: RUN/weights."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for every network of this machine."""
    port: int = 8000
    """Port to listen at."""


class BuildOptions(Options):
    """Flags of `build`."""

    weights: str
    """Weights in the diffusers layout, any URI that the cluster reaches."""
    host: str = "127.0.0.1"
    """Address that the proxies listen at."""
    port: int = 8000
    """Port that the proxies listen at."""
    kuberay: bool = False
    """Print a RayService for 'kubectl apply' instead; its proxies listen on every address of their pods."""
    image: str | None = None
    """Container image with this package and Ray, for --kuberay."""


class KeyOptions(Options):
    """Flags of `key`."""

    name: tyro.conf.Positional[str]
    """Whose key it is: jobs belong to this name."""


def _run(options: RunOptions, config: ServingConfig) -> None:
    from serving.service import running

    with running(config, weights=options.weights, host=options.host, port=options.port, address=options.address) as url:
        print(f"Serving at {url}  (Ctrl-C stops)", flush=True)
        while True:
            time.sleep(3600)


def _build(options: BuildOptions, config: ServingConfig) -> dict[str, Any]:
    from serving.kuberay import ray_service
    from serving.service import serve_config

    if not options.kuberay:
        return serve_config(config, weights=options.weights, host=options.host, port=options.port)
    if options.image is None:
        raise UsageError("--kuberay needs --image: what the pods run.", "An image with this package and Ray.")
    document = serve_config(config, weights=options.weights, host="0.0.0.0", port=options.port)  # noqa: S104
    return ray_service(document, config, weights=options.weights, image=options.image)


def _key(options: KeyOptions) -> dict[str, str]:
    secret, digest = new_key()
    return {"name": options.name, "key": secret, "sha256": digest}


def _openapi(_: Options) -> dict[str, Any]:
    from serving.app import openapi_document

    return openapi_document()


def _configs(_: Options) -> dict[str, list[str]]:
    return {"configs": shipped_recipes(CONFIGS)}


class _Dumper(yaml.SafeDumper):
    """Text of several lines is written as such: a RayService carries a whole document in one field."""


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _lines)


def _yaml(document: dict[str, Any]) -> str:
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False)).rstrip()


def _key_text(made: dict[str, str]) -> str:
    return "\n".join(
        [
            f"Key of {made['name']}, shown this once:  {made['key']}",
            "Into the configuration, under api_keys:",
            f"  - {{name: {made['name']}, sha256: {made['sha256']}}}",
        ]
    )


_RECIPES = Recipes(model=ServingConfig, folder=CONFIGS)

COMMANDS = (
    Command(name="run", summary="Run the service until Ctrl-C.", options=RunOptions, run=_run, recipes=_RECIPES),
    Command(
        name="build",
        summary="Print the Ray Serve config for 'serve deploy' and KubeRay.",
        options=BuildOptions,
        run=_build,
        recipes=_RECIPES,
        text=_yaml,
    ),
    Command(
        name="key",
        summary="Make an API key; the configuration gets its hash alone.",
        options=KeyOptions,
        run=_key,
        text=_key_text,
    ),
    Command(
        name="openapi",
        summary="Print the OpenAPI document, docs/openapi.json.",
        options=Options,
        run=_openapi,
        text=lambda document: json.dumps(document, indent=2),
    ),
    Command(
        name="configs",
        summary="List the shipped configurations.",
        options=Options,
        run=_configs,
        text=lambda found: "\n".join(found["configs"]),
    ),
)


def main(argv: Sequence[str] | None = None, *, program: str = "python -m serving") -> int:
    """Run one command; returns the exit code."""
    return run_command_line(program, COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
