"""A closed loop of callers against a running service: so many connections, each with one call under way.

A process of its own, so that the caller's work is not the service's:
    python benchmarks/load.py < plan.json > samples.json
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOOK_INSTANCE = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Plan:
    """url         the service's own address
    path        where every call goes
    bodies      taken in turn; HOOK_INSTANCE in them becomes a new one in each call
    callers     connections, each with one call under way
    seconds     how long; the last calls may take longer
    tokens      bearer tokens, each used once, and the end when they are; without any, none is sent
    pause_s     what a caller waits after an answer
    back_off_s  what it waits besides after a 429 or 503; a real one waits for Retry-After
    """

    url: str
    path: str
    bodies: list[str]
    callers: int
    seconds: float
    tokens: tuple[str, ...] = ()
    pause_s: float = 0.0
    back_off_s: float = 0.0


@dataclass(frozen=True)
class Sample:
    """One answer. `status` is 0 where the connection broke; `json` says whether the body was JSON and typed so.

    at  when the call was sent, by the machine's monotonic clock, which all its processes share; 0.0 where not noted
    """

    status: int
    seconds: float
    json: bool
    at: float = 0.0


class _Caller:
    def __init__(self, plan: Plan, tokens: Any) -> None:
        parts = urlsplit(plan.url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.plan, self.tokens = plan, tokens
        self.samples: list[Sample] = []
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, until: float, first: int) -> list[Sample]:
        number = first
        while time.perf_counter() < until:
            body = self.plan.bodies[number % len(self.plan.bodies)].replace(HOOK_INSTANCE, str(uuid.uuid4())).encode()
            number += self.plan.callers
            token = next(self.tokens, None)
            if self.plan.tokens and token is None:
                break
            sample = await self._call(body, token)
            self.samples.append(sample)
            pause_s = self.plan.pause_s + (self.plan.back_off_s if sample.status in (429, 503) else 0.0)
            if pause_s:
                await asyncio.sleep(pause_s)
        if self.connection is not None:
            self.connection[1].close()
        return self.samples

    async def _call(self, body: bytes, token: str | None) -> Sample:
        head = f"POST {self.plan.path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        if token is not None:
            head += f"Authorization: Bearer {token}\r\n"
        began = time.perf_counter()
        try:
            if self.connection is None:
                self.connection = await asyncio.open_connection(self.host, self.port)
            reader, writer = self.connection
            writer.write(head.encode() + b"\r\n" + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in answer[1:])}
            content = await reader.readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError, KeyError, ValueError):
            self.connection = None
            return Sample(0, time.perf_counter() - began, False, began)
        took = time.perf_counter() - began
        if headers.get("connection", "").lower() == "close":
            writer.close()
            self.connection = None
        typed = headers.get("content-type") == "application/json"
        return Sample(int(answer[0].split()[1]), took, typed and _is_json(content), began)


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


async def run(plan: Plan) -> list[Sample]:
    """Carry out a plan in this process."""
    until = time.perf_counter() + plan.seconds
    tokens = iter(plan.tokens)
    callers = [_Caller(plan, tokens) for _ in range(plan.callers)]
    found = await asyncio.gather(*(caller.run(until, n) for n, caller in enumerate(callers)))
    return [sample for samples in found for sample in samples]


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """Carry out a plan in a process of its own; `finish` waits for it."""
    process = subprocess.Popen([sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(plan)).encode())
    process.stdin.close()
    return process


def finish(process: subprocess.Popen[bytes]) -> list[Sample]:
    assert process.stdout is not None
    with process.stdout as out:
        samples = [Sample(*sample) for sample in json.loads(out.read())]
    process.wait()
    return samples


def quantile(samples: list[float], share: float) -> float:
    """The smallest value that `share` of the samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)] if ordered else float("nan")


if __name__ == "__main__":
    given = json.load(sys.stdin)
    found = asyncio.run(run(Plan(**given)))
    json.dump([(s.status, s.seconds, s.json, s.at) for s in found], sys.stdout)
