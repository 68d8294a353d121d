"""Every real file against what FFmpeg itself says of it (`ffmpeg_truth.json`, made by
`make_ffmpeg_truth.py`), or a refusal that names the cause.
"""

import csv
import json
import math
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError

TRUTH = json.loads((Path(__file__).parent / "ffmpeg_truth.json").read_text())
TIME_LIMIT_S = 60.0
SHADES = 2.0  # of 255

# Where we differ from FFmpeg on purpose, and why.
TONE_MAPPED = {
    "am_dolbyVision-hdr.MOV",
    "am_hdr10-av1.mp4",
    "am_hlg10-color-test.mp4",
    "derived/tagged_pq_bt2020.mp4",
}  # FFmpeg shows the code values
OVER_WHITE = {
    "iio_newtonscradle.gif",
    "mpy_pigs_in_a_polka.gif",
    "pil_iss634.gif",
    "w3c_giphy.gif",
    "imm_denali.webp",
    "mpy_transparent.webm",
}  # FFmpeg drops transparency
OWN_CLOCK = {
    "derived/midstream_resize.ts"
}  # its clock begins anew and its size changes; FFmpeg's times fall back and it scales to the first size
REFUSED = {
    "am_bbb_1ch_48kHz_q10_opus.webm": "no_video",
    "am_sample_audio_only_15s.mp4": "no_video",
    "derived/audio_only.m4a": "no_video",
    "derived/corrupt/text.mp4": "not_media",
    "derived/corrupt/trunc50_prores.mov": "cut",
    "fq_fragmented.mp4": "no_frames",
    "mp4p_chunk_out_of_range.mp4": "not_media",
    "mp4p_zero_empty_stsc.mp4": "no_frames",
}
# Broken on purpose, and what is said of them. The rest of `corrupt/` is damaged where no decoder can see it:
# all their frames are kept.
DAMAGED = {
    "derived/corrupt/flip20_h264.mp4": "damaged",
    "derived/corrupt/flip50.ts": "damaged",
    "derived/corrupt/trunc50.avi": "damaged",  # its last picture
    "derived/corrupt/zero8k_mid.mp4": "damaged",
    "derived/corrupt/zero4k_mid.mkv": "missing_frames",
    "derived/corrupt/trunc98_faststart.mp4": "lost_packets",
}


def rows(folder):
    with open(folder / "INDEX.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def check(folder, row):
    name, begin = row["file"], time.monotonic()
    truth = TRUTH[name]
    picked = {int(index): np.array(colour) for index, colour in truth["colours"].items()} if truth else {}
    times, colours, said = [], {}, set()
    try:
        facts = probe(str(folder / name))
        for index, picture in enumerate(VideoReader(facts, decoder="pyav").pictures()):
            times.append(picture.time_s)
            if picture.signs.is_damaged:
                said.add("damaged")
            if index in picked:
                colours[index] = picture.rgb(*picture.geometry.display_size_px).reshape(-1, 3).mean(0)
    except MediaError as error:
        assert name in str(error)
        said.add(error.reason)
    assert time.monotonic() - begin < TIME_LIMIT_S, name
    if name in REFUSED:
        assert (said, times) == ({REFUSED[name]}, []), name
        return
    if name in DAMAGED:
        assert DAMAGED[name] in said, name
        assert len(times) >= 0.9 * truth["num_frames"], name
        return
    assert not said, f"{name}: {said}"
    if truth is None:  # an animated WebP, which that FFmpeg cannot read
        assert name == "pil_iss634.webp"
        assert len(times) == 42
        return
    assert len(times) == truth["num_frames"], name
    if name in OWN_CLOCK:
        assert np.allclose(np.diff(times), times[1] - times[0], atol=1e-3)
        return
    for index, time_s in truth["times_s"].items():
        assert math.isnan(time_s) or abs(times[int(index)] - time_s) <= 1e-3, f"{name} frame {index}"
    if name not in TONE_MAPPED | OVER_WHITE and "corrupt" not in name:
        worst = max((np.abs(colours[index] - colour).max() for index, colour in picked.items()), default=0.0)
        assert worst <= SHADES, f"{name}: colours differ by {worst:.1f} of 255"
    geometry, (width, height) = facts.geometry, truth["stored_size_px"]
    assert (geometry.stored_width_px, geometry.stored_height_px) in {
        (width, height),
        (height, width) if facts.kind == "image" else (width, height),
    }, name
    if row["rot"] not in {"", "0"}:
        assert geometry.rotation_deg % 360 == int(row["rot"]) % 360, name
    aspect = [int(part) for part in row["sar"].split(":")] if ":" in row["sar"] else [1, 1]
    ratio = width * aspect[0] / (height * aspect[1])
    shown = geometry.display_size_px
    upright = shown[::-1] if geometry.quarter_turns % 2 else shown
    assert facts.kind == "image" or abs(upright[0] / upright[1] / ratio - 1) < 0.02, name
    assert facts.kind == "image" or (upright[0] >= width and upright[1] >= height), name


def test_small_real_files_match_ffmpeg(real_videos):
    small = [
        row
        for row in rows(real_videos)
        if int(row["n"] or 0) * int(row["w"] or 0) * int(row["h"] or 0) < 30_000_000
    ]
    assert len(small) > 80
    for row in small:
        check(real_videos, row)


@pytest.mark.slow
def test_all_real_files_match_ffmpeg(real_videos):
    for row in rows(real_videos):
        check(real_videos, row)


def test_a_range_read_after_a_seek_equals_the_range_of_the_whole(real_videos):
    checked = 0
    for row in rows(real_videos):
        if "corrupt" in row["file"] or not 24 <= int(row["n"] or 0) <= 160 or int(row["w"]) > 700:
            continue
        facts = probe(str(real_videos / row["file"]))
        if facts.decoder == "pillow" or row["file"] in OWN_CLOCK:
            continue
        whole = [
            (frame.time_s, frame.rgb.tobytes()) for frame in VideoReader(facts, 1024, decoder="pyav").frames()
        ]
        start = 0.6 * facts.duration_s
        for decoder in (None, "pyav"):
            part = [
                frame.time_s for frame in VideoReader(facts, 1024, decoder=decoder).frames(start, start + 0.5)
            ]
            assert part == [time for time, _ in whole if start - 1e-4 <= time < start + 0.5 - 1e-4], row[
                "file"
            ]
        part = [
            (frame.time_s, frame.rgb.tobytes())
            for frame in VideoReader(facts, 1024, decoder="pyav").frames(start, start + 0.5)
        ]
        assert part == [item for item in whole if start - 1e-4 <= item[0] < start + 0.5 - 1e-4], row["file"]
        checked += 1
    assert checked > 20


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_three_hundred_opens_leak_nothing(films, decoder):
    path = next(path for path in sorted(films.glob("film-*.mp4")))

    def first():
        return next(iter(VideoReader(probe(str(path)), 4096, decoder=decoder).frames()))

    for _ in range(30):
        first()
    before = resident_mib()
    for _ in range(300):
        first()
    grown = resident_mib() - before
    print(f"{decoder}: {grown:.1f} MiB after 300 opens")
    assert grown < 20


def test_what_an_old_encoder_wrote_is_the_same_from_the_middle(real_videos):
    """4:4:4 of an x264 that says who it is in the first packet alone."""
    facts = probe(str(real_videos / "iio_cockatoo.mp4"))
    assert "old_444" in facts.decoder_reasons
    whole = {frame.time_s: frame.rgb.tobytes() for frame in VideoReader(facts, 4096).frames()}
    for start_s in (4.0, 8.0):
        part = list(VideoReader(facts, 4096).frames(start_s, start_s + 0.5))
        assert len(part) == 10 and not any(frame.is_damaged for frame in part)
        assert all(frame.rgb.tobytes() == whole[frame.time_s] for frame in part)
