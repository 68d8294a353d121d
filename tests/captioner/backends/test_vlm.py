"""The transformers backend on tiny models of the real classes, saved to disk and loaded offline."""

import re

import numpy as np
import pytest
import torch

from captioner.backends.vlm import VlmCaptioner, reduced, video_metadata
from captioner.options import CaptionerOptions
from captioner.prompts import PROMPTS, answer_faults, parse_answer
from captioner.protocol import ClipFrames
from captioner.registry import make_captioner
from captioner.writing import write_captions
from manifests.errors import RushesError, UsageError
from tests.captioner.backends import tiny_vlm

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "smolvlm", "internvl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    return {family: tiny_vlm.make(family, root / family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def clip(name, num_frames, fps=24.0, start_s=3.0, size=(64, 96)):
    """Previews at two a second of a clip that begins three seconds into its source."""
    rng = np.random.default_rng(num_frames)
    frames = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(num_frames)]
    times = [start_s + index / 2 for index in range(num_frames)]
    end_s = start_s + num_frames / 2
    facts = {
        "kind": "video" if num_frames > 1 else "image",
        "num_frames": num_frames * 12,
        "fps": fps,
        "start_s": start_s,
        "end_s": end_s,
    }
    return ClipFrames(clip_id=name, frames=frames, times_s=times, facts=facts)


def options(folder, **changes):
    return CaptionerOptions(
        **(
            {
                "captioner": "transformers",
                "model": str(folder),
                "prompt": "plain-1",
                "max_tokens": 8,
                "device": "cpu",
            }
            | changes
        )
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_of_different_lengths_and_a_still_are_captioned_in_one_call(folders, family):
    captioner = make_captioner(options(folders[family]))
    captioner.setup()
    clips = [clip("a", 4), clip("b", 2), clip("c", 6, size=(48, 120)), clip("d", 1)]
    found = write_captions(captioner, clips)
    assert [len(captions) for captions in found] == [1, 1, 1, 1]
    for one, [caption] in zip(clips, found, strict=True):
        assert caption.finish_reason in {"stop", "length"}
        assert "Describe" not in caption.text  # the prompt is not part of the answer
        assert caption.usage.prompt_tokens > 10
        assert caption.provenance.frame_times_s == tuple(one.times_s)
        assert len(caption.provenance.weights) == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_the_times_the_model_sees_are_the_clips(folders, family):
    captioner = VlmCaptioner(options(folders[family]))
    captioner.setup()
    one = clip("a", 4)
    assert captioner.takes_video == (
        family != "internvl"
    )  # whose processor would number the frames and drop their times
    as_pictures = captioner.inputs([one], as_video=False)
    assert "Frame at 1.50 s:" in captioner.processor.tokenizer.decode(as_pictures["input_ids"][0])
    if not captioner.takes_video:
        assert len(as_pictures["pixel_values"]) == len(one.frames)  # each frame once and whole, without tiles
        return
    inputs = captioner.inputs([one], as_video=True)
    said = captioner.processor.tokenizer.decode(inputs["input_ids"][0])
    seconds = [time_s - 3.0 for time_s in one.times_s]
    if family == "qwen3_vl":  # two frames a patch, their mean time in words
        assert [float(value) for value in re.findall(r"<([\d.]+) seconds>", said)] == pytest.approx(
            [np.mean(seconds[:2]), np.mean(seconds[2:])], abs=0.06
        )
    elif family == "smolvlm":
        assert re.findall(r"(\d\d):(\d\d)", said)[1:5] == [
            ("00", "00"),
            ("00", "00"),
            ("00", "01"),
            ("00", "01"),
        ]
    else:  # seconds between patches of two frames, at two frames a second
        assert float(inputs["second_per_grid_ts"][0]) == pytest.approx(1.0, abs=0.02)


def test_a_retry_samples_and_the_same_seed_repeats(folders):
    captioner = VlmCaptioner(options(folders["qwen2_5_vl"], max_tokens=24))
    captioner.setup()
    greedy = [captioner.caption([clip("a", 4)])[0][0] for _ in range(2)]
    again = [captioner.caption([clip("a", 4)], attempt=1)[0][0] for _ in range(2)]
    assert greedy[0].text == greedy[1].text
    assert again[0].text == again[1].text != greedy[0].text
    assert greedy[0].provenance.sampling["do_sample"] is False
    assert again[0].provenance.sampling["do_sample"] is True


def test_a_clip_is_captioned_the_same_beside_others(folders):
    captioner = VlmCaptioner(options(folders["qwen3_vl"], max_tokens=12))
    captioner.setup()
    [[alone]], [[beside], _] = (
        captioner.caption([clip("a", 2)]),
        captioner.caption([clip("a", 2), clip("b", 6)]),
    )
    assert alone.text == beside.text


def test_a_model_spread_over_what_an_actor_has_says_the_same(folders):
    """Without a GPU all of it lies on the processor, by the same way of the library."""
    spread = make_captioner(options(folders["qwen2_5_vl"], device="spread"))
    spread.setup()
    whole = make_captioner(options(folders["qwen2_5_vl"]))
    whole.setup()
    clips = [clip("a", 4), clip("d", 1)]
    said = [[[caption.text for caption in one] for one in made.caption(clips)] for made in (spread, whole)]
    assert said[0] == said[1]


def test_frames_are_reduced_by_one_factor_and_true_times_survive_low_rates():
    assert reduced(np.zeros((400, 800, 3), np.uint8), 20_000).shape[:2] == (100, 200)
    assert reduced(np.zeros((40, 80, 3), np.uint8), 20_000).shape[:2] == (40, 80)
    found = video_metadata(clip("a", 3, fps=0.5), [0, 1, 2])
    assert [index / found["fps"] for index in found["frames_indices"]] == pytest.approx([0.0, 0.5, 1.0])
    assert found["total_num_frames"] > found["frames_indices"][-1]


def test_what_cannot_be_loaded_is_an_error_with_a_next_step(tmp_path):
    with pytest.raises(UsageError, match="--model"):
        VlmCaptioner(CaptionerOptions(captioner="transformers"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    captioner = VlmCaptioner(options(tmp_path))
    with pytest.raises(RushesError, match="cannot be loaded"):
        captioner.setup()


def test_answers_are_checked_against_the_schema():
    good = {
        "short": "a dog",
        "dense": "A dog runs.",
        "subjects": ["dog"],
        "actions": ["runs"],
        "setting": "",
        "shot_type": "",
        "lighting": "",
        "style": "",
        "camera": "static",
    }
    import json

    assert parse_answer("```json\n" + json.dumps(good) + "\n```") == good
    assert parse_answer(json.dumps(good)[:-10]) is None
    assert answer_faults(good | {"subjects": "dog"}) == ["subjects is no list of texts"]
    assert len({prompt.sha256 for prompt in PROMPTS.values()}) == len(PROMPTS)
