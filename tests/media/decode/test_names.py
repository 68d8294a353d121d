"""A file is that one file, whatever its name says to FFmpeg."""

import shutil

import numpy as np
import pytest
from PIL import Image

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from media.writer import write_video


def film(shade, frames=12):
    return [np.full((48, 64, 3), shade, np.uint8) for _ in range(frames)]


@pytest.mark.parametrize(
    "name", ["12:30 clip.mp4", "http:x.mp4", "concat:a.mp4|b.mp4", "a%03d.mp4", "-v.mp4", "*.mp4"]
)
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_relative_name_is_a_name(tmp_path, monkeypatch, name, decoder):
    monkeypatch.chdir(tmp_path)
    write_video(name, film(90), 8.0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    facts = probe(name)
    reader = VideoReader(facts, decoder=decoder)
    assert facts.num_packets == 12 and sum(1 for _ in reader.frames(0, float("inf"))) == 12
    assert reader.decoder == decoder


def test_a_name_that_looks_like_a_pattern_does_not_read_its_neighbours(tmp_path):
    """FFmpeg's reader of image sequences goes by such names."""
    for index in range(3):
        Image.new("RGB", (32, 24), (index * 100, 0, 0)).save(tmp_path / f"f{index:03d}.sgi", "SGI")
    shutil.copy(tmp_path / "f002.sgi", tmp_path / "f%03d.sgi")
    try:
        facts = probe(str(tmp_path / "f%03d.sgi"))
    except MediaError:
        return  # refused is as good
    pictures = [frame.rgb for frame in VideoReader(facts).frames(0, float("inf"))]
    assert len(pictures) == 1 and abs(int(pictures[0][..., 0].mean()) - 200) < 3


def test_what_is_in_a_local_file_may_not_name_addresses(tmp_path):
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(MediaError):
        probe(str(tmp_path / "list.m3u8"))
