"""A round trip with whichever version of the official client is imported; run as a program, with the service's URL.

Prints one JSON document of what the client saw.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def story(url: str) -> dict[str, Any]:
    """Create, poll, download, list, remix, delete; then what the client makes of two refusals."""
    import openai

    client: Any = openai.OpenAI(api_key="any", base_url=f"{url}/v1")
    fields = {"num_frames": 9, "num_inference_steps": 2, "metadata": {"made": "by a test"}}
    video = client.videos.create_and_poll(prompt="a bunny", size="144x96", seconds="1", extra_body=fields)
    variants = ("video", "thumbnail", "spritesheet")
    files = [client.videos.download_content(video.id, variant=variant).read()[:8].hex() for variant in variants]
    remix = client.videos.poll(client.videos.remix(video.id, prompt="another bunny").id)
    seen = {
        "version": openai.__version__,
        "status": video.status,
        "metadata": video.model_extra["x"]["metadata"],
        "files": files,
        "newest": [found.id for found in client.videos.list(limit=2)][:2] == [remix.id, video.id],
        "remixed": [remix.status, remix.remixed_from_video_id == video.id],
        "deleted": client.videos.delete(video.id).deleted,
    }
    for name, call in (
        ("gone", lambda: client.videos.retrieve(video.id)),
        ("refused", lambda: client.videos.create(prompt="a bunny", size="1x1")),
    ):
        try:
            call()
        except openai.APIStatusError as error:
            seen[name] = [error.status_code, error.code]
    return seen


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(story(sys.argv[1])))
