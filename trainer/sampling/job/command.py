"""The verb `sample`: every feature of the sampler, for one prompt or for many."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from learning.launching import USUAL_WORKERS, become_ray_job, run_here
from manifests import cli
from manifests.cli.ranges import COUNT, NOT_NEGATIVE, SEED, SHARE, WORKERS, Ranges
from manifests.errors import UsageError
from manifests.fingerprint import file_sha256
from trainer.sampling.job.prompts import PromptLine, check_text, read_prompts
from trainer.sampling.job.record import SAMPLER, check_same, made_of, settings_of
from trainer.sampling.job.wish import Wish
from vae.folder import weights_digest

if TYPE_CHECKING:
    from trainer.sampling.job.choosing import Feature
    from trainer.sampling.job.making import Item
    from trainer.sampling.trained import TrainedModel


@dataclass(frozen=True, kw_only=True)
class Sample(Wish):
    """Make videos (.mp4, .webm, or .mkv without loss) and images (.png) of any size.

    Beside each lies how it was made (NAME.json) and, of a video, a sheet of its frames (NAME.sheet.png).

    Examples:
      rushes sample RUN --prompt "a red ball moves right" --width 176 --height 112 --out ball.mp4
      rushes sample RUN --prompt "a ball moves right" --video ball.mp4 --extend-after 2 --out longer.mp4
      rushes sample RUN --prompts prompts.txt --seeds 4 --out samples
    """

    essential: ClassVar[tuple[str, ...]] = (
        *("model_folder", "out", "prompt", "prompts", "width", "height", "seconds"),
        *("image", "video", "extend_after", "connect", "loop", "edit", "blend"),
    )
    ranges: ClassVar[Ranges] = {
        **dict.fromkeys(("seeds", "frames", "window", "overlap", "batch_tokens"), COUNT),
        **dict.fromkeys(("width", "height"), (1, 16384, True)),
        **dict.fromkeys(("seconds", "extend_after", "extend_before", "gap"), (0, 36000, False)),
        "fps": (0.1, 1000, True),
        **dict.fromkeys(("strength", "rescale", "guidance_interval"), SHARE),
        **dict.fromkeys(("guidance", "condition_guidance"), (0, 1000, True)),
        "steps": (1, 10_000, True),
        "seed": SEED,
        "threads": (0, 4096, True),
        "workers": WORKERS,
        "gpus": NOT_NEGATIVE,
    }

    model_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`, exported model, or a name under weights/."""
    out: Path
    """File to write; a folder where several are made (--prompts, --seeds)."""
    prompts: Path | None = None
    """File with a prompt on each line, or .jsonl (docs/sampling.md)."""
    negative: str = ""
    """What to lead away from."""
    upsample: bool = True
    """Fill prompts up to the kind of caption the model was trained on, by phrases of these; every word
    stays."""
    seeds: int = 1
    """Samples of each prompt, with seeds from --seed on."""
    guidance: float = 3.0
    """Weight of the text; 1 turns guidance off."""
    condition_guidance: float = 1.0
    """Weight of what is given; 1 turns it off."""
    rescale: float = 0.0
    """Bring the spread of guided predictions back, from 0 to 1."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels at which predictions are guided."""
    steps: int = 24
    """Solver steps."""
    solver: Literal["euler", "heun", "dpm++2m"] = "dpm++2m"
    """ODE solver; heun calls the model twice a step."""
    seed: int = 0
    """Of the noise: the same seed gives the same sample."""
    window: int = 16
    """Latents made at once, of four frames each; longer videos are made window by window."""
    overlap: int = 4
    """Latents of a window that are those of the one before."""
    batch_tokens: int = 16384
    """Tokens the model reads at once: samples are packed up to it."""
    device: str = ""
    """Such as cuda or cpu; a GPU where there is one if left out."""
    compile: bool = False
    """Compile the model's blocks: pays for many samples."""
    vae: Path | None = None
    """Folder of the VAE; that of the training data if left out."""
    threads: int = 0
    """CPU threads; torch's choice if 0."""
    launch: Literal["here", "processes", "ray"] = "here"
    """processes: several of this machine share the samples; ray: workers of a Ray cluster, restarted when one
    dies. Under torchrun: here."""
    workers: int | None = None
    """Processes, or workers on Ray; 2 if left out."""
    gpus: float = 0.0
    """GPUs of each worker on Ray."""
    overwrite: bool = False
    """Replace files that exist. Without it, of several samples those that are there are not made again."""

    def run(self) -> int:
        from trainer.sampling.job.choosing import chosen

        wish = self._wish()
        self._check(chosen(wish))
        if self.launch == "processes":
            return run_here(self.workers or USUAL_WORKERS)
        if self.launch == "ray":
            become_ray_job(self.workers or USUAL_WORKERS, self.gpus)
        return self._sample(wish)

    def _wish(self) -> Wish:
        from trainer.sampling.job.choosing import TEXT, chosen

        wish = Wish(**{item.name: getattr(self, item.name) for item in fields(Wish)})
        is_still = self.out.suffix == ".png" and self.frames is None and self.seconds is None
        return replace(wish, frames=1) if is_still and chosen(wish) == TEXT else wish

    @property
    def _is_many(self) -> bool:
        return self.prompts is not None or self.seeds > 1

    def _check(self, feature: Feature) -> None:
        """Refuse what cannot be made, and options that would do nothing, before any work."""
        from trainer.sampling.job.output import SUFFIXES, Output

        self._check_guidance()
        if self.gpus and self.launch != "ray":
            raise UsageError("--gpus", "is of --launch ray", "Give --device, or --launch ray.")
        if self.workers and self.launch == "here":
            raise UsageError("--workers", "is of --launch", "Give --launch processes, or --launch ray.")
        if self.prompts is not None and self.prompt:
            raise UsageError("--prompt and --prompts", "do not go together")
        if self.prompts is not None:
            read_prompts(self.prompts)
        for name in ("prompt", "negative", "to_prompt", "from_prompt"):
            check_text(f"--{name.replace('_', '-')}", getattr(self, name) or "")
        if not self._is_many:
            if self.out.suffix not in SUFFIXES:
                raise UsageError(
                    str(self.out), "names no kind of file that is made", f"Kinds: {', '.join(SUFFIXES)}."
                )
            if self.frames is not None:
                Output(self.out).check_kind(self.frames)
            is_video = feature.name == "images" and self.frames is None and self.seconds is None
            if self.out.suffix == ".png" and (is_video or feature.name not in ("text", "images", "edit")):
                raise UsageError(
                    str(self.out),
                    f"is a picture, and --{feature.asked_by[0].replace('_', '-')} makes a video",
                    "Use .mp4, .webm or .mkv.",
                )
            Output(self.out).check_new(self.overwrite, self._given())
            cli.writable(self.out.parent)
            return
        if self.out.suffix in SUFFIXES:
            raise UsageError(str(self.out), "names a file, and several are made", "Name a folder.")
        cli.writable(self.out)

    def _check_guidance(self) -> None:
        """Refuse options of guidance that would do nothing.

        Raises:
            UsageError: one is given.
        """
        if self.negative and self.guidance == self.condition_guidance == 1:
            raise UsageError("--negative", "does nothing with --guidance 1", "Leave one of them out.")
        if self.guidance == self.condition_guidance == 1:
            for name, is_told in (
                ("--rescale", self.rescale != 0),
                ("--guidance-interval", self.guidance_interval != (0.0, 1.0)),
            ):
                if is_told:
                    raise UsageError(
                        name, "does nothing without guidance", "Give --guidance, or leave it out."
                    )

    def _sample(self, wish: Wish) -> int:
        import torch

        from learning.devices import chosen_device
        from trainer.sampling.draft import Sampling
        from trainer.sampling.guidance import Guidance
        from trainer.sampling.job.choosing import filled, scene_of
        from trainer.sampling.job.making import Maker
        from trainer.sampling.memory import check_memory
        from trainer.sampling.trained import chosen_vae, load_model
        from trainer.sampling.windows import Windows
        from vae.checkpoint import load_vae

        if self.threads:
            torch.set_num_threads(self.threads)
        guidance = Guidance(
            text=self.guidance,
            condition=self.condition_guidance,
            rescale=self.rescale,
            interval=self.guidance_interval,
        )
        how = Sampling(steps=self.steps, solver=self.solver, guidance=guidance)
        windows = Windows(self.window, self.overlap)
        model = load_model(self.model_folder, chosen_device(self.device))
        vae_path = chosen_vae(model.record, self.vae)
        wish = filled(wish)
        feature, scene, clips = scene_of(wish, model.factors[0])
        check_memory(scene.canvas, model, windows)
        # a window but the first keeps of the one before, whatever is given
        is_whole = scene.canvas.latent_size(model.factors)[0] <= windows.length
        keeps = self.video or self.mask or feature.name not in ("text", "loop", "edit")
        if self.condition_guidance != 1 and is_whole and not keeps:
            raise UsageError("--condition-guidance", "does nothing where nothing that is given stays")
        if self.from_prompt is not None:
            windows.check_whole(scene.canvas.latent_size(model.factors)[0])
        made = made_of(wish, scene) | {"device": model.device.type, "is_compiled": self.compile}
        items = self._items(feature.name, scene.num_frames, model, made)
        if not items:
            cli.say("sample: nothing to make")
            return cli.DONE
        if self.compile:
            model.compile()
        vae = load_vae(vae_path)
        maker = Maker(model, vae, scene, clips, how=how, windows=windows, batch_tokens=self.batch_tokens)
        maker.make(items)
        for item in items:
            for path in (item.output.sheet, item.output.path):
                if path:
                    print(path)
        return cli.DONE

    def _items(self, feature: str, num_frames: int, model: TrainedModel, made: dict[str, Any]) -> list[Item]:
        """The samples that this process is to make: its share, without those that are there."""
        from trainer.sampling.job.making import Item, Words
        from trainer.sampling.job.output import Output

        suffix = ".png" if num_frames == 1 else ".mp4"
        rank, size = (
            int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
        )
        found, inputs = [], {str(path): file_sha256(path)[:16] for path in self._given()}
        settings = settings_of({item.name: getattr(self, item.name) for item in fields(self)})
        vae = str(self.vae or model.record["vae"] or "vae-tiny")
        whose = {
            **{"sampler": SAMPLER, "model": model.name, "model_digest": model.digest},
            **({"model_step": model.record["step"]} if "step" in model.record else {}),
            **{"vae": vae, "vae_digest": weights_digest(vae)},
        }
        if self.upsample and "phrases" not in model.record:
            cli.say("sample: the model does not say how its captions go on; prompts are read as they are")
        told = set[str | None]()
        for path, line in self._named(suffix)[rank::size]:
            seed, text = line.seed or 0, line.prompt
            output = Output(path)
            output.check_kind(num_frames)
            full, to_full, source = self._full((text, self.to_prompt, self.from_prompt), num_frames, model)
            record = {"feature": feature, "prompt": text, "prompt_as_read": full, "seed": seed}
            record |= whose | {"inputs": inputs, "settings": settings, "made": made}
            if to_full is not None:
                record |= {"to_prompt": self.to_prompt, "to_prompt_as_read": to_full}
            if source is not None:
                record |= {"from_prompt": self.from_prompt, "from_prompt_as_read": source}
            if self._is_many and not self.overwrite and (there := output.recorded()):
                check_same(path, there, record)
                continue
            output.check_new(self.overwrite, self._given())
            given = (text, self.to_prompt, self.from_prompt)
            for read in dict.fromkeys(item for item in (full, to_full, source) if item not in given):
                if read and read not in told:
                    cli.say(f"prompt: {read}")
                told.add(read)
            prompts = (full,) if to_full is None else (full, to_full)
            words = Words(prompts=prompts, negative=self.negative, from_prompt=source, seed=seed)
            found.append(Item(words=words, output=output, record=record))
        return found

    def _named(self, suffix: str) -> list[tuple[Path, PromptLine]]:
        """The file of each sample.

        Raises:
            UsageError: two would be one file.
        """
        if not self._is_many:
            return [(self.out, line) for line in self._lines()]
        found = dict[Path, PromptLine]()
        for number, line in enumerate(self._lines()):
            name = line.name or f"{number // self.seeds:05d}"
            path = self.out / f"{name}-seed{line.seed or 0}{suffix}"
            if path in found:
                raise UsageError(
                    str(self.prompts), f"makes two samples of the name {path.name}", "Give one another name."
                )
            found[path] = line
        return list(found.items())

    def _given(self) -> list[Path]:
        """The files that a sample begins with."""
        keyframes = [Path(text.partition("=")[2]) for text in self.keyframe]
        given = [self.image, self.last_image, self.video, self.edit, self.mask, *keyframes]
        return [path for path in (*given, *self.connect, *self.blend) if path is not None]

    def _lines(self) -> list[PromptLine]:
        """What is asked for, as often as there are seeds."""
        found = [PromptLine(self.prompt)] if self.prompts is None else read_prompts(self.prompts)
        return [
            replace(line, seed=(self.seed if line.seed is None else line.seed) + copy)
            for line in found
            for copy in range(self.seeds)
        ]

    def _full(
        self, prompts: tuple[str, str | None, str | None], num_frames: int, model: TrainedModel
    ) -> tuple[str, str | None, str | None]:
        """Prompts of one sample as the model reads them, filled up where that is wanted, all alike."""
        phrases = model.record.get("phrases")
        if not self.upsample or phrases is None:
            return prompts
        from captioner.registry import make_upsampler

        fill, given = make_upsampler(phrases=phrases), [text for text in prompts if text is not None]
        beside = given if len(given) > 1 else ()
        found = [text if text is None else fill(text, num_frames > 1, beside=beside) for text in prompts]
        return found[0] or "", found[1], found[2]
