"""What a sample begins with is taken as it is, or it is said what is wrong with it: damage, another shape,
times that fall apart, a model that has blown up, a result in the place of its own input."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from manifests import cli
from manifests.cli.frame import main
from manifests.errors import RushesError, UsageError
from media.decode.probe import probe
from media.writer import write_video
from tests.ffmpeg import ffmpeg
from tests.trainer.conftest import film, write_uneven
from tests.trainer.sampling.model import CANVAS, OracleModel
from tests.trainer.sampling.test_features import QUICK
from trainer.sampling.draft import Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.guidance import Guidance
from trainer.sampling.job.inputs import _is_alike, read_clip
from trainer.sampling.job.prompts import read_prompts


def test_damage_of_a_film_is_said(tmp_path, capsys):
    path = tmp_path / "a.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=24:d=2", "-c:v", "libx264", "-g", "12", "-bf", "0"]
    subprocess.run([ffmpeg(), "-v", "error", "-y", *source, str(path)], check=True)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    at = begin + (data.index(b"moov") - begin) // 2
    data[at : at + 300] = bytes(300)
    path.write_bytes(data)
    clip = read_clip(path)
    said = capsys.readouterr().err
    assert "are damaged" in said and "of its 48 frames" in said
    assert len(clip) == 48 and clip.fps == pytest.approx(24)  # what is missing leaves its time to others


def test_a_film_that_changes_its_shape_is_not_squeezed(tmp_path):
    for name, size in (("one", "64x48"), ("two", "48x64")):
        source = f"testsrc2=s={size}:r=12:d=1"
        command = [ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264"]
        offset = ["-output_ts_offset", "1"] if name == "two" else []
        subprocess.run([*command, *offset, str(tmp_path / f"{name}.ts")], check=True)
    joined = tmp_path / "a.ts"
    joined.write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    with pytest.raises(UsageError, match="changes its shape at 1"):
        read_clip(joined)


def test_a_burst_of_frames_is_not_left_out_in_silence(tmp_path, capsys):
    path = tmp_path / "a.mkv"
    frames = write_uneven(path, [*range(0, 400, 40), *range(520, 2000, 120)])
    clip = read_clip(path)
    assert clip.fps == pytest.approx(25)
    found = {bytes(frame.numpy()) for frame in clip.frames}
    assert all(rgb.tobytes() in found for rgb in frames)
    assert "are left out" not in capsys.readouterr().err
    read_clip(path, fps=10)
    assert "of its 23 frames are left out" in capsys.readouterr().err


def test_a_clock_that_jitters_is_not_taken_for_a_faster_one(tmp_path, capsys):
    path, rng = tmp_path / "a.mkv", np.random.default_rng(0)
    times = [0, *np.cumsum(rng.choice([62, 63, 64, 66, 68, 70, 71, 72], 100)).tolist()]
    write_uneven(path, times)
    clip = read_clip(path)
    assert clip.fps == pytest.approx(1000 * 100 / times[-1], rel=1e-3) and len(clip.frames) == 101
    assert "are left out" not in capsys.readouterr().err
    write_uneven(path, [*range(0, 1000, 33), *range(1023, 2500, 42)])  # 30 a second, then 24
    assert read_clip(path).fps == pytest.approx(1000 / 33)


def test_a_flat_size_is_not_any_other_flat_one():
    assert not _is_alike((4000, 100), (40, 2)) and _is_alike((4000, 100), (40, 1))
    assert _is_alike((1920, 1080), (96, 54)) and _is_alike((1920, 1080), (64, 36))
    assert not _is_alike((64, 48), (48, 64))


class BlownUp(OracleModel):
    name = "spoiled"

    def predict(self, *given):
        return super().predict(*given) * float("nan")


def test_a_model_that_has_blown_up_makes_no_black_pictures():
    how = Sampling(steps=2, solver="euler", guidance=Guidance(text=1.0))
    with pytest.raises(RushesError, match="spoiled: gives predictions that are not finite"):
        generate(BlownUp(), [Request(canvas=CANVAS, seed=1)], how)


def test_nothing_replaces_what_it_begins_with(model_folder, tmp_path, capsys):
    path = tmp_path / "a.mkv"
    write_video(path, film(1, 9, 24, 16, 12.0), 12.0, "ffv1")
    before = path.read_bytes()
    (tmp_path / "link.mkv").symlink_to(path)
    for out in (path, tmp_path / "link.mkv"):
        words = ["--video", path, "--extend-after", "0.5", "--out", out, "--overwrite"]
        assert main(arguments=["sample", str(model_folder), *QUICK, *map(str, words)]) == cli.USAGE
        assert "would be replaced" in capsys.readouterr().err
    assert path.read_bytes() == before and probe(str(path)).num_packets == 9


def test_no_sample_of_many_replaces_what_it_begins_with(model_folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    write_video(out / "00000-seed0.mp4", film(1, 9, 24, 16, 12.0), 12.0, "h264")
    before = (out / "00000-seed0.mp4").read_bytes()
    (tmp_path / "p.txt").write_text("a ball\n")
    words = ["--prompts", tmp_path / "p.txt", "--video", out / "00000-seed0.mp4", "--extend-after", "0.5"]
    given = ["sample", str(model_folder), *QUICK, *map(str, [*words, "--out", out, "--overwrite"])]
    assert main(arguments=given) == cli.USAGE
    assert "would be replaced" in capsys.readouterr().err
    assert (out / "00000-seed0.mp4").read_bytes() == before


def test_prompts_of_old_macs_and_json_in_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\rtwo\r\nthree\n")
    assert [line.prompt for line in read_prompts(path)] == ["one", "two", "three"]
    path.write_text('{"prompt": "a ball"}\n')
    with pytest.raises(UsageError, match="JSON object"):
        read_prompts(path)
    path.write_text("{a ball}\n")
    assert [line.prompt for line in read_prompts(path)] == ["{a ball}"]


def test_the_largest_weight_that_is_told_is_taken():
    assert Guidance(text=1000.0).text == 1000
    with pytest.raises(UsageError, match="out of range"):
        Guidance(text=np.nextafter(1000, 2000))
