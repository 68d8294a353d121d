"""A three-hour video: memory stays bounded however long a source, a take or a static scene is."""

import subprocess
import sys

import av
import pytest

from media.writer import write_video
from world.render import render_frame
from world.scene import sample_shot

LIMIT_MIB = 400
# VmHWM and not ru_maxrss: the latter is inherited from the process that started this one, and pytest with
# torch in it is large
CURATE = """
import sys
from pathlib import Path
from manifests.layout import Dataset
from pipeline.config import CurateConfig
from pipeline.curate.cutting import Gap, pieces
from pipeline.footage.sources import Found, source_row
row = source_row(Found(sys.argv[1]))
clips = frames = 0
for piece in pieces({"start_s": 0.0, "end_s": row["duration_s"]}, row, CurateConfig()):
    if not isinstance(piece, Gap):
        clips, frames = clips + 1, frames + len(piece.samples)
status = Path("/proc/self/status").read_text().splitlines()
peak_kib = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(row["duration_s"], row["num_packets"], clips, frames, int(peak_kib) // 1024)
"""


def repeated(source, target, times):
    """The packets of a video over and over, with times that go on: hours of video in a second."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = container.streams.video[0]
        out = output.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        length = max(packet.pts + packet.duration for packet in packets)
        kept = [
            (bytes(packet), packet.pts, packet.dts, packet.duration, packet.is_keyframe, packet.time_base)
            for packet in packets
        ]
        for number in range(times):
            for data, pts, dts, duration, is_key, base in kept:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = (
                    pts + number * length,
                    dts + number * length,
                    duration,
                )
                packet.time_base, packet.is_keyframe, packet.stream = base, is_key, out
                output.mux(packet)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.long
def test_three_hours_are_curated_in_bounded_memory(tmp_path):
    shots = [sample_shot(seed, 16 / 9, 30.0) for seed in (3, 8)]
    frames = [render_frame(shots[index // 180], (index % 180) / 6, 320, 180) for index in range(360)]
    write_video(tmp_path / "minute.mp4", frames, 6, "mpeg4")  # every minute: two takes of half a minute
    repeated(tmp_path / "minute.mp4", tmp_path / "long.mp4", 180)
    done = subprocess.run(
        [sys.executable, "-c", CURATE, str(tmp_path / "long.mp4")], capture_output=True, text=True, check=True
    )
    length_s, num_packets, clips, kept, peak_mib = (float(value) for value in done.stdout.split())
    print(
        f"{length_s / 3600:.2f} hours, {num_packets:.0f} frames, {clips:.0f} clips, peak RSS {peak_mib:.0f} "
        "MiB"
    )
    assert length_s == pytest.approx(3 * 3600, abs=1)
    assert kept == num_packets
    assert clips >= 360
    assert peak_mib < LIMIT_MIB
