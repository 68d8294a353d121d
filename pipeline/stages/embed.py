"""The `embed` column: one open_clip image embedding per clip, of whole frames padded to a square."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from captioner.backends.weights import folder_digest
from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.store.shards import Member, read_member
from manifests.tables import records
from manifests.writing.commit import Account, ShardCommit
from media.decode.images import decode_image
from media.decode.picture import fitted
from pipeline.blame import blame
from pipeline.config import EmbedConfig, fingerprinted
from pipeline.stages.again import Again
from pipeline.stages.journal import Journal
from pipeline.stages.rows import failure_row

CODE_VERSION = 1
_ITEM_LIMIT_S = 600.0
_GREY = 114  # of the padding


def padded_square(rgb: np.ndarray, side_px: int) -> np.ndarray:
    """The whole picture [H, W, 3] scaled by one factor into the middle of a grey square of `side_px`."""
    height, width = rgb.shape[:2]
    factor = side_px / max(height, width)
    small = fitted(rgb, max(1, round(width * factor)), max(1, round(height * factor)))
    square = np.full((side_px, side_px, 3), _GREY, np.uint8)
    top, left = (side_px - small.shape[0]) // 2, (side_px - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def model_digest(config: EmbedConfig) -> str:
    """Names the weights: a digest of local files, all of their bytes; of a tag, the words themselves."""
    places = [Path(config.model.removeprefix("local-dir:")), Path(config.pretrained)]
    local = [folder_digest(path) for path in places if str(path) != "." and path.exists()]
    digest = hashlib.sha256("|".join(local or [config.model, config.pretrained]).encode())
    return digest.hexdigest()[:16]


class Embed:
    """Stage `embed`: table embeddings, a unit vector per clip: the mean over spread previews."""

    name = "embed"

    def __init__(self, config: EmbedConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        settings = {"frames": config.frames, "weights": model_digest(config)}
        assert set(settings) | {"model", "pretrained"} >= set(fingerprinted(config))
        self.column = Column(
            self.name, fingerprint(self.name, CODE_VERSION, settings, {"preview": preview.fingerprint})
        )

    def setup(self) -> None:
        import open_clip
        import torch

        torch.set_num_threads(1)
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                self.config.model, pretrained=self.config.pretrained or None
            )
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"--embed.model {self.config.model}",
                f"cannot be loaded ({error})",
                "Give local-dir:FOLDER with open_clip weights.",
            ) from error
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        size = model.visual.image_size
        self.side_px = int(size[0] if isinstance(size, tuple | list) else size)
        normalize = next(step for step in transform.transforms if type(step).__name__ == "Normalize")
        self.mean, self.std = (
            np.array(values, np.float32).reshape(3, 1, 1) for values in (normalize.mean, normalize.std)
        )

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        clips = records.rows_of_shard(dataset, "clips", self.preview, shard)
        tar, members = records.members_of_shard(dataset, self.preview, shard)
        again = Again(dataset, self.column, shard, self.preview, "clips", clips)
        before = again.rows("embeddings")
        frames: dict[str, list[Member]] = defaultdict(list)
        for member in members:
            if member.field.startswith("frame"):
                frames[member.key].append(member)
        rows: list[dict] = []
        failures: list[dict] = []
        for clip in clips:
            name = clip["clip_id"]
            if name in before:
                rows += before[name]
                continue

            def fail(error: str, cause: str, clip: dict = clip) -> None:
                attempt = again.attempt(clip["clip_id"])
                failures.append(failure_row(clip, self.name, shard, error, cause, attempt))

            if why := journal.poison(name):
                fail("poison", why)
                continue
            with journal.item(name, limit_s=_ITEM_LIMIT_S):
                try:
                    picks = _spread(frames[name], self.config.frames)
                    pictures = [decode_image(read_member(dataset.filesystem, tar, pick)) for pick in picks]
                    vector = self.vector(pictures).tolist()
                    rows.append({"clip_id": name, "shard": shard, "num_frames": len(picks), "vector": vector})
                except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
                    fail(*blame(error))
            progress(f"{len(rows)}/{len(clips)} clips")
        journal.rest()
        account = Account(len(clips), len(rows), 0, len(failures))
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            commit.commit({"embeddings": rows, "drops": [], "failures": failures}, account)
        return account

    def vector(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Unit vector [d] float32 of a clip's pictures."""
        import torch

        planes = np.stack(
            [padded_square(rgb, self.side_px).transpose(2, 0, 1).astype(np.float32) / 255 for rgb in pictures]
        )
        with torch.inference_mode():
            found = self.model.encode_image(
                torch.from_numpy((planes - self.mean) / self.std).to(self.device), normalize=True
            )
        mean = found.float().mean(0).cpu().numpy()
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def _spread(members: list[Member], count: int) -> list[Member]:
    """At most `count` of the members, the first and the last among them."""
    return [members[index] for index in np.unique(np.linspace(0, len(members) - 1, count).astype(int))]
