"""What the `latent` column holds of one shard.

Frames are decoded ahead while the model encodes. A long clip is streamed, so memory does not grow with its
length; short ones of one shape go through the model together. A sample of the clips is decoded again and
measured (`vae.measuring.audit`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby, islice
from typing import Any

import torch
from safetensors.torch import load

from manifests.writing.commit import ShardCommit
from media.errors import MediaError
from pipeline.blame import blame
from pipeline.config import EncodeConfig
from pipeline.footage.sources import changed, facts_of
from pipeline.stages.again import Again
from pipeline.stages.encoding.clip_frames import Picked
from pipeline.stages.encoding.reading_ahead import Job, SourcesAhead
from pipeline.stages.journal import Journal
from pipeline.stages.rows import failure_row
from vae.measuring.audit import MOST_PIXELS, audit, is_audited, latent_picture
from vae.measuring.half import encoding
from vae.measuring.stats import ChannelStats
from vae.pixels import as_float, to_video
from vae.protocol import VAE
from vae.stored import mean_and_logvar, stored_bytes

PUSH_FRAMES = 32
"""Frames of a piece of a long clip; a clip with fewer is short."""
BATCH_PIXELS, WINDOW_PIXELS = 1 << 20, 1 << 23
"""Frames x height x width of the short clips that are encoded together, at most about; and of those that wait
for others of their shape."""


def same_shape(videos: Sequence[torch.Tensor]) -> list[list[int]]:
    """Places of videos [3, T, H, W] to be encoded together: of one shape, within `BATCH_PIXELS` or alone."""
    by_shape = defaultdict[tuple, list[int]](list)
    for place, video in enumerate(videos):
        by_shape[tuple(video.shape)].append(place)
    found = []
    for (_, *sides), places in by_shape.items():
        most = max(1, BATCH_PIXELS // math.prod(sides))
        found += [places[begin : begin + most] for begin in range(0, len(places), most)]
    return found


class ShardWriter:
    """Encodes the clips of one shard; short clips of one shape are batched, also where others lie between.

    Clips that need not be made again are copied from what the column held before.
    """

    def __init__(
        self,
        vae: VAE,
        device: torch.device,
        config: EncodeConfig,
        commit: ShardCommit,
        journal: Journal,
        again: Again,
        width: int = 1,
    ) -> None:
        """Args: width: sources that are decoded at the same time at first; in the end, what was needed."""
        self.width = width
        self.vae, self.device, self.config, self.shard = vae, device, config, commit.shard
        self.is_half = config.precision == "bf16"
        self.commit, self.journal, self.again = commit, journal, again
        self.stats, self.rows = ChannelStats(vae.latent_channels), list[dict]()
        self.failures: list[dict] = []
        self._before = again.rows("latents")
        self._waiting: list[tuple[Picked, torch.Tensor]] = []

    def fail(self, clip: dict, error: str, cause: str) -> None:
        attempt = self.again.attempt(clip["clip_id"])
        self.failures.append(failure_row(clip, "latent", self.shard, error, cause, attempt))

    def clips(self, clips: Sequence[dict], sources: Mapping[str, dict]) -> Iterator[None]:
        """Encode or copy clips; hands control back after each."""
        jobs = [
            Job(partial(facts_of, sources[source_id]), alive, self.config.nvdec)
            for source_id, group in groupby(clips, key=lambda clip: clip["source_id"])
            if (alive := [clip for clip in group if self._is_read(clip["clip_id"])])
        ]
        most, has_died = self.config.decoders, bool(self.journal.death)
        with SourcesAhead(
            jobs, self.config.max_pixels, most, width=self.width, is_one_by_one=has_died
        ) as ahead:
            for clip in clips:
                if self.again.is_kept(clip["clip_id"]):
                    self._copy(clip)
                elif why := self.journal.poison(clip["clip_id"]):
                    self.fail(clip, "poison", why)
                else:
                    self._read(ahead, clip, sources[clip["source_id"]])
                yield
            self.width = max(self.width, ahead.width)

    def _is_read(self, clip_id: str) -> bool:
        return not self.again.is_kept(clip_id) and not self.journal.poison(clip_id)

    def _read(self, ahead: SourcesAhead, clip: dict, source: dict) -> None:
        """Read one clip to its end and encode it, now or with the next ones; or it fails."""
        config = self.config
        with self.journal.item(
            clip["clip_id"], limit_s=config.item_limit_s, limit_bytes=config.item_limit_bytes
        ):
            try:
                with ahead.clip(clip) as frames:
                    self._take(Picked(clip, source, frames, self.config.max_fps))
            except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
                self.fail(clip, *blame(changed(source) or ahead.problem or error))

    def _take(self, picked: Picked) -> None:
        """Encode a long clip, or let a short one wait for others of its shape.

        Raises:
            MediaError: it cannot be read, or gave another number of frames than curation saw.
        """
        frames = iter(picked)
        head = list(islice(frames, PUSH_FRAMES))
        if len(head) == PUSH_FRAMES:
            self._stream(picked, head, frames)
            return
        picked.check()
        video, is_suspect = to_video(head), self.journal.is_suspect(picked.clip["clip_id"])
        waiting = sum(other[0].numel() for _, other in self._waiting)
        if is_suspect or waiting + video[0].numel() > WINDOW_PIXELS:
            self.finish()
        self._waiting.append((picked, video))
        # a suspect goes alone, so that a second death says whose fault it is; on a processor each does, as a
        # batch's bits are not those of its clips, and what lies in one depends on what was made before
        if is_suspect or self.device.type != "cuda":
            self.finish()

    def finish(self) -> None:
        """Encode the short clips that wait, those of one shape together; they are written in their order."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        limit_s = self.config.item_limit_s * len(waiting)
        names = [picked.clip["clip_id"] for picked, _ in waiting]
        with self.journal.item(*names, limit_s=limit_s, limit_bytes=self.config.item_limit_bytes):
            found = dict[int, Any]()
            for places in same_shape([video for _, video in waiting]):
                found |= zip(places, self._each([waiting[place][1] for place in places]), strict=True)
            for place, (picked, video) in enumerate(waiting):
                try:
                    if isinstance(pair := found[place], Exception):
                        raise pair
                    self._add(picked, pair[0], pair[1], video)
                except Exception as error:  # noqa: BLE001 - this clip fails, the others go on
                    self.fail(picked.clip, *blame(error))

    def _each(self, videos: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor] | Exception]:
        """(mean, logvar) of each of one shape, or why there is none: where a batch fails, of each alone."""
        try:
            return [(mean.cpu(), logvar.cpu()) for mean, logvar in self._encode_many(videos)]
        except Exception as error:  # noqa: BLE001
            return [error] if len(videos) == 1 else [one for video in videos for one in self._each([video])]

    def _copy(self, clip: dict) -> None:
        """Take a clip over from what was committed before."""
        self.finish()  # members lie in the order of the clips
        members = self.again.members(clip["clip_id"])
        if not members:
            self.fail(clip, "withdrawn_damaged", "what was committed of it before cannot be read any more")
            return
        latents = load(next(data for name, data in members if name.endswith(".safetensors")))
        mean, logvar = mean_and_logvar(latents)
        try:
            _check_finite(clip["clip_id"], mean, logvar)
        except MediaError as error:  # of a column that was begun before this was looked at
            self.fail(clip, error.reason, error.message)
            return
        self.stats.add(mean.float())
        for name, data in members:
            self.commit.add(name, data)
        self.rows += self._before[clip["clip_id"]]

    def _encode_many(self, videos: list[torch.Tensor]) -> list[Any]:
        """(mean, logvar) of each."""
        with encoding(self.device, self.is_half):
            return list(self.vae.encode_many(as_float(torch.stack(videos).to(self.device))))

    def _stream(self, picked: Picked, batch: list, frames: object) -> None:
        stream, pieces, kept, kept_pixels = self.vae.stream(), [], list[torch.Tensor](), 0
        while batch:
            video = to_video(batch)
            if kept_pixels < MOST_PIXELS:
                kept.append(video)
                kept_pixels += video[0].numel()
            with encoding(self.device, self.is_half):
                pieces += stream.push(as_float(video.to(self.device)))
            batch = list(islice(frames, PUSH_FRAMES))  # type: ignore[call-overload]
        picked.check()
        with encoding(self.device, self.is_half):
            pieces += stream.flush()
        self.finish()  # members lie in the order of the clips
        mean, logvar = (torch.cat([piece[index] for piece in pieces], dim=1).cpu() for index in (0, 1))
        self._add(picked, mean, logvar, torch.cat(kept, dim=1))

    def _add(self, picked: Picked, mean: torch.Tensor, logvar: torch.Tensor, video: torch.Tensor) -> None:
        """video: [3, T, H, W] uint8, the clip or its beginning."""
        clip = picked.clip
        half, half_logvar = mean.to(torch.bfloat16), logvar.to(torch.bfloat16)
        _check_finite(clip["clip_id"], half, half_logvar)
        stored, slabs = stored_bytes(half, half_logvar)
        picture, audited = latent_picture(mean), {}
        if is_audited(clip["clip_id"], self.config.audit_share):
            most = max(1, MOST_PIXELS // video[0, 0].numel())
            audited = asdict(audit(self.vae, as_float(video[:, :most].to(self.device))))
        self.stats.add(half.float())
        # from here on nothing fails for the clip's own sake: what is in the tar has its row
        self.commit.add(f"{clip['clip_id']}.latent.safetensors", stored)
        self.commit.add(f"{clip['clip_id']}.latent.png", picture)
        self.rows.append(
            {
                "clip_id": clip["clip_id"],
                "shard": self.shard,
                "num_channels": mean.shape[0],
                "latent_t": mean.shape[1],
                "latent_h": mean.shape[2],
                "latent_w": mean.shape[3],
                "num_frames": picked.num_kept,
                "height_px": picked.size[0],
                "width_px": picked.size[1],
                "fps": picked.fps,
                "scale": picked.size[1] / clip["width_px"],
                "num_source_frames": picked.num_seen,
                "factor_t": self.vae.factors[0],
                "factor_px": self.vae.factors[1],
                "slab_offset": slabs.offset,
                "slab_crc32": slabs.crc32,
                **audited,
            }
        )


def _check_finite(clip_id: str, *latents: torch.Tensor) -> None:
    """Refuse a latent that would spoil the statistics of all, and every step that reads it.

    Raises:
        MediaError: it holds what is no number.
    """
    if not all(bool(latent.isfinite().all()) for latent in latents):
        raise MediaError("not_finite", f"{clip_id}: the VAE gives a latent that is not finite")
