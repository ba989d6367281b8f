"""Trains on a cluster of two nodes that loses one and gets another, beside a run that nothing happens to.

    python -m tests.benchmarks.resize_training --engine canonical
    python -m tests.benchmarks.resize_training --engine fsdp --notice 25

Two workers, one after the node is gone, two again, and up to `--count` as more nodes come. Prints JSON: which steps
each number of workers did, and whether losses and weights equal those of an undisturbed run of two. `--notice`: the
node's end is announced so many seconds before. Ends with 1 where a step is missing or losses differ by more than 0.1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from groundwork.ray_session import prepare_environment, ray_session
from groundwork.storage import open_storage
from tests.benchmarks.training_runs import Run, losses, make_dataset, recipe
from training.metrics import read_metrics


class Nodes:
    """A head without workers' CPUs and nodes of one CPU each. Nodes are made in the main thread: they end with it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self._cluster.gcs_address

    def add(self) -> Any:
        """One node more."""
        return self._cluster.add_node(num_cpus=1)

    def remove(self, node: Any) -> None:
        """As if its plug were pulled."""
        self._cluster.remove_node(node, allow_graceful=False)

    def announce(self, node: Any, *, seconds: float) -> None:
        """Tell Ray that the node will be taken away after so many seconds."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.core.generated import autoscaler_pb2

        client = GcsClient(address=self.address)
        reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        deadline = int((time.time() + seconds) * 1000)
        accepted, why = client.drain_node(node.node_id, reason, "taken away", deadline)
        assert accepted, why

    def shutdown(self) -> None:
        self._cluster.shutdown()


def resized(run: Run, nodes: Nodes, doomed: Any, *, at: int, notice: float, count: int) -> dict[str, Any]:
    """Take the node away at a step, give others when fewer workers have gone on; returns what happened when."""
    run.wait_for(lambda: run.progress().get("step", 0) >= at)
    announced = run.progress()["step"]
    if notice:
        nodes.announce(doomed, seconds=notice)
        time.sleep(notice)
    gone, began = run.progress()["step"], time.monotonic()
    nodes.remove(doomed)
    run.wait_for(partial(_are_at_work, run, workers=1))
    seconds, firsts = {"2 to 1": round(time.monotonic() - began, 1)}, [run.progress()["first_step"]]
    for before in range(1, count):
        run.wait_for(partial(_has_saved, run, workers=before))
        began = time.monotonic()
        nodes.add()
        run.wait_for(partial(_are_at_work, run, workers=before + 1))
        seconds[f"{before} to {before + 1}"] = round(time.monotonic() - began, 1)
        firsts.append(run.progress()["first_step"])
    return {"announced": announced, "gone": gone, "first_steps": firsts, "seconds": seconds}


def _has_saved(run: Run, *, workers: int) -> bool:
    """Whether the newest durable step is one of so many workers."""
    rows = read_metrics(open_storage(run.out)) if open_storage(run.out).exists("metrics.parquet") else []
    return bool(rows) and rows[-1].workers == workers


def _are_at_work(run: Run, *, workers: int) -> bool:
    return run.progress().get("workers") == workers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="canonical")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every-steps", type=int, default=20)
    parser.add_argument("--at", type=int, default=50, help="step at which the node's end comes, or is announced")
    parser.add_argument("--count", type=int, default=2, help="workers that it comes to in the end")
    parser.add_argument("--notice", type=float, default=0.0)
    options = parser.parse_args()
    # A node of one CPU holds one worker.
    elastic = {"count": options.count, "at_least": 1, "resize_seconds": 8, "cpus": 1.0}
    asked = recipe(steps=options.steps, every_steps=options.every_steps, engine=options.engine, **elastic)
    os.environ |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
    with tempfile.TemporaryDirectory(prefix="cvx-resize-") as folder:
        dataset, plain, out = make_dataset(Path(folder) / "dataset"), Path(folder) / "plain", Path(folder) / "resized"
        prepare_environment("a cluster")
        nodes = Nodes()
        doomed = [nodes.add(), nodes.add()][1]
        with ray_session(nodes.address):
            expected = Run(asked, dataset=dataset, out=plain, address=nodes.address).summary()
            run = Run(asked, dataset=dataset, out=out, address=nodes.address)
            found = resized(run, nodes, doomed, at=options.at, notice=options.notice, count=options.count)
            got = run.summary()
        nodes.shutdown()
        rows, before = read_metrics(open_storage(out)), read_metrics(open_storage(plain))
        apart = max(abs(row.loss - other.loss) / other.loss for row, other in zip(rows, before, strict=True))
        runs = [(workers, [row.step for row in some]) for workers, some in groupby(rows, lambda row: row.workers)]
        found |= {
            "engine": options.engine,
            "workers": [{"workers": workers, "steps": [steps[0], steps[-1]]} for workers, steps in runs],
            "losses_equal": losses(out) == losses(plain),
            "largest_difference_of_a_loss": apart,
            "weights_equal": got["weights_sha256"] == expected["weights_sha256"],
        }
        print(json.dumps(found))
    return 0 if len(rows) == options.steps and apart < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
