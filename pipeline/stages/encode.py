"""The `latent` column: every kept clip at training size through the spacetime VAE.

Stored as posterior mean and log-variance, in bf16; made in fp32 unless told otherwise. What is made of a
shard is in `encoding/latents.py`, which the actor alone imports: who starts a run does without torch.
"""

from __future__ import annotations

from collections.abc import Callable

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.tables import planned, records
from manifests.writing.commit import Account, ShardCommit
from pipeline.config import EncodeConfig, fingerprinted
from pipeline.stages.again import Again
from pipeline.stages.journal import Journal
from vae.folder import vae_folder, weights_digest

CODE_VERSION = 5


class Encode:
    """Stage `latent`: a member `<clip>.latent.safetensors` per clip, table latents, channel statistics.

    The statistics are in the commit record.
    """

    name = "latent"

    def __init__(self, config: EncodeConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        self.digest = weights_digest(config.vae)
        settings = fingerprinted(config)
        if config.precision == "fp32":  # as of before there was a choice
            del settings["precision"]
        inputs = {"preview": preview.fingerprint}
        self.column = Column(self.name, fingerprint(self.name, CODE_VERSION, settings, inputs, self.digest))

    def setup(self) -> None:
        import torch

        from media.apart.reader import gpu_trouble
        from vae.checkpoint import load_vae
        from vae.measuring.half import MOST_OFF, off_by

        torch.set_num_threads(1)  # one thread an actor; and results do not depend on the machine's cores
        if weights_digest(self.config.vae) != self.digest:
            raise UsageError(
                str(vae_folder(self.config.vae)),
                "holds other weights here than where the run was started",
                "Give every node the same weights.",
            )
        if self.config.nvdec and (trouble := gpu_trouble()):
            raise UsageError(
                "--encode.nvdec",
                f"finds no GPU that decodes where an actor runs: {trouble}",
                "Give its actors one (--encode-on.num-gpus 1), or leave the option away.",
            )
        self.vae, self.width = load_vae(self.config.vae), 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vae.to(self.device)
        if self.config.precision == "bf16" and not (off := off_by(self.vae, self.device)) <= MOST_OFF:
            raise UsageError(
                "--encode.precision bf16",
                f"moves the latents of {vae_folder(self.config.vae)} by {off:.2g} of their size, more than "
                f"{MOST_OFF:g}",
                "Leave it at fp32 for these weights.",
            )

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        from pipeline.stages.encoding.latents import ShardWriter

        clips = records.rows_of_shard(dataset, "clips", self.preview, shard)
        _, sources = planned.rows_of_shard(dataset, shard, generation)
        again = Again(dataset, self.column, shard, self.preview, "clips", clips)
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            writer = ShardWriter(self.vae, self.device, self.config, commit, journal, again, self.width)
            for _ in writer.clips(clips, sources):
                progress(f"{len(writer.rows) + len(writer.failures)}/{len(clips)} clips")
            writer.finish()
            self.width = writer.width
            journal.rest()
            account = Account(len(clips), len(writer.rows), 0, len(writer.failures))
            tables = {"latents": writer.rows, "drops": [], "failures": writer.failures}
            commit.commit(tables, account, writer.stats.to_dict() | {"vae": self.digest})
        return account
