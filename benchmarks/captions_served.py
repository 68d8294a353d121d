"""Captioning by a server: how much of the time its slots are busy.

    python benchmarks/captions_served.py [--shards 96] [--assert]

A server of the OpenAI chat protocol on loopback answers each request after 200 ms and has 32 slots; requests
beyond them wait. `rushes recaption` captions made clips by it on Ray, with three caption actors. The share of
slots that are busy is taken between a tenth and nine tenths of all requests, from the server's own clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import Process, Queue
from pathlib import Path

LATENCY_S, SLOTS, PER_SHARD = 0.2, 32, 60
ROOT = Path(__file__).parents[1]
ANSWER = {
    "short": "a red ball",
    "dense": "A red ball moves from left to right over a meadow. The light is soft.",
    "subjects": ["red ball"],
    "actions": ["moves right"],
    "setting": "meadow",
    "shot_type": "wide",
    "lighting": "daylight",
    "style": "animation",
    "camera": "static",
}


async def _serve(told: Queue) -> None:
    """Answer requests for ever, and tell of each when its slot was taken and given back."""
    slots = asyncio.Semaphore(SLOTS)
    message = {"role": "assistant", "content": json.dumps(ANSWER)}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny"}
    answer = json.dumps(body | {"usage": usage, "choices": [choice]}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                length = int(request.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                async with slots:
                    begin = time.monotonic()
                    await asyncio.sleep(LATENCY_S)
                    told.put((begin, time.monotonic()))
                writer.write(head.encode() + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, limit=1 << 24)
    told.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _server(told: Queue) -> None:
    asyncio.run(_serve(told))


def make(folder: Path, num_shards: int) -> None:
    """Clips with two small previews each, through our own writers."""
    import cv2
    import made
    import numpy as np

    from manifests.layout import Dataset
    from manifests.tables import planned
    from manifests.views import View
    from manifests.writing.commit import Account, ShardCommit

    dataset = Dataset.create(str(folder))
    made.plan(dataset, num_shards * PER_SHARD)
    picture = cv2.imencode(".jpg", np.full((54, 96, 3), 120, np.uint8))[1].tobytes()
    for shard in planned.shards(dataset):
        segments, _ = planned.rows_of_shard(dataset, shard, 0)
        rows = [row | {"preview_times_s": [0.0, 0.5]} for row in made.clip_rows(shard, segments)]
        with ShardCommit(dataset, made.COLUMNS["preview"], shard, 0) as commit:
            for row in rows:
                for place in range(2):
                    commit.add(f"{row['clip_id']}.frame{place:02d}.jpg", picture)
            nothing: dict[str, list[dict]] = {"drops": [], "failures": []}
            commit.commit({"clips": rows, **nothing}, Account(len(rows), len(rows), 0, 0))
    View(columns={"preview": made.COLUMNS["preview"]}).save(dataset)


def busy(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Share of the slots that were busy, and requests a second, without the begin and the end."""
    spans = sorted(spans)
    first, last = spans[len(spans) // 10][0], spans[len(spans) * 9 // 10][0]
    held = sum(max(0.0, min(end, last) - max(begin, first)) for begin, end in spans)
    count = sum(first <= begin < last for begin, _ in spans)
    return held / (SLOTS * (last - first)), count / (last - first)


def main() -> int:
    """Make, caption, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=96)
    parser.add_argument("--assert", dest="asserts", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    scratch, told = Path(tempfile.mkdtemp(prefix="rushes-bench-")), Queue()
    process = Process(target=_server, args=(told,), daemon=True)
    process.start()
    try:
        make(scratch / "ds", given.shards)
        words = ["recaption", scratch / "ds", "--caption.captioner", "openai", "--caption.model", "tiny"]
        words += ["--caption.server", f"http://127.0.0.1:{told.get()}/v1", "--caption.concurrency", 32]
        words += ["--caption-on.max-actors", 3, "--text.encoder", "hashed-words"]
        command = [sys.executable, "-m", "rushes", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"}
        begin = time.monotonic()
        subprocess.run(
            command, check=True, env=environment, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        wall_s = time.monotonic() - begin
        spans = []
        while not told.empty():
            spans.append(told.get())
    finally:
        process.kill()
        shutil.rmtree(scratch)
    share, rate = busy(spans)
    most = SLOTS / LATENCY_S
    print(f"{len(spans)} requests in {wall_s:.0f} s with starting Ray")
    print(f"busy {share:.3f} of {SLOTS} slots (aim .9); {rate:.0f} requests a second of {most:.0f} possible")
    return int(given.asserts and share < 0.9)


if __name__ == "__main__":
    sys.exit(main())
