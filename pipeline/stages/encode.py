"""The `latent` column: every kept clip at training size through the spacetime VAE.

Stored as posterior mean and log-variance.

Frames are decoded in a thread while the model encodes. A long clip is streamed, so memory does not grow with
its length; short ones of one shape go through the model together. Encoding is in fp32, storage in bf16. A
sample of the clips is decoded again and measured (`vae.measuring.audit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby, islice
from typing import Any

import torch
from safetensors.torch import save

from manifests import queries
from manifests.commit import Account, ShardCommit
from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from media.errors import MediaError
from pipeline.blame import blame
from pipeline.config import EncodeConfig, fingerprinted
from pipeline.footage.sources import facts_of
from pipeline.stages.clip_frames import ClipRouter, Picked, ReadAhead
from pipeline.stages.protocol import Journal
from vae.checkpoint import load_vae
from vae.folder import vae_folder, weights_digest
from vae.measuring.audit import MOST_PIXELS, audit, is_audited, latent_picture
from vae.measuring.stats import ChannelStats
from vae.pixels import as_float, to_video
from vae.protocol import VAE

CODE_VERSION = 2
PUSH_FRAMES = 32
"""Frames of a piece of a long clip; a clip with fewer is short."""
BATCH_PIXELS = 1 << 20
"""Frames x height x width of the short clips that are encoded together, at most about."""


class ShardWriter:
    """Encodes the clips of one shard in order; short clips of one shape are batched."""

    def __init__(
        self, vae: VAE, device: torch.device, config: EncodeConfig, shard: int, commit: ShardCommit
    ) -> None:
        self.vae, self.device, self.config, self.shard, self.commit = vae, device, config, shard, commit
        self.stats, self.rows = ChannelStats(vae.latent_channels), list[dict]()
        self.failed: list[tuple[dict, Exception]] = []
        self._waiting: list[tuple[Picked, torch.Tensor]] = []

    def read(self, picked: Picked) -> None:
        """Read one clip to its end and encode it, now or with the next ones.

        Raises:
            MediaError: it cannot be read, or gave another number of frames than curation saw.
        """
        frames = iter(picked)
        head = list(islice(frames, PUSH_FRAMES))
        if len(head) == PUSH_FRAMES:
            self._stream(picked, head, frames)
            return
        picked.check()
        video = to_video(head)
        if self._waiting and (
            self._waiting[0][1].shape != video.shape
            or (len(self._waiting) + 1) * video[0].numel() > BATCH_PIXELS
        ):
            self.finish()
        self._waiting.append((picked, video))

    def finish(self) -> None:
        """Encode the short clips that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            found = self._encode_many([video for _, video in waiting])
        except Exception:  # noqa: BLE001 - whose fault it is shows when each is encoded alone
            found = [None] * len(waiting)
        for (picked, video), pair in zip(waiting, found, strict=True):
            try:
                mean, logvar = pair or self._encode_many([video])[0]
                self._add(picked, mean.cpu(), logvar.cpu(), video)
            except Exception as error:  # noqa: BLE001 - this clip fails, the others go on
                self.failed.append((picked.clip, error))

    def _encode_many(self, videos: list[torch.Tensor]) -> list[Any]:
        """(mean, logvar) of each."""
        return list(self.vae.encode_many(as_float(torch.stack(videos).to(self.device))))

    def _stream(self, picked: Picked, batch: list, frames: object) -> None:
        stream, pieces, kept, kept_pixels = self.vae.stream(), [], list[torch.Tensor](), 0
        while batch:
            video = to_video(batch)
            if kept_pixels < MOST_PIXELS:
                kept.append(video)
                kept_pixels += video[0].numel()
            pieces += stream.push(as_float(video.to(self.device)))
            batch = list(islice(frames, PUSH_FRAMES))  # type: ignore[call-overload]
        picked.check()
        pieces += stream.flush()
        self.finish()  # members lie in the order of the clips
        mean, logvar = (torch.cat([piece[index] for piece in pieces], dim=1).cpu() for index in (0, 1))
        self._add(picked, mean, logvar, torch.cat(kept, dim=1))

    def _add(self, picked: Picked, mean: torch.Tensor, logvar: torch.Tensor, video: torch.Tensor) -> None:
        """video: [3, T, H, W] uint8, the clip or its beginning."""
        clip = picked.clip
        picture, audited = latent_picture(mean), {}
        if is_audited(clip["clip_id"], self.config.audit_share):
            most = max(1, MOST_PIXELS // video[0, 0].numel())
            audited = asdict(audit(self.vae, as_float(video[:, :most].to(self.device))))
        self.stats.add(
            mean
        )  # from here on nothing fails for the clip's own sake: what is in the tar has its row
        self.commit.add(
            f"{clip['clip_id']}.latent.safetensors",
            save(
                {
                    "mean": mean.to(torch.bfloat16).contiguous(),
                    "logvar": logvar.to(torch.bfloat16).contiguous(),
                }
            ),
        )
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
                **audited,
            }
        )


class Encode:
    """Stage `latent`: a member `<clip>.latent.safetensors` per clip, table latents, channel statistics.

    The statistics are in the commit record.
    """

    name = "latent"

    def __init__(self, config: EncodeConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        self.digest = weights_digest(config.vae)
        self.column = Column(
            self.name,
            fingerprint(
                self.name, CODE_VERSION, fingerprinted(config), {"preview": preview.fingerprint}, self.digest
            ),
        )

    def setup(self) -> None:
        torch.set_num_threads(1)  # one thread an actor; and results do not depend on the machine's cores
        if weights_digest(self.config.vae) != self.digest:
            raise UsageError(
                str(vae_folder(self.config.vae)),
                "holds other weights here than where the run was started",
                "Give every node the same weights.",
            )
        self.vae = load_vae(self.config.vae)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vae.to(self.device)

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        clips = queries.rows_of_shard(dataset, "clips", self.preview, shard)
        _, sources = queries.plan_rows(dataset, shard, generation)
        failures: list[dict] = []
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            writer = ShardWriter(self.vae, self.device, self.config, shard, commit)
            for source_id, group in groupby(clips, key=lambda clip: clip["source_id"]):
                own = list(group)
                try:
                    facts = facts_of(sources[source_id])
                except MediaError as error:
                    failures += [self._failure(clip, shard, error.reason, error.message) for clip in own]
                    continue
                alive = [clip for clip in own if not journal.poison(clip["clip_id"])]
                failures += [
                    self._failure(clip, shard, "poison", journal.poison(clip["clip_id"]) or "")
                    for clip in own
                    if clip not in alive
                ]
                if not alive:
                    continue
                router = ClipRouter(facts, self.config.max_pixels, alive)
                for clip in alive:
                    with journal.item(
                        clip["clip_id"], self.config.item_limit_s, self.config.item_limit_bytes
                    ):
                        try:
                            with ReadAhead(
                                router.frames(clip), 3 * clip["width_px"] * clip["height_px"]
                            ) as frames:
                                writer.read(Picked(clip, frames, self.config.max_fps))
                        except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
                            failures.append(self._failure(clip, shard, *blame(router.problem or error)))
                    progress(f"{len(writer.rows) + len(failures)}/{len(clips)} clips")
            writer.finish()
            failures += [self._failure(clip, shard, *blame(error)) for clip, error in writer.failed]
            account = Account(len(clips), len(writer.rows), 0, len(failures))
            commit.commit(
                {"latents": writer.rows, "drops": [], "failures": failures}, account, writer.stats.to_dict()
            )
        return account

    def _failure(self, clip: dict, shard: int, error: str, cause: str) -> dict:
        origin = {key: clip[key] for key in ("source_id", "uri", "start_s", "end_s")}
        return {
            "stage": self.name,
            "shard": shard,
            "item_id": clip["clip_id"],
            **origin,
            "error": error,
            "cause": cause,
            "attempt": 1,
        }
