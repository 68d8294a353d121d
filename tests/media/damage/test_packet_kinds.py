"""Packets that show nothing are not counted as frames."""

import shutil
import subprocess

import av
import pytest

from media.damage.packet_kinds import is_hidden
from media.decode.probe import probe
from media.decode.reader import VideoReader


def vp9(profile: int, *, repeats: bool = False, shows: bool = False, superframe: bool = False) -> av.Packet:
    """A packet by its header's first bits: marker 10, profile, a 0 in profile 3, repeats, type, shows."""
    bits = f"10{profile & 1}{profile >> 1}" + ("0" if profile == 3 else "") + f"{repeats:d}0{shows:d}"
    return av.Packet(bytes([int(bits.ljust(8, "0")[:8], 2), 0, 0xC0 if superframe else 0]))


@pytest.mark.parametrize("profile", range(4))
def test_vp9_says_in_its_header_whether_a_frame_is_shown(profile):
    assert is_hidden(vp9(profile), "vp9")
    assert not is_hidden(vp9(profile, shows=True), "vp9")
    assert not is_hidden(vp9(profile, repeats=True), "vp9")
    assert not is_hidden(vp9(profile, superframe=True), "vp9")
    assert not is_hidden(vp9(profile), "h264")
    assert not is_hidden(av.Packet(b"\0\0\0"), "vp9")  # no VP9 at all: the decoder will say so


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
def test_a_sound_file_with_hidden_frames_has_its_true_rate_and_misses_none(real_videos, tmp_path):
    source, out = real_videos / "am_bbb_642x642_768kbps_30fps_vp9.webm", tmp_path / "hidden.webm"
    words = "-vf scale=160:160 -c:v libvpx -auto-alt-ref 1 -arnr-maxframes 7 -lag-in-frames 25 -b:v 150k -an"
    for number in ("1", "2"):
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-y",
            "-i",
            str(source),
            *words.split(),
            "-pass",
            number,
            str(out),
        ]
        subprocess.run(command, check=True, cwd=tmp_path)
    with av.open(str(out)) as container:
        stored = sum(packet.size > 0 for packet in container.demux(video=0))
    facts = probe(str(out))
    assert stored > 90 and facts.num_packets == 90 and facts.fps == pytest.approx(30.0, abs=0.01)
    assert sum(1 for _ in VideoReader(facts).frames(0, float("inf"))) == 90
