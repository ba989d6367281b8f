"""A process that does nothing but decode: requests come in over a socket, tables or reasons go back.

`python -m data_pipeline.decode_child FD` is started by `sandbox.Sandbox`, which ends it when it goes beyond a limit.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from data_pipeline.analysis import Analysis, analyse
from data_pipeline.failures import DAMAGED, ERROR, OUT_OF_MEMORY, TOO_MANY_FRAMES, TOO_MANY_PIXELS
from data_pipeline.parts import WHOLE, plan_parts
from data_pipeline.recipe import NeuralSettings
from groundwork import media
from groundwork.errors import MediaError, TooLargeError, TooLongError

Tell = Callable[[dict[str, Any]], None]


def answer(request: dict[str, Any], tell: Tell) -> tuple[dict[str, Any], Analysis | None]:
    """Analyse one part of one video: the reply, and the measurements where there are any. Never raises.

    `tell` is called before decoding with the seconds of film that will be decoded.
    """
    path = request["path"]
    try:
        analysis, num_parts = _analyse(path, request, tell)
        return {"status": "ok", "num_parts": num_parts}, analysis
    except TooLargeError as error:
        return _failure(TOO_MANY_PIXELS, error.message), None
    except TooLongError as error:
        return _failure(TOO_MANY_FRAMES, error.message), None
    except MediaError as error:
        return _failure(DAMAGED, error.message), None
    except MemoryError:
        return _failure(OUT_OF_MEMORY, "the decoder was refused memory"), None
    except Exception as error:  # the row boundary: one odd file must not end the run
        return _failure(ERROR, f"{type(error).__name__}: {error}"), None


def _analyse(path: str, request: dict[str, Any], tell: Tell) -> tuple[Analysis, int]:
    header = media.probe(path, max_pixels=request["max_pixels"])
    parts = [WHOLE]
    if 0 < request["split_seconds"] < header.duration_seconds:
        parts = plan_parts(
            media.keyframe_seconds(path),
            duration_seconds=header.duration_seconds,
            fps=header.fps,
            split_seconds=request["split_seconds"],
        )
    part = parts[request["part"]]
    stop = header.duration_seconds if part.stop_seconds is None else part.stop_seconds
    tell({"status": "decoding", "seconds": max(0.0, stop - part.read_from_seconds)})
    analysis = analyse(
        path,
        header=header,
        part=part,
        max_pixels=request["max_pixels"],
        max_frames=request["max_frames"],
        neural=NeuralSettings.model_validate(request["neural"]),
    )
    return analysis, len(parts)


def _failure(reason: str, detail: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason, "detail": detail}


def _serve(connection: Connection) -> None:
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while True:
                requests.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone, or wants no more: leave even from the middle of a decode

    def tell(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    threading.Thread(target=receive, daemon=True).start()
    while True:
        reply, analysis = answer(json.loads(requests.get()), tell)
        tell(reply)
        if analysis is not None:
            table, sink = analysis.to_table(), pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            connection.send_bytes(sink.getvalue())


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
