"""The models on Ray Serve: `serve run cds_service.engine_ray:build models=FOLDER names=chest-open`.

Each replica is one engine's process as `engine_process` is, with the same queue, order of deadlines and micro-batches;
Serve starts, watches, drains and counts them. What is asked names its weights: whichever replica it comes to loads them
from its folder if it has them not yet, so that no answer mixes versions while one takes over from another.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from cds_service.engine_versions import Versions
from cds_service.engine_wire import Asked, asked, encode

UNDER_WAY = 64
HUNG_S = 30.0


class Replica:
    """Answers one frame with one; of a request that names nothing of ours it says 400."""

    def __init__(self, models: str, names: tuple[str, ...]) -> None:
        self._versions = Versions(Path(models), names)
        self._threads = ThreadPoolExecutor(UNDER_WAY, "engine-call")

    async def __call__(self, request: Request) -> Response:
        try:
            message = asked.decode(await request.body())
        except (ValueError, TypeError):
            return Response(status_code=400)
        body = await asyncio.get_running_loop().run_in_executor(self._threads, self._said, message)
        return Response(body, media_type="application/msgpack")

    def check_health(self) -> None:
        """Serve replaces a replica for which this raises: one that hangs in native code, or whose thread ended."""
        if self._versions.busy_s > HUNG_S or not all(e.ready for e in self._versions.shipped.values()):
            raise RuntimeError("the engine hangs or has ended")

    def _said(self, message: Asked) -> bytes:
        return encode(self._versions.said(message))


def build(args: dict[str, str]) -> serve.Application:
    """The application for Serve's `import_path`; `names` are separated by commas; a configuration overrides it."""
    deployment = serve.deployment(
        Replica,
        num_replicas=int(args.get("replicas", "1")),
        max_ongoing_requests=UNDER_WAY,
        max_queued_requests=UNDER_WAY,
        health_check_period_s=2,
        health_check_timeout_s=10,
    )
    return deployment.bind(args["models"], tuple(args["names"].split(",")))
