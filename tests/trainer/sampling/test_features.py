"""Every feature by the command, on videos of odd sizes: what is kept, size, length and rate of the rest."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from manifests import cli
from manifests.cli.frame import main
from tests.e2e.commands import run
from tests.trainer.conftest import film
from trainer.sampling.job.inputs import read_clip
from trainer.sampling.job.kept_windows import KeptWindows
from trainer.sampling.job.prompts import PromptLine, read_prompts
from trainer.sampling.trained import RECORD
from vae.folder import weights_digest

QUICK = ("--steps", "2", "--guidance", "1", "--solver", "euler")


def sample(model_folder, out, *words):
    assert (
        main(arguments=["sample", str(model_folder), "--out", str(out), *QUICK, *map(str, words)]) == cli.DONE
    )
    return read_clip(out)


def made(clip, count, width=41, height=27, fps=10.0):
    assert clip.frames.shape == (count, height, width, 3)
    assert clip.fps == pytest.approx(fps, rel=0.01)
    return clip.frames


@pytest.fixture(scope="module")
def one(two_films):
    return read_clip(two_films[0]).frames


@pytest.fixture(scope="module")
def two(two_films):
    return read_clip(two_films[1]).frames


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (("--width", 33, "--height", 50, "--frames", 6, "--fps", 7), (6, 50, 33, 7.0)),
        (("--seconds", 1.5), (18, 96, 128, 12.0)),
        (("--width", 17, "--height", 9, "--seconds", 0.7, "--fps", 29.97), (21, 9, 17, 29.97)),
    ],
)
def test_text_to_video_has_the_size_length_and_rate_asked_for(model_folder, tmp_path, words, shape):
    count, height, width, fps = shape
    made(
        sample(model_folder, tmp_path / "a.mkv", "--prompt", "a red ball", *words), count, width, height, fps
    )


def test_text_to_image(model_folder, tmp_path):
    clip = sample(model_folder, tmp_path / "a.png", "--prompt", "a red ball", "--width", 31, "--height", 64)
    assert clip.frames.shape == (1, 64, 31, 3)
    assert not (tmp_path / "a.sheet.png").exists()


def test_first_last_and_key_pictures_come_back(model_folder, tmp_path, one, two_films):
    from media.decode.images import encode_png

    for index in (0, 9, 22):
        (tmp_path / f"{index}.png").write_bytes(encode_png(one[index].numpy()))
    words = ("--image", tmp_path / "0.png", "--last-image", tmp_path / "22.png", "--fps", 10, "--frames", 30)
    frames = made(
        sample(model_folder, tmp_path / "a.mkv", *words, "--keyframe", f"0.9={tmp_path / '9.png'}"), 30
    )
    assert torch.equal(frames[0], one[0])
    assert torch.equal(frames[9], one[9])
    assert torch.equal(frames[29], one[22])
    assert not torch.equal(frames[5], one[5])


def test_a_video_is_extended_after_and_before(model_folder, tmp_path, one, two_films):
    frames = made(
        sample(model_folder, tmp_path / "a.mkv", "--video", two_films[0], "--extend-after", 0.7), 30
    )
    assert torch.equal(frames[:23], one)
    frames = made(
        sample(model_folder, tmp_path / "b.mkv", "--video", two_films[0], "--extend-before", 0.6), 29
    )
    assert torch.equal(frames[6:], one)


def test_two_videos_are_connected(model_folder, tmp_path, one, two, two_films):
    frames = made(
        sample(model_folder, tmp_path / "a.mkv", "--connect", *two_films, "--gap", 0.5), 23 + 5 + 18
    )
    assert torch.equal(frames[:23], one)
    assert torch.equal(frames[28:], two)


def test_a_video_is_closed_to_a_loop(model_folder, tmp_path, one, two_films):
    words = ("--loop", "--video", two_films[0], "--gap", 0.8)
    frames = made(sample(model_folder, tmp_path / "a.mkv", *words), 23 + 8)
    assert torch.equal(frames[:23], one)


def test_a_loop_of_its_own_fills_whole_latents(model_folder, tmp_path):
    words = ("--loop", "--seconds", 1.2, "--fps", 10, "--width", 41, "--height", 27)
    made(sample(model_folder, tmp_path / "a.mkv", *words), 12)


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_an_edit_of_strength_0_is_the_video_itself(model_folder, tmp_path, one, two_films, strength):
    frames = made(
        sample(model_folder, tmp_path / "a.mkv", "--edit", two_films[0], "--strength", strength), 23
    )
    assert torch.equal(frames, one) == (strength == 0)


def test_outside_the_mask_an_edit_keeps_every_pixel(model_folder, tmp_path, one, two_films):
    from media.decode.images import encode_png

    mask = np.zeros((27, 41, 3), np.uint8)
    mask[5:20, 10:21] = 255
    (tmp_path / "mask.png").write_bytes(encode_png(mask))
    words = ("--edit", two_films[0], "--strength", 1, "--mask", tmp_path / "mask.png")
    frames = made(sample(model_folder, tmp_path / "a.mkv", *words), 23)
    kept = torch.from_numpy(mask[..., 0] == 0)
    assert torch.equal(frames[:, kept], one[:, kept])
    assert not torch.equal(frames[:, ~kept], one[:, ~kept])


def test_an_edit_by_two_equal_prompts_is_the_round_trip(model_folder, tmp_path, one, two_films):
    words = ("--edit", two_films[0], "--prompt", "a ball", "--from-prompt", "a ball")
    frames = made(sample(model_folder, tmp_path / "a.mkv", *words), 23)
    assert (frames.int() - one.int()).abs().float().mean() < 8


def test_one_video_becomes_the_other(model_folder, tmp_path, one, two, two_films):
    words = ("--blend", *two_films, "--seconds", 1.3, "--prompt", "a ball", "--to-prompt", "a box")
    frames = made(sample(model_folder, tmp_path / "a.mkv", *words), 23 + 18 - 13)
    assert torch.equal(frames[:11], one[:11])
    assert torch.equal(frames[-6:], two[-6:])


def test_a_long_video_is_made_in_windows_with_all_that_is_given(model_folder, tmp_path, one, two_films):
    from media.decode.images import encode_png

    (tmp_path / "last.png").write_bytes(encode_png(one[-1].numpy()))
    words = (
        "--last-image",
        tmp_path / "last.png",
        "--frames",
        70,
        "--fps",
        10,
        "--window",
        6,
        "--overlap",
        2,
    )
    frames = made(sample(model_folder, tmp_path / "a.mkv", *words), 70)
    assert torch.equal(frames[69], one[-1])
    words = (
        "--loop",
        "--frames",
        40,
        "--fps",
        10,
        "--width",
        41,
        "--height",
        27,
        "--window",
        6,
        "--overlap",
        2,
    )
    made(sample(model_folder, tmp_path / "b.mkv", *words), 40)


def test_the_record_lies_beside_the_file_and_in_it(model_folder, tmp_path):
    import av
    from PIL import Image

    sample(
        model_folder, tmp_path / "a.mp4", "--prompt", "a red ball", "--width", 40, "--height", 32, "--seed", 3
    )
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["prompt"] == "a red ball" and record["prompt_as_read"].startswith("A red ball")
    assert record["seed"] == 3 and record["feature"] == "text" and record["model_digest"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert json.loads(container.metadata["comment"]) == record
    sample(model_folder, tmp_path / "b.png", "--width", 40, "--height", 32)
    with Image.open(tmp_path / "b.png") as picture:
        assert json.loads(picture.info["Comment"]) == json.loads((tmp_path / "b.json").read_text())
    assert not list(tmp_path.glob(".*"))


def test_prompts_of_a_file_are_made_once(model_folder, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "a ball", "name": "ball"}\n{"prompt": "a box", "seed": 7}\n'
    )
    words = [
        "sample",
        str(model_folder),
        "--prompts",
        str(tmp_path / "prompts.jsonl"),
        "--seeds",
        "2",
        *QUICK,
    ]
    words += ["--width", "24", "--height", "16", "--frames", "5", "--out", str(tmp_path / "out")]
    assert main(arguments=words) == cli.DONE
    names = {path.name for path in (tmp_path / "out").glob("*.mp4")}
    assert names == {f"{name}.mp4" for name in ("ball-seed0", "ball-seed1", "00001-seed7", "00001-seed8")}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "ball-seed1.mp4").unlink()
    assert main(arguments=words) == cli.DONE
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert {path.name.split(".")[0] for path in after if after[path] != before[path]} == {"ball-seed1"}
    kept, own = tmp_path / "out" / "ball-seed1.mp4", tmp_path / "out" / "ball-seed1.json"
    record, film = own.read_text(), kept.read_bytes()
    kept.unlink()
    own.write_text('{"mine": 1}')  # somebody's own file of that name
    assert main(arguments=words) == cli.USAGE
    assert own.read_text() == '{"mine": 1}' and "ball-seed1.json" in capsys.readouterr().err
    own.write_text(record)
    kept.write_bytes(film)
    assert main(arguments=[*words, "--steps", "3"]) == cli.USAGE
    assert "other settings" in capsys.readouterr().err
    alone = [*words[:2], "--prompt", "a box", "--seed", "8", *words[6:-2], "--out", str(tmp_path / "one.mp4")]
    assert main(arguments=alone) == cli.DONE
    assert (
        read_clip(tmp_path / "one.mp4").frames == read_clip(tmp_path / "out/00001-seed8.mp4").frames
    ).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\n{"prompt"', "line 2"),
        ('{"prompt": 5}', "has the prompt 5"),
        ('{"prompt": "a", "seed": "x"}', 'has the seed "x"'),
        ('{"prompt": "a", "seed": null}', "has the seed null"),
        ('{"prompt": "a", "wdith": 3}', 'has the key "wdith"'),
        ('{"prompt": "a", "name": "a\\u001b[31mb"}', "has the name"),
        ('{"prompt": "a", "name": "../x"}', "has the name"),
        ('{"prompt": "a", "name": "x"}\n{"prompt": "b", "name": "x"}', "has the name x twice"),
        ("\n", "has no prompt"),
    ],
)
def test_prompts_that_are_none_are_refused_by_their_line(model_folder, tmp_path, capsys, text, said):
    (tmp_path / "prompts.jsonl").write_text(text)
    words = ["--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out"), *QUICK]
    assert main(arguments=["sample", str(model_folder), *words]) in (cli.USAGE, cli.INTEGRITY)
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_last_prompt_counts_without_a_newline(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "seed": 7}')
    assert read_prompts(tmp_path / "a.jsonl") == [PromptLine("a"), PromptLine("b", 7)]
    (tmp_path / "a.txt").write_text("\ufeffa ball\r\n\na box", encoding="utf-8")
    assert [line.prompt for line in read_prompts(tmp_path / "a.txt")] == ["a ball", "a box"]
    (tmp_path / "a.txt").write_text("# of balls\na ball #1\n  # and\n")
    assert [line.prompt for line in read_prompts(tmp_path / "a.txt")] == ["a ball #1"]


@pytest.mark.parametrize("device", ["cudda", "cuda:77"])
def test_a_device_that_is_not_there_is_one_line(model_folder, tmp_path, capsys, device):
    words = ["sample", str(model_folder), "--device", device, "--out", str(tmp_path / "a.mp4")]
    assert main(arguments=words) == cli.USAGE
    [line] = capsys.readouterr().err.strip().splitlines()
    assert f"--device {device}" in line


def test_an_output_that_cannot_be_is_refused_before_the_model_is_read(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "a.png", tmp_path / "a.gif", tmp_path / "a"):
        assert main(arguments=["sample", "nosuch", "--out", str(out)]) == cli.USAGE
        assert str(tmp_path) in capsys.readouterr().err


def test_processes_share_the_samples(model_folder, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a ball\n\na box\na star\n")
    words = ["sample", str(model_folder), "--prompts", str(tmp_path / "prompts.txt"), *QUICK]
    words += ["--width", "24", "--height", "16", "--out", str(tmp_path / "out")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in (("0", 2), ("1", 3)):
        monkeypatch.setenv("RANK", rank)
        assert main(arguments=words) == cli.DONE
        assert len(list((tmp_path / "out").glob("*.mp4"))) == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--video", "x.mp4"], "--video"),
        (["--extend-after", "2"], "--extend-after: needs --video"),
        (["--video", "ONE", "--extend-after", "nan"], "--extend-after: is nan"),
        (["--video", "ONE", "--extend-after", "1", "--loop"], "--extend-after and --loop"),
        (["--edit", "ONE", "--strength", "1.5"], "--strength"),
        (["--edit", "ONE", "--strength", "nan"], "--strength"),
        (["--edit", "ONE", "--frames", "5"], "--frames"),
        (["--strength", "0.5"], "--strength"),
        (["--connect", "ONE"], "takes two videos"),
        (["--connect", "ONE", "SMALL"], "41 x 27 and 20 x 20"),
        (["--connect", "ONE", "FAST"], "10 and 20 frames a second"),
        (["--blend", "ONE", "ONE", "--frames", "99"], "99 frames"),
        (["--fps", "0"], "--fps"),
        (["--seconds", "inf"], "--seconds"),
        (["--frames", "5", "--seconds", "1"], "--frames and --seconds"),
        (["--image", "NOTES"], "notes.txt"),
        (["--image", "nosuch.png"], "nosuch.png"),
        (["--image", "ONE", "--width", "50", "--height", "50"], "without cropping"),
        (["--keyframe", "ONE"], "SECONDS=FILE"),
        (["--keyframe", "99=PICTURE"], "frame 1188"),
        (["--image", "ONE"], "is a video, and a picture is wanted"),
        (["--edit", "ONE", "--mask", "ONE"], "is a video, and a picture is wanted"),
        (["--blend", "ONE", "ONE", "--frames", "5"], "at least 6"),
        (["--prompt", "x", "--condition-guidance", "4"], "--condition-guidance"),
        (["--edit", "ONE", "--condition-guidance", "4"], "--condition-guidance"),
        (["--prompt", "x", "--guidance", "1", "--rescale", "0.7"], "--rescale"),
        (["--prompt", "x", "--guidance", "1", "--guidance-interval", "0.1", "1"], "--guidance-interval"),
        (["--prompt", "x", "--gpus", "1"], "--gpus"),
        (["--video", "ONE", "--extend-after", "1", "--out", "out.png"], "is a picture, and --extend-after"),
        (["--prompt", "x", "--out", "/proc/nosuch/out.mp4"], "/proc/nosuch"),
        (["--prompt", "x", "OTHER"], "VAE vae-tiny: is not the one"),
        (["--loop", "--frames", "10"], "multiple of 4"),
        (["--edit", "ONE", "--mask", "PICTURE"], "marks nothing"),
        (["--window", "4", "--overlap", "4"], "overlap"),
        (["--guidance", "nan"], "guidance"),
        (["--prompts", "nosuch.txt", "--out", "folder"], "nosuch.txt"),
        (["--seeds", "2"], "Name a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_made_is_one_line_before_any_work(
    model_folder, two_films, tmp_path, capsys, monkeypatch, words, told
):
    from media.decode.images import encode_png
    from media.writer import write_video

    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "small.mkv", film(0, 9, 20, 20, 10.0), 10.0, "ffv1")
    write_video(tmp_path / "fast.mkv", film(0, 9, 41, 27, 20.0), 20.0, "ffv1")
    (tmp_path / "black.png").write_bytes(encode_png(np.zeros((27, 41, 3), np.uint8)))
    (tmp_path / "notes.txt").write_text("no picture")
    names = {"ONE": two_films[0], "SMALL": tmp_path / "small.mkv", "FAST": tmp_path / "fast.mkv"}
    names |= {"NOTES": tmp_path / "notes.txt", "PICTURE": tmp_path / "black.png"}
    if "OTHER" in words:
        record = json.loads((model_folder / RECORD).read_text())
        shutil.copytree(model_folder, tmp_path / "model")
        (tmp_path / "model" / RECORD).write_text(
            json.dumps(record | {"vae_digest": weights_digest("vae-tiny-2")})
        )
        model_folder, words = tmp_path / "model", words[:-1]
    monkeypatch.setattr("trainer.sampling.job.making.generate", lambda *_: pytest.fail("work was done"))
    monkeypatch.setattr("trainer.sampling.windows.generate", lambda *_: pytest.fail("work was done"))
    for name, path in names.items():
        words = [word.replace(name, str(path)) for word in words]
    out = [] if "--out" in words else ["--out", str(tmp_path / "out.mp4")]
    code = main(arguments=["sample", str(model_folder), *words, *out])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code in (cli.USAGE, cli.INTEGRITY, cli.FAILED)
    assert told in lines[-1] and "Traceback" not in "".join(lines)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.long
def test_ray_workers_share_the_samples(model_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a ball\na box\na star\n")
    words = ["--prompts", tmp_path / "prompts.txt", "--width", 24, "--height", 16, "--frames", 5, *QUICK]
    words += ["--launch", "ray", "--workers", 2, "--out", tmp_path / "out"]
    run("sample", model_folder, *words)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mp4")}
    assert len(made) == 3
    next(iter(made)).unlink()
    run("sample", model_folder, *words)  # makes what is not there
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mp4")}
    assert [path for path in made if after[path] != made[path]] == [next(iter(made))]
    one = [*words[2:-6], "--prompt", "a star", "--out", tmp_path / "one.mp4"]
    run("sample", model_folder, *one)
    alone, shared = (read_clip(tmp_path / name).frames for name in ("one.mp4", "out/00002-seed0.mp4"))
    assert torch.equal(alone, shared)


@pytest.mark.parametrize("closing", [(), ("--loop",)])
def test_a_long_video_that_was_stopped_goes_on_after_its_last_window(
    model_folder, tmp_path, monkeypatch, closing
):
    from trainer.sampling import windows

    words = ("--prompt", "a ball", "--frames", 44, "--fps", 10, "--window", 6, "--overlap", 2)
    words = (*words, "--width", 41, "--height", 27, *closing)
    whole, real, calls = sample(model_folder, tmp_path / "a.mkv", *words), windows.generate, []

    def generate(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(windows, "generate", generate)
    asked = ["sample", str(model_folder), "--out", str(tmp_path / "b.mkv"), *QUICK, *map(str, words)]
    assert main(arguments=asked) == cli.INTERRUPTED
    assert not (tmp_path / "b.mkv").exists()
    assert len(list((tmp_path / ".b.windows").iterdir())) == 2
    monkeypatch.setattr(windows, "generate", lambda *given: calls.append(1) or real(*given))
    found = sample(model_folder, tmp_path / "b.mkv", *words)
    assert torch.equal(found.frames, whole.frames)
    assert len(calls) == 3  # each window once
    assert not list(tmp_path.glob(".*"))


def test_windows_of_another_sample_or_of_a_file_cut_short_are_not_taken(tmp_path):
    kept = KeptWindows(tmp_path / "a.mp4", {"seed": 1})
    kept.put(3, torch.ones(2, 1, 4, 4)[:, :, ::2])
    assert torch.equal(kept.get(3), torch.ones(2, 1, 2, 4)) and kept.get(2) is None
    assert KeptWindows(tmp_path / "a.mp4", {"seed": 2}).get(3) is None
    [path] = (tmp_path / ".a.windows").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert kept.get(3) is None
    kept.forget()
    assert not list(tmp_path.iterdir())


def test_a_result_of_other_words_is_not_taken_for_this_one(model_folder, tmp_path, two_films, capsys):
    asked = ["sample", str(model_folder), *QUICK, "--seeds", "2", "--prompt", "a ball"]
    edit = [*asked, "--edit", str(two_films[0]), "--strength", "0.5"]
    blend = [*asked, "--blend", *map(str, two_films), "--frames", "9"]
    for number, (words, more) in enumerate(((edit, "--from-prompt"), (blend, "--to-prompt"))):
        for first, then in (((), (more, "a box")), ((more, "a box"), ())):
            out = str(tmp_path / f"{number}{len(first)}")
            assert main(arguments=[*words, *first, "--out", out]) == cli.DONE
            assert main(arguments=[*words, *then, "--out", out]) == cli.USAGE
            assert "other settings" in capsys.readouterr().err
            assert main(arguments=[*words, *first, "--out", out, "--steps", "3"]) == cli.USAGE
            assert "other settings (steps)" in capsys.readouterr().err
            assert main(arguments=[*words, *first, "--out", out]) == cli.DONE


def test_the_record_says_what_was_not_said(model_folder, tmp_path, two_films):
    sample(model_folder, tmp_path / "a.mkv", "--edit", two_films[0], "--prompt", "a ball")
    made = json.loads((tmp_path / "a.json").read_text())["made"]
    assert (made["strength"], made["width"], made["height"], made["device"]) == (0.6, 41, 27, "cpu")
    sample(model_folder, tmp_path / "b.mkv", "--connect", *two_films)
    made = json.loads((tmp_path / "b.json").read_text())["made"]
    assert (made["gap"], made["fps"]) == (1.0, 10.0) and made["frames"] == len(read_clip(tmp_path / "b.mkv"))


def test_what_windows_keep_of_each_other_is_guided_too(model_folder, tmp_path):
    words = (
        "--width",
        33,
        "--height",
        17,
        "--frames",
        41,
        "--window",
        6,
        "--overlap",
        2,
        "--prompt",
        "a ball",
    )
    plain = sample(model_folder, tmp_path / "a.mkv", *words).frames
    guided = sample(model_folder, tmp_path / "b.mkv", *words, "--condition-guidance", "3").frames
    assert torch.equal(plain[:20], guided[:20]) and not torch.equal(plain, guided)
