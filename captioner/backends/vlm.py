"""The `transformers` backend: any image-text-to-text model, from a folder or a hub id.

Code from the hub is never run.

A clip goes in as a video where the processor takes one and tells the model its times, with its true frame
numbers and rate (left to themselves, processors resample frames and assume 24 fps), else as pictures with
their times in the text. Batches are padded on the left, the prompt is cut off the answer, and how each answer
ended is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from captioner.backends.weights import weights_of
from captioner.coca.inputs import spread
from captioner.gates.answers import captions_of
from captioner.options import CaptionerOptions
from captioner.prompts import make_prompt
from captioner.protocol import Caption, ClipFrames, Provenance, Usage
from manifests.errors import RushesError, UsageError

PRESETS = {
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3-vl-4b": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "smolvlm2-2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "internvl3-8b": "OpenGVLab/InternVL3-8B-hf",
}
"""Short names for hub ids. The families' classes, not these weights, are what the tests run."""


def reduced(frame: np.ndarray, max_pixels: int) -> np.ndarray:
    """The frame with at most `max_pixels`, by one factor for both axes."""
    height, width = frame.shape[:2]
    scale = math.sqrt(max_pixels / (height * width))
    if scale >= 1:
        return frame
    return cv2.resize(
        frame, (max(1, int(width * scale)), max(1, int(height * scale))), interpolation=cv2.INTER_AREA
    )


def video_metadata(clip: ClipFrames, picked: Sequence[int]) -> dict[str, Any]:
    """Frame numbers and rate of the frames shown, from the clip's start, as a processor wants them.

    So the times that it writes are the clip's.
    """
    start_s, end_s = clip.facts.get("start_s", 0.0), clip.facts.get("end_s", 0.0)
    times = [clip.times_s[index] - min(start_s, clip.times_s[0]) for index in picked]
    fps = clip.facts.get("fps") or 0.0
    if fps < 1 or len({round(time_s * fps) for time_s in times}) < len(
        times
    ):  # no rate, or too low a one to tell the frames apart
        fps = 1000.0
    indices = [round(time_s * fps) for time_s in times]
    total = max(indices[-1] + 1, round((end_s - start_s) * fps))
    return {"fps": fps, "total_num_frames": total, "duration": total / fps, "frames_indices": indices}


class VlmCaptioner:
    """A vision-language model in this process."""

    name = "transformers"
    at_once = 1

    def __init__(self, options: CaptionerOptions) -> None:
        if not options.model:
            raise UsageError(
                "--model",
                "is needed by captioner transformers",
                f"Give a folder, a hub id, or one of: {', '.join(PRESETS)}.",
            )
        self.options, self.prompt = options, make_prompt(options.prompt)
        self.weights = weights_of(PRESETS.get(options.model, options.model))
        sampling = (
            f"{options.temperature:g},{options.top_p:g},{options.max_tokens},{options.seed},"
            f"{options.max_frames},{options.frame_pixels},{options.dtype}"
        )
        self.version = (
            f"transformers/1:{self.weights.label}:{self.weights.digest}:{self.prompt.prompt_id}:"
            f"{self.prompt.sha256}:{sampling}:{','.join(options.kinds)}"
        )

    def setup(self) -> None:
        """Load the model.

        Raises:
            RushesError: it cannot be loaded; the message is the library's.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = self.options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = (
            self.options.dtype if self.options.dtype == "auto" else getattr(torch, self.options.dtype, None)
        )
        if dtype is None:
            raise UsageError(
                f"--dtype {self.options.dtype}", "is no type of torch", "Try auto, bfloat16 or float32."
            )
        try:
            self.processor = AutoProcessor.from_pretrained(
                self.weights.place, revision=self.weights.revision, trust_remote_code=False
            )
            model: Any = AutoModelForImageTextToText.from_pretrained(
                self.weights.place,
                revision=self.weights.revision,
                dtype=dtype,
                trust_remote_code=False,
                **({"device_map": "auto"} if self.options.device == "spread" else {}),
            )
        except (OSError, ValueError, ImportError) as error:
            raise RushesError(
                self.weights.place,
                f"cannot be loaded: {error}",
                "Give a folder or hub id of an image-text-to-text model.",
            ) from error
        self.model = (model if self.options.device == "spread" else model.to(device)).eval()
        self.processor.tokenizer.padding_side = "left"
        if self.processor.tokenizer.pad_token_id is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token
        template = (self.processor.chat_template or "").replace('"', "'")
        self.takes_video = (
            getattr(self.processor, "video_processor", None) is not None
            and "'video'" in template
            and self._tells_times()
        )

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        """Clips as videos, clips as pictures, and stills, each sort in a batch of its own."""
        found: list[list[Caption]] = [[] for _ in clips]
        for as_video, is_image in ((True, False), (False, False), (False, True)):
            rows = [
                index
                for index, clip in enumerate(clips)
                if (self._is_video(clip), clip.is_image) == (as_video, is_image)
            ]
            for index, captions in zip(
                rows, self._batch([clips[index] for index in rows], as_video, attempt), strict=True
            ):
                found[index] = captions
        return found

    def merge(self, clip: ClipFrames, parts: Sequence[str]) -> list[Caption]:
        """One caption of the whole from those of its parts, by the same model; None without an answer."""
        text = self.prompt.merge.format(
            parts="\n".join(f"{index + 1}. {part}" for index, part in enumerate(parts))
        )
        prompt = self.processor.apply_chat_template(
            self._messages(text, []), add_generation_prompt=True, tokenize=False
        )
        [(answer, finish, usage)] = self._generate(
            self.processor(text=[prompt], padding=True, return_tensors="pt"), 0
        )
        return captions_of(
            answer,
            clip,
            self.name,
            self._provenance(clip, [], 0),
            usage,
            finish,
            self.options.kinds,
            self.prompt,
        )

    def _is_video(self, clip: ClipFrames) -> bool:
        return self.takes_video and not clip.is_image and len(clip.frames) > 1

    def _tells_times(self) -> bool:
        """Whether a video's times reach the model: InternVL's processor numbers frames and drops times."""
        rates = []
        for fps in (2.0, 0.5):
            facts = {"kind": "video", "num_frames": 4, "fps": fps, "start_s": 0.0, "end_s": 4 / fps}
            frames = [np.zeros((64, 64, 3), np.uint8)] * 4
            given = self.inputs(
                [
                    ClipFrames(
                        clip_id="probe",
                        frames=frames,
                        times_s=[index / fps for index in range(4)],
                        facts=facts,
                    )
                ],
                as_video=True,
            )
            rates.append(
                {
                    name: np.asarray(value).tolist()
                    for name, value in given.items()
                    if not name.startswith("pixel")
                }
            )
        return rates[0] != rates[1]

    def _messages(self, text: str, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        system = (
            [{"role": "system", "content": [{"type": "text", "text": self.prompt.system}]}]
            if self.prompt.system
            else []
        )
        return [*system, {"role": "user", "content": [*parts, {"type": "text", "text": text}]}]

    def inputs(self, clips: Sequence[ClipFrames], as_video: bool) -> Any:
        """What the model is given for clips of one sort, padded on the left."""
        texts: list[str] = []
        pictures: list[Any] = []
        metadata = []
        for clip in clips:
            picked = spread(len(clip.frames), self.options.max_frames)
            frames = [reduced(clip.frames[index], self.options.frame_pixels) for index in picked]
            if as_video:
                parts: list[dict[str, Any]] = [{"type": "video"}]
                metadata.append(video_metadata(clip, picked))
                pictures.append(np.stack(frames))
            else:
                parts = []
                for index in picked:
                    if not clip.is_image:
                        time_s = clip.times_s[index] - clip.facts.get("start_s", 0.0)
                        parts.append({"type": "text", "text": f"Frame at {time_s:.2f} s:"})
                    parts.append({"type": "image"})
                pictures.append(frames)
            texts.append(
                self.processor.apply_chat_template(
                    self._messages(self.prompt.ask(clip), parts), add_generation_prompt=True, tokenize=False
                )
            )
        common = {"text": texts, "padding": True, "return_tensors": "pt"}
        if as_video:
            return self.processor(
                videos=pictures,
                videos_kwargs={"video_metadata": metadata, "do_sample_frames": False, **self._frame_cap()},
                **common,
            )
        return self.processor(
            images=pictures, **({} if clips[0].is_image else self._whole_frames()), **common
        )

    def _whole_frames(self) -> dict[str, Any]:
        """Turn off image tiles for video frames, which some processors use by default."""
        return (
            {"images_kwargs": {"crop_to_patches": False}}
            if hasattr(self.processor.image_processor, "crop_to_patches")
            else {}
        )

    def _frame_cap(self) -> dict[str, Any]:
        """Turn off the processor's own cap on pixels, which differs between releases: frames come reduced."""
        return (
            {"cap_pixels_per_frame": False}
            if hasattr(self.processor.video_processor, "cap_pixels_per_frame")
            else {}
        )

    def _batch(self, clips: Sequence[ClipFrames], as_video: bool, attempt: int) -> list[list[Caption]]:
        if not clips:
            return []
        answers = self._generate(self.inputs(clips, as_video), attempt)
        found = []
        for clip, (text, finish, usage) in zip(clips, answers, strict=True):
            picked = spread(len(clip.frames), self.options.max_frames)
            found.append(
                captions_of(
                    text,
                    clip,
                    self.name,
                    self._provenance(clip, picked, attempt),
                    usage,
                    finish,
                    self.options.kinds,
                    self.prompt,
                )
            )
        return found

    def _sampling(self, attempt: int) -> dict[str, Any]:
        """Greedy at first unless told otherwise; a retry samples."""
        hot = self.options.temperature or (0.7 if attempt else 0.0)
        how: dict[str, Any] = {"do_sample": hot > 0}
        return (
            how
            | ({"temperature": hot, "top_p": self.options.top_p} if hot else {})
            | {"max_new_tokens": self.options.max_tokens}
        )

    def _generate(self, inputs: Any, attempt: int) -> list[tuple[str, str, Usage]]:
        """(answer, stop or length, cost) of each row."""
        import torch

        torch.manual_seed(self.options.seed + 7919 * attempt)
        begin = time.monotonic()
        inputs = inputs.to(self.model.device)
        with torch.no_grad():
            out = self.model.generate(**inputs, **self._sampling(attempt))
        seconds = (time.monotonic() - begin) / len(out)
        ends = self.model.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends]) | {self.processor.tokenizer.eos_token_id}
        found = []
        for row, mask in zip(
            out[:, inputs["input_ids"].shape[1] :].tolist(), inputs["attention_mask"], strict=True
        ):
            length = next((index for index, token in enumerate(row) if token in stops), None)
            ids = row if length is None else row[:length]
            usage = Usage(prompt_tokens=int(mask.sum()), output_tokens=len(ids), requests=1, seconds=seconds)
            found.append(
                (
                    self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                    "length" if length is None else "stop",
                    usage,
                )
            )
        return found

    def _provenance(self, clip: ClipFrames, picked: Sequence[int], attempt: int) -> Provenance:
        return Provenance(
            backend=self.name,
            model=self.weights.label,
            weights=self.weights.digest,
            prompt_id=self.prompt.prompt_id,
            prompt_sha256=self.prompt.sha256,
            sampling=self._sampling(attempt),
            seed=self.options.seed + 7919 * attempt,
            frame_indices=tuple(picked),
            frame_times_s=tuple(clip.times_s[index] for index in picked),
        )
