"""Every frame of a source is in a clip, a drop or a failure; and damaged frames are in no clip."""

import os
from collections import Counter
from pathlib import Path

import av
import pytest

from manifests.tables import scans
from media.apart.reader import Reader
from media.errors import MediaError
from pipeline.config import CurateConfig, PlanConfig
from pipeline.curate.cutting import Gap, pieces
from pipeline.footage.sources import Found, list_sources, source_row
from pipeline.plan import segments_of
from tests.conftest import ingest_here
from tests.pipeline.curate.damage import FPS, error_of, grey, hurt, is_bad, read, sound

REAL = Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))
SEGMENT_S = PlanConfig().segment_s


def cut(row):
    """What becomes of a source's frames: the clips, and how many frames each kind of gap has."""
    clips, gaps = [], Counter()
    for segment in segments_of(row, SEGMENT_S):
        try:
            for piece in pieces(segment, row, CurateConfig()):
                if isinstance(piece, Gap):
                    gaps[piece.reason] += piece.num_frames
                else:
                    clips.append(piece)
        except MediaError:
            gaps["failed"] += 0  # what it lost was a gap before it
    return clips, gaps


def check_real(most_bytes):
    if not REAL.is_dir():
        pytest.skip("RUSHES_REAL_VIDEOS names no folder of real videos")
    rows = [
        source_row(found)
        for found in list_sources([str(REAL)])
        if Path(found.uri).stat().st_size <= most_bytes
    ]
    kept = [row for row in rows if row["status"] == "kept"]
    assert len(kept) > 50
    total = Counter()
    for row in kept:
        clips, gaps = cut(row)
        num_clips = sum(len(clip.samples) for clip in clips)
        assert num_clips + gaps.total() == row["num_packets"], row["uri"]
        total += Counter(clips=num_clips, **gaps) if "corrupt" not in row["uri"] else Counter()
    withheld = total["damaged_frames"] + total["lost_frames"]
    print(f"{len(kept)} files: {dict(total)}; {withheld / total.total():.2%} of sound files withheld")
    assert withheld <= 0.02 * total.total()


def test_frames_of_small_real_files_add_up():
    check_real(200_000)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_frames_of_real_files_add_up_and_few_good_ones_are_withheld():
    check_real(25_000_000)


def test_rows_of_a_dataset_add_up_to_the_frames_of_each_source(films, tmp_path):
    footage = tmp_path / "footage"
    footage.mkdir()
    for path in sorted(films.glob("film-*.mp4"))[:2]:
        (footage / path.name).write_bytes(path.read_bytes())
    hurt(sound(footage, "h264", 3), "cut", 1)
    dataset = ingest_here(footage, tmp_path / "ds")
    frames = Counter()
    for name in ("clips", "drops", "failures"):
        for row in scans.table(dataset, name).to_pylist():
            if row.get("stage", "preview") == "preview":
                frames[row["source_id"]] += row["num_frames"]
    sources = [row for row in scans.table(dataset, "sources").to_pylist() if row["status"] == "kept"]
    assert len(sources) == 4
    assert {row["source_id"]: row["num_packets"] for row in sources} == dict(frames)


SMALL, USUAL = (256, 144), (640, 360)
SIZES = [
    *(("h264", SMALL), ("hevc", SMALL), ("hevc", USUAL), ("vp9", SMALL)),
    *(("av1", SMALL), ("mpeg2", SMALL), ("mpeg4", SMALL)),
]
MOST_WITHHELD = {"h264": 0.05, "hevc": 0.05, "vp9": 0.03, "av1": 0.02, "mpeg2": 0.1, "mpeg4": 0.1}
"""The same of good frames: those between what is damaged and the next keyframe, a second on, which are hurt
as well, but by less than 30 dB tell."""
WHOLE_WITHHELD = {"mpeg4": 0.03}
"""And of those that are equal to the sound file's, of others .02."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("codec", "size_px"), SIZES)
def test_frames_of_files_damaged_on_purpose_are_in_no_clip(codec, size_px, tmp_path):
    """Flips, drops and cuts; a frame is bad where it lies under 30 dB of the sound file's."""
    av.logging.set_level(av.logging.PANIC)
    bad = missed = good = withheld = whole_frames = whole_withheld = 0
    for seed in (1, 2):
        whole = sound(tmp_path, codec, seed, size_px)
        truth, own_truth = grey(whole), read(whole)
        for kind, number in ((kind, number) for kind in ("flip", "drop", "cut") for number in (0, 1)):
            path = hurt(whole, kind, number)
            [row] = [source_row(found) for found in list_sources([str(path)])]
            clips, gaps = cut(row)
            assert sum(len(clip.samples) for clip in clips) + gaps.total() == row["num_packets"], path
            inside = {
                round((sample.time_s + row["start_s"]) * FPS) for clip in clips for sample in clip.samples
            }
            own = read(path)
            assert inside <= own.keys()
            missed += sum(is_bad(error_of(place, own[place], own_truth)) for place in inside)
            for place, picture in grey(path).items():
                error = error_of(place, picture, truth)
                bad, good = bad + is_bad(error), good + (not is_bad(error))
                withheld += not is_bad(error) and place not in inside
                whole_frames += error == 0
                whole_withheld += error == 0 and place not in inside
    print(f"{codec}: {missed} of {bad} bad frames are in clips, {withheld} of {good} good ones are not,")
    print(f"  {whole_withheld} of {whole_frames} that are equal to the sound file's")
    assert whole_withheld <= WHOLE_WITHHELD.get(codec, 0.02) * whole_frames
    assert not missed
    assert withheld <= MOST_WITHHELD[codec] * good


def test_frames_that_damage_moves_past_the_end_are_counted_once(films, monkeypatch):
    """Five frames are lost, and the last six get times after all packets' (found in a mutated H.264 file)."""
    path = str(sorted(films.glob("*.mp4"))[0])
    row = source_row(Found(path))
    real = Reader.pictures

    def damaged(self, *span, **options):
        for number, picture in enumerate(real(self, *span, **options)):
            if number in range(8, 13):
                continue
            if number >= row["num_packets"] - 6:
                picture.time_s += 1.0
            yield picture
        self.has_losses = True

    monkeypatch.setattr(Reader, "pictures", damaged)
    segment = {"start_s": 0.0, "end_s": row["duration_s"], "uri": path}
    found = list(pieces(segment, row, CurateConfig()))
    counts = [item.num_frames if isinstance(item, Gap) else len(item.samples) for item in found]
    assert sum(counts) == row["num_packets"]
    assert [item.num_frames for item in found if isinstance(item, Gap) and item.reason == "lost_frames"] == [
        5
    ]


def test_frames_without_a_time_have_a_place_in_the_account(tmp_path):
    """Matroska gives packets before zero no time at all."""
    film, path = sound(tmp_path, "h264", 1), tmp_path / "negative.mkv"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(film)) as source, av.open(str(path), "w", options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        shift = packets[len(packets) // 2].pts
        for packet in packets:
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            container.mux(packet)
    [row] = [source_row(found) for found in list_sources([str(path)])]
    assert row["num_packets"] == len(packets)
    clips, gaps = cut(row)
    assert sum(len(clip.samples) for clip in clips) + gaps.total() == len(packets)
