"""The embedded Ray listens on loopback only, ends with its block, and a dead address is refused at once."""

from __future__ import annotations

import time

import psutil
import pytest

from groundwork.errors import RunError
from groundwork.ray_session import ray_session


def test_the_embedded_ray_listens_on_loopback_only_and_leaves_nothing_behind() -> None:
    import ray

    me = psutil.Process()
    before = {process.pid for process in me.children(recursive=True)}
    with ray_session():
        assert ray.cluster_resources()["CPU"] >= 8
        started = [process for process in me.children(recursive=True) if process.pid not in before]
        assert started
        open_to_all = [
            connection.laddr
            for process in started
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and not connection.laddr.ip.endswith("127.0.0.1")
        ]
        assert open_to_all == []
        with ray_session():  # a Ray that is connected already is used, and survives the inner block
            pass
        assert ray.is_initialized()
    assert not ray.is_initialized()
    deadline = time.monotonic() + 20
    while (left := [p for p in started if p.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def test_a_process_can_have_one_embedded_ray_after_another() -> None:
    import ray

    for _ in range(2):
        with ray_session():
            assert ray.get(ray.remote(lambda: 7).remote()) == 7


def test_a_dead_address_is_refused_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9"), ray_session("127.0.0.1:9"):
        pass
    assert time.monotonic() - started < 10
