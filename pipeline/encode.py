"""The `latent` column: every kept clip at training size through the spacetime VAE, as posterior mean and log-variance.

Clips are streamed: frames go into the encoder as they are decoded, so memory does not grow with a clip's length. Encoding is in fp32, storage in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
import torch
from safetensors.torch import save

from manifests import queries
from manifests.commit import Account, ShardCommit
from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from media import Frame, MediaError, Probe, VideoReader
from media.reader import EPSILON_S
from pipeline.blame import blame
from pipeline.config import EncodeConfig, fingerprinted
from pipeline.sources import facts_of
from pipeline.stage import Journal
from vae import DEFAULT_WEIGHTS, load_vae, weights_digest
from vae.clips import to_video

CODE_VERSION = 1
_PUSH_FRAMES = 32
SPARSE_SHARE = 0.3  # below it, jumping to the clips costs less than reading past them


class ChannelStats:
    """Running mean and variance of each latent channel, mergeable across shards (Chan et al. 1979)."""

    def __init__(self, channels: int) -> None:
        self.count, self.mean, self.m2 = 0, np.zeros(channels), np.zeros(channels)

    def add(self, latent: torch.Tensor) -> None:
        """latent: [C, t, h, w]."""
        flat = latent.flatten(1).double().numpy()
        count, mean = flat.shape[1], flat.mean(1)
        m2 = ((flat - mean[:, None]) ** 2).sum(1)
        total, delta = self.count + count, mean - self.mean
        self.mean = self.mean + delta * count / total
        self.m2 = self.m2 + m2 + delta**2 * self.count * count / total
        self.count = total

    def to_dict(self) -> dict:
        return {"count": self.count, "mean": self.mean.tolist(), "m2": self.m2.tolist()}


class ClipRouter:
    """Frames of each of a source's clips, which are in order and apart.

    Where the clips are a small part of a source, decord jumps to each. Else the source is read once, in order, and its parts handed out: that is
    faster than jumping, and memory stays small.
    """

    def __init__(self, facts: Probe, max_pixels: int | None, clips: list[dict]) -> None:
        self.clips = clips
        span_s = clips[-1]["end_s"] - clips[0]["start_s"]
        is_sparse = sum(clip["end_s"] - clip["start_s"] for clip in clips) < SPARSE_SHARE * span_s
        self.reader = VideoReader(facts, max_pixels, decoder=None if is_sparse else "pyav")
        self._jumps = self.reader.decoder != "pyav"
        self._stream: Iterator[Frame] | None = None
        self._ahead: Frame | None = None
        self.problem: MediaError | None = None

    def _advance(self) -> None:
        """Fetch the next frame. An error ends the stream; it concerns the clips that lack frames for it, not the one that is complete."""
        assert self._stream is not None
        self._ahead = None
        try:
            self._ahead = next(self._stream, None)
        except MediaError as error:
            self.problem = error

    def frames(self, clip: dict) -> Iterator[Frame]:
        """Frames of one clip. Ask for the clips in order."""
        if self._jumps:
            yield from self.reader.frames() if clip["kind"] == "image" else self.reader.frames(clip["start_s"], clip["end_s"])
            return
        if self._stream is None:
            self._stream = self.reader.frames(self.clips[0]["start_s"], self.clips[-1]["end_s"])
            self._advance()
        while self._ahead is not None and self._ahead.time_s < clip["end_s"] - EPSILON_S:
            frame = self._ahead
            if frame.time_s >= clip["start_s"] - EPSILON_S:
                yield frame
            self._advance()


class Encode:
    """Stage `latent`: one member per clip, `<clip>.latent.safetensors`; table latents; channel statistics in the commit record."""

    name = "latent"

    def __init__(self, config: EncodeConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        self.digest = weights_digest(config.vae or DEFAULT_WEIGHTS)
        self.column = Column(self.name, fingerprint(self.name, CODE_VERSION, fingerprinted(config), {"preview": preview.fingerprint}, self.digest))

    def setup(self) -> None:
        torch.set_num_threads(1)  # one thread an actor; and results do not depend on the machine's cores
        folder = self.config.vae or DEFAULT_WEIGHTS
        if weights_digest(folder) != self.digest:
            raise UsageError(str(folder), "holds other weights here than where the run was started", "Give every node the same weights.")
        self.vae = load_vae(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vae.to(self.device)

    def process(self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]) -> Account:
        clips = queries.rows_of_shard(dataset, "clips", self.preview, shard)
        _, sources = queries.plan_rows(dataset, shard, generation)
        rows: list[dict] = []
        failures: list[dict] = []
        stats = ChannelStats(self.vae.config.latent_channels)
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            for source_id, group in groupby(clips, key=lambda clip: clip["source_id"]):
                own = list(group)
                try:
                    facts = facts_of(sources[source_id])
                except MediaError as error:
                    failures += [self._failure(clip, shard, error.reason, error.message) for clip in own]
                    continue
                alive = [clip for clip in own if not journal.poison(clip["clip_id"])]
                failures += [self._failure(clip, shard, "poison", journal.poison(clip["clip_id"]) or "") for clip in own if clip not in alive]
                if not alive:
                    continue
                router = ClipRouter(facts, self.config.max_pixels, alive)
                for clip in alive:
                    with journal.item(clip["clip_id"], self.config.item_limit_s, self.config.item_limit_bytes):
                        try:
                            rows.append(self._encode(clip, router.frames(clip), shard, commit, stats))
                        except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
                            failures.append(self._failure(clip, shard, *blame(router.problem or error)))
                    progress(f"{len(rows) + len(failures)}/{len(clips)} clips")
            account = Account(len(clips), len(rows), 0, len(failures))
            commit.commit({"latents": rows, "drops": [], "failures": failures}, account, stats.to_dict())
        return account

    def _encode(self, clip: dict, frames: Iterator[Frame], shard: int, commit: ShardCommit, stats: ChannelStats) -> dict:
        """Stream one clip through the VAE and add its latent to the tar."""
        stream, pieces, batch = self.vae.stream(), [], []
        size = (0, 0)
        num_seen, num_kept, slot, last_s = 0, 0, -1, 0.0
        for frame in frames:
            num_seen += 1
            if self.config.max_fps is not None:
                current = int((frame.time_s - clip["start_s"]) * self.config.max_fps + 1e-3)
                if current <= slot:
                    continue
                slot = current
            size, last_s, num_kept = frame.rgb.shape[:2], frame.time_s, num_kept + 1
            batch.append(frame.rgb)
            if len(batch) == _PUSH_FRAMES:
                pieces += stream.push(self._tensor(batch))
                batch = []
        if num_seen != clip["num_frames"]:
            raise MediaError(
                "frame_count_differs", f"{clip['uri']} gave {num_seen} frames of clip {clip['clip_id']}, curation saw {clip['num_frames']}"
            )
        if batch:
            pieces += stream.push(self._tensor(batch))
        pieces += stream.flush()
        mean, logvar = (torch.cat([piece[index] for piece in pieces], dim=1).cpu() for index in (0, 1))
        stats.add(mean)
        commit.add(
            f"{clip['clip_id']}.latent.safetensors",
            save({"mean": mean.to(torch.bfloat16).contiguous(), "logvar": logvar.to(torch.bfloat16).contiguous()}),
        )
        span = last_s - clip["start_s"]
        return {
            "clip_id": clip["clip_id"], "shard": shard, "num_channels": mean.shape[0], "latent_t": mean.shape[1], "latent_h": mean.shape[2],
            "latent_w": mean.shape[3], "num_frames": num_kept, "height_px": size[0], "width_px": size[1],
            "fps": (num_kept - 1) / span if num_kept > 1 and span > 0 else 0.0, "scale": size[1] / clip["width_px"], "num_source_frames": num_seen,
        }  # fmt: skip

    def _tensor(self, batch: list[np.ndarray]) -> torch.Tensor:
        return to_video(batch).to(self.device).float() / 127.5 - 1

    def _failure(self, clip: dict, shard: int, error: str, cause: str) -> dict:
        origin = {key: clip[key] for key in ("source_id", "uri", "start_s", "end_s")}
        return {"stage": self.name, "shard": shard, "item_id": clip["clip_id"], **origin, "error": error, "cause": cause, "attempt": 1}
