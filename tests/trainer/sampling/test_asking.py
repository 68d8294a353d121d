"""What is asked for is what is made: no picture, rate, name or setting is left out without a word."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from manifests import cli
from manifests.cli.frame import main
from manifests.errors import RushesError, UsageError
from media.decode.images import encode_png
from media.decode.probe import probe
from media.writer import write_video
from tests.e2e.commands import start
from tests.trainer.conftest import film, write_uneven
from tests.trainer.sampling.test_features import QUICK
from trainer.sampling import memory
from trainer.sampling.job import inputs
from trainer.sampling.job.inputs import held, read_clip

SMALL = ("--width", "24", "--height", "16")


def sample(model_folder, *words):
    return main(arguments=["sample", str(model_folder), *QUICK, *map(str, words)])


def refused(capsys, model_folder, *words):
    assert sample(model_folder, *words) == cli.USAGE
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def pictures(tmp_path):
    found = []
    for index, value in enumerate((40, 200)):
        found.append(tmp_path / f"{index}.png")
        found[-1].write_bytes(encode_png(np.full((16, 24, 3), value, np.uint8)))
    return found


@pytest.mark.parametrize("count", [2, 5, 17, 97])
@pytest.mark.parametrize("kind", [("mkv", "ffv1"), ("webm", "vp9"), ("mp4", "h264")])
def test_a_files_own_rate_is_read_and_takes_all_its_frames(tmp_path, count, kind):
    suffix, codec = kind
    for fps in (12.0, 24.0):
        path = tmp_path / f"{fps:g}.{suffix}"
        write_video(path, film(1, count, 24, 16, fps), fps, codec)
        clip = read_clip(path)
        assert (len(clip), clip.fps) == (count, pytest.approx(fps, rel=1e-6))
        assert len(read_clip(path, None, fps)) == count
        assert len(read_clip(path, None, fps / 2)) == -(-count // 2)


def test_own_samples_can_be_joined_and_keep_their_rate(model_folder, tmp_path):
    for name, count in (("a", 17), ("b", 5)):
        write_video(tmp_path / f"{name}.mkv", film(1, count, 24, 16, 12.0), 12.0, "ffv1")
    out = tmp_path / "c.mkv"
    words = ("--connect", tmp_path / "a.mkv", tmp_path / "b.mkv", "--gap", "0.5", "--out", out)
    assert sample(model_folder, *words) == cli.DONE
    assert (len(read_clip(out)), probe(str(out)).fps) == (28, 12.0)


def test_one_frame_has_no_rate_of_its_own(model_folder, tmp_path, pictures):
    write_video(tmp_path / "a.mkv", film(1, 9, 24, 16, 24.0), 24.0, "ffv1")
    write_video(tmp_path / "one.mkv", film(1, 1, 24, 16, 12.0), 12.0, "ffv1")
    assert probe(str(tmp_path / "one.mkv")).fps == 12.0
    for lone in (pictures[0], tmp_path / "one.mkv"):
        for pair in ((lone, tmp_path / "a.mkv"), (tmp_path / "a.mkv", lone)):
            out = tmp_path / "c.mkv"
            words = ("--connect", *pair, "--gap", "0.25", "--out", out, "--overwrite")
            assert sample(model_folder, *words) == cli.DONE
            assert (len(read_clip(out)), probe(str(out)).fps) == (16, 24.0)


def test_workers_are_of_a_launch(model_folder, tmp_path, capsys):
    words = ("--prompt", "x", *SMALL, "--frames", "1", "--out", tmp_path / "a.png")
    assert "is of --launch" in refused(capsys, model_folder, *words, "--workers", "2")


def test_uneven_times_are_taken_at_an_even_rate(tmp_path, capsys):
    path, times = tmp_path / "a.mkv", [0, 40, 80, 120, 500, 540, 1000]
    write_uneven(path, times)
    clip = read_clip(path)
    assert clip.fps == pytest.approx(25, rel=0.01)
    shown = [index for index in range(25) if torch.equal(clip.frames[index], clip.frames[index + 1])]
    assert len(shown) > 15 and 4 <= len(clip) - 22 <= 6
    assert "uneven times" in capsys.readouterr().err
    facts = probe(str(path))
    assert held([time_ms / 1000 for time_ms in times], facts, 10.0)[:6] == [1, 3, 3, 3, 3, 5]
    assert read_clip(path, fps=25).fps == 25
    with pytest.raises(UsageError, match="is more than"):
        read_clip(path, fps=500)


def test_a_picture_is_of_any_rate(model_folder, tmp_path, pictures):
    out = tmp_path / "a.mkv"
    words = ("--video", pictures[0], "--extend-after", "1", "--fps", "24", "--out", out)
    assert sample(model_folder, *words) == cli.DONE
    assert (len(read_clip(out)), probe(str(out)).fps) == (25, 24.0)


def test_no_picture_is_left_out(model_folder, tmp_path, pictures, capsys):
    first, last = pictures
    out = tmp_path / "a.png"
    assert sample(model_folder, "--image", first, "--frames", "1", "--out", out) == cli.DONE
    assert (read_clip(out).frames == 40).all()
    for words, names in (
        (("--image", first, "--last-image", last, "--frames", "1"), ("--image", "--last-image")),
        (("--image", first, "--keyframe", f"0={last}"), ("--image", "--keyframe 0")),
        (("--keyframe", f"0.5={first}", f"0.5={last}"), ("--keyframe 0.5", "frame 6")),
    ):
        out = tmp_path / ("b.png" if "--frames" in words else "b.mkv")
        said = refused(capsys, model_folder, *words, "--out", out, "--fps", "12")
        assert all(name in said for name in names), said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--strength", "0", "--prompt", "x"), "--strength"),
        (("--prompt", "bad \udcff"), "--prompt"),
        (("--negative", "bad \ud800", "--guidance", "3"), "--negative"),
        (("--negative", "x", "--guidance", "1"), "--negative"),
        (("--frames", "1", "--out", "a.mp4"), "cannot hold one frame"),
    ],
    ids=ascii,
)
def test_what_says_nothing_is_refused(model_folder, tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    words = words if "--out" in words else (*words, "--out", "a.png")
    assert told in refused(capsys, model_folder, *words)


def test_an_edit_by_two_prompts_that_needs_windows_is_refused_before_it(model_folder, tmp_path, capsys):
    write_video(tmp_path / "a.mkv", film(1, 33, 24, 16, 12.0), 12.0, "ffv1")
    words = ("--edit", tmp_path / "a.mkv", "--from-prompt", "a", "--prompt", "b", "--out", tmp_path / "b.mkv")
    said = refused(capsys, model_folder, *words, "--window", "3", "--overlap", "1")
    assert "--from-prompt" in said and "--window" in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"prompt": "red", "name": "00001"}\n{"prompt": "blue"}', "two samples of the name 00001-seed0"),
        ('{"prompt": "a \\ud800 b"}', "no text"),
        (json.dumps({"prompt": "a", "name": "x" * 250}), "at most 150 bytes"),
        (json.dumps({"prompt": "a", "seed": 1 << 63}), f"at most {1 << 62}"),
        (json.dumps({"prompt": "red ball " * 2000}), "at most 10000 are read"),
    ],
)
def test_prompts_that_would_lose_a_sample_are_refused(model_folder, tmp_path, capsys, text, told):
    (tmp_path / "p.jsonl").write_text(text)
    said = refused(capsys, model_folder, "--prompts", tmp_path / "p.jsonl", *SMALL, "--out", tmp_path / "out")
    assert told in said


def test_a_line_is_a_prompt_whatever_it_holds(model_folder, tmp_path):
    (tmp_path / "p.txt").write_text("a\u2028ball\x0cand \x85 a box\na star\n")
    words = ("--prompts", tmp_path / "p.txt", *SMALL, "--frames", "1", "--out", tmp_path / "out")
    assert sample(model_folder, *words) == cli.DONE
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_going_on_looks_at_what_was_given_and_not_at_its_name(model_folder, tmp_path, capsys, pictures):
    (tmp_path / "p.txt").write_text("a ball\n")
    words = ("--image", pictures[0], "--prompts", tmp_path / "p.txt", "--frames", "5")
    words = (*words, "--out", tmp_path / "out")
    assert sample(model_folder, *words) == cli.DONE
    (tmp_path / "other").symlink_to(model_folder)
    capsys.readouterr()
    assert sample(tmp_path / "other", *words) == cli.DONE
    assert "nothing to make" in capsys.readouterr().err
    pictures[0].write_bytes(pictures[1].read_bytes())
    assert "other settings" in refused(capsys, model_folder, *words)


def test_a_file_that_is_not_ours_stays(model_folder, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a ball\n")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "00000-seed0.png"
    mine.write_bytes(b"mine")
    words = ("--prompts", tmp_path / "p.txt", *SMALL, "--frames", "1", "--out", tmp_path / "out")
    assert "exists" in refused(capsys, model_folder, *words)
    assert mine.read_bytes() == b"mine"


def test_told_to_end_it_leaves_no_half_a_file(model_folder, tmp_path):
    words = ("sample", model_folder, "--prompt", "a ball", *SMALL, "--seconds", "600", "--window", "3")
    process = start(*words, "--overlap", "1", *QUICK, "--out", tmp_path / "a.mp4")
    until_s = time.monotonic() + 60
    while not list(tmp_path.glob(".*")) and time.monotonic() < until_s:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(120) == cli.INTERRUPTED
    assert {path.name for path in tmp_path.iterdir()} <= {".a.windows"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--frames", "1", "--width", "16384", "--height", "16384"), "its frames"),
        (("--seconds", "36000", "--fps", "1000", "--width", "1920", "--height", "1080"), "its latents"),
        (("--frames", "257", "--width", "1024", "--height", "1024"), "the tokens of a window"),
    ],
)
def test_what_no_memory_holds_is_refused_before_any_work(
    model_folder, tmp_path, capsys, monkeypatch, words, told
):
    monkeypatch.setattr(memory, "_there", lambda device: 1 << 30)
    suffix = "png" if words[1] == "1" else "mp4"
    said = refused(
        capsys, model_folder, "--prompt", "x", *words, "--window", "64", "--out", tmp_path / f"a.{suffix}"
    )
    assert f"GiB of memory, most for {told}; there are 1." in said


@pytest.mark.parametrize("name", ["--blend", "--connect", "--keyframe"])
def test_an_option_that_a_pattern_leaves_empty_is_refused(model_folder, tmp_path, capsys, name):
    said = refused(capsys, model_folder, "--prompt", "x", name, "--out", tmp_path / "a.mkv")
    assert f"{name}: is given without a value" in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["p.csv", "p.json", "P.TSV", "p.yaml"])
def test_prompts_of_another_kind_are_refused(model_folder, tmp_path, capsys, name):
    (tmp_path / name).write_text('prompt,seed\na,1\n["a"]\n')
    said = refused(capsys, model_folder, "--prompts", tmp_path / name, *SMALL, "--out", tmp_path / "out")
    assert "is not read" in said and not (tmp_path / "out").exists()


def test_a_loop_of_seconds_is_of_whole_latents_or_refused(model_folder, tmp_path, capsys):
    words = ("--loop", "--fps", "13", *SMALL, "--out", tmp_path / "a.mkv")
    assert "24 or 28" in refused(capsys, model_folder, *words, "--seconds", "2")
    assert sample(model_folder, "--loop", "--fps", "12", "--seconds", "1", *SMALL, *words[-2:]) == cli.DONE
    assert len(read_clip(tmp_path / "a.mkv")) == 12


def test_a_video_too_long_is_refused_before_it_is_read(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv", film(1, 40, 24, 16, 12.0), 12.0, "ffv1")
    monkeypatch.setattr(inputs, "MAX_BYTES", 39 * 24 * 16 * 3)
    monkeypatch.setattr(inputs, "Reader", None)
    with pytest.raises(RushesError, match="has 40 frames, which would take"):
        read_clip(tmp_path / "a.mkv")


def test_errors_of_pictures_name_their_option_and_what_can_be_done(model_folder, tmp_path, capsys, pictures):
    first = pictures[0]
    out = ("--out", tmp_path / "o.mkv")
    said = refused(capsys, model_folder, "--keyframe", f"0={first}", f"100={first}", "--fps", "12", *out)
    assert f"--keyframe 100={first}: is frame 1200 of a video of 25. The last one is at 2 s" in said
    said = refused(capsys, model_folder, "--image", first, "--out", tmp_path / "o.png")
    assert "is a picture, and --image makes a video" in said
    for name, (width, height) in {"wide": (24, 16), "tall": (16, 24), "large": (48, 32)}.items():
        write_video(tmp_path / f"{name}.mkv", film(1, 9, width, height, 12.0), 12.0, "ffv1")
    wide = tmp_path / "wide.mkv"
    for other, told in (("tall", "shapes differ"), ("large", "--width and --height")):
        said = refused(capsys, model_folder, "--connect", wide, tmp_path / f"{other}.mkv", *out)
        assert "cannot be joined" in said and told in said
    (tmp_path / "mask.png").write_bytes(encode_png(np.full((24, 16, 3), 255, np.uint8)))
    said = refused(capsys, model_folder, "--edit", wide, "--mask", tmp_path / "mask.png", *out)
    assert "A mask has the shape of what it masks" in said and "--width" not in said
    assert "and at most" in refused(capsys, model_folder, "--prompt", "x", "--seed", 2**63, *out)
