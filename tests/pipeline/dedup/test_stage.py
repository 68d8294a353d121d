"""Near-duplicates through the whole stage: copies made by real encoders are found, nothing else is; the view
leaves them out and can bring them back.
"""

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from manifests.layout import Dataset
from manifests.tables import planned, scans
from manifests.views import View
from manifests.writing.removing import remove
from manifests.writing.withdrawn import withdraw
from media.writer import write_video
from pipeline.config import DedupConfig, EmbedConfig, IngestConfig
from pipeline.curate.stage import Curate
from pipeline.dedup import stage
from pipeline.dedup.embeddings import Vectors
from pipeline.dedup.near_duplicates import in_process
from pipeline.dedup.stage import dedup, groups_of
from pipeline.footage.sources import list_sources, source_row
from pipeline.plan import make_plan
from pipeline.scores.open_clip_model import padded_square
from pipeline.stages.embed import Embed
from pipeline.stages.protocol import run_stage
from world.render import render_frame
from world.scene import sample_shot

FPS = 12.0


def frames_of(seed, size=(160, 96), duration_s=2.5):
    shot = sample_shot(seed, size[0] / size[1], duration_s)
    return [render_frame(shot, index / FPS, *size) for index in range(round(duration_s * FPS))]


def scaled(frames, factor):
    return [
        cv2.resize(
            rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        )
        for rgb in frames
    ]


def brighter(frames, factor):
    return [np.clip(rgb.astype(float) * factor, 0, 255).astype(np.uint8) for rgb in frames]


def write_copies(folder, seed):
    """A clip and five copies: badly encoded, half size, brighter or darker, with bars, trimmed."""
    frames, sign = frames_of(seed), 1 if seed % 2 else -1
    bars = ((12, 12), (0, 0), (0, 0)) if seed % 2 else ((0, 0), (20, 20), (0, 0))
    write_video(folder / f"{seed}-whole.mp4", frames, FPS)
    write_video(folder / f"{seed}-lowq.mp4", frames, FPS, options={"crf": "36"})
    write_video(folder / f"{seed}-half.webm", scaled(frames, 0.5), FPS, "vp9", options={"crf": "40"})
    write_video(folder / f"{seed}-light.mp4", brighter(frames, 1 + 0.15 * sign), FPS, options={"crf": "26"})
    write_video(
        folder / f"{seed}-bars.mp4", [np.pad(rgb, bars) for rgb in frames], FPS, options={"crf": "28"}
    )
    write_video(
        folder / f"{seed}-trim.mp4", frames[7:] if seed % 2 else frames[:-7], FPS, options={"crf": "26"}
    )


def curated(folder, out, embed=None):
    """The preview column (and the embed column) of a folder, made here."""
    config = IngestConfig()
    dataset = Dataset.create(str(out))
    make_plan(
        dataset, list_sources([str(folder)]), config.plan, lambda files: [source_row(file) for file in files]
    )
    stages = [Curate(config.curate)]
    stages += [Embed(embed, stages[0].column)] if embed else []
    for one in stages:
        one.setup()
        for shard, generation in sorted(
            {(row["shard"], row["generation"]) for row in planned.segments(dataset).to_pylist()}
        ):
            run_stage(one, dataset, "test", shard, generation, lambda text: None)
    return dataset, [one.column for one in stages]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    for seed in (4, 5, 9):
        write_copies(folder, seed)
    for seed in range(40, 46):
        write_video(folder / f"{seed}-whole.mp4", frames_of(seed), FPS)
    return curated(folder, tmp_path_factory.mktemp("ds") / "ds")


def name_of(dataset):
    return {
        row["clip_id"]: row["uri"].rsplit("/", 1)[1].split(".")[0]
        for row in scans.table(dataset, "clips").to_pylist()
    }


def test_copies_become_groups_the_view_leaves_them_out_and_can_bring_them_back(small):
    dataset, [preview] = small
    column = dedup(dataset, preview, None, DedupConfig(), in_process)
    names, rows = name_of(dataset), scans.table(dataset, "duplicates", column).to_pylist()
    assert {names[row["clip_id"]].split("-")[0] for row in rows} == {"4", "5", "9"}
    assert all(names[row["clip_id"]].split("-")[0] == names[row["group_id"]].split("-")[0] for row in rows)
    assert all(names[row["clip_id"]].endswith("bars") for row in rows if row["is_kept"])  # most pixels
    assert len(rows) >= 16
    view = View(
        columns={"preview": preview, "dedup": column},
        where="clip_id NOT IN (SELECT clip_id FROM duplicates WHERE NOT is_kept)",
    )
    assert view.clips(dataset).num_rows == 24 - sum(not row["is_kept"] for row in rows)
    assert replace(view, where="true").clips(dataset).num_rows == 24
    records = scans.table(dataset, "shards", column).to_pylist()
    drops = [
        row for row in scans.table(dataset, "drops", column).to_pylist() if row["reason"] == "near_duplicate"
    ]
    assert (
        sum(record["num_dropped"] for record in records)
        == len(drops)
        == sum(not row["is_kept"] for row in rows)
    )
    assert dedup(dataset, preview, None, DedupConfig(), in_process) == column  # done already


def test_after_a_takedown_the_next_search_finds_what_a_first_one_would(tmp_path):
    """What is left of a group is compared anew: a part does not stay in a longer clip's place."""
    frames = frames_of(9, duration_s=8)
    for folder in ("all", "rest"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "part.mp4", frames[:24], FPS)
        almost = brighter(scaled(frames, 0.5), 0.85)
        write_video(tmp_path / folder / "almost.mp4", almost, FPS, options={"crf": "38"})
    write_video(tmp_path / "all" / "whole.mp4", scaled(frames, 1.5), FPS)
    grown, [preview] = curated(tmp_path / "all", tmp_path / "ds")
    first = dedup(grown, preview, None, DedupConfig(), in_process)
    [gone] = [row for row in scans.table(grown, "sources").to_pylist() if "whole" in row["uri"]]
    assert {name_of(grown)[row["clip_id"]] for row in kept_of(grown, first)} == {"whole"}
    remove(grown, {gone["source_id"]: gone["uri"]})
    assert {name_of(grown)[row["clip_id"]] for row in kept_of(grown, first)} == {"almost"}
    again = dedup(grown, preview, None, DedupConfig(), in_process)
    assert again != first
    new, [preview] = curated(tmp_path / "rest", tmp_path / "ds2")
    column = dedup(new, preview, None, DedupConfig(), in_process)
    rows = [
        {row["clip_id"]: row for row in scans.table(one, "duplicates", of).to_pylist()}
        for one, of in ((grown, again), (new, column))
    ]
    assert rows[0].keys() == rows[1].keys()
    for name, row in rows[0].items():
        assert row["distance"] == pytest.approx(rows[1][name]["distance"])
        assert row["is_kept"] == rows[1][name]["is_kept"]


def kept_of(dataset, column):
    return [row for row in scans.table(dataset, "duplicates", column).to_pylist() if row["is_kept"]]


def test_clips_of_one_source_are_compared_only_when_asked(small, monkeypatch):
    dataset, [preview] = small
    monkeypatch.setattr(stage, "source_of", lambda clip_id: "one")
    assert groups_of(dataset, preview, None, DedupConfig(), in_process)[0] == []
    assert len(groups_of(dataset, preview, None, DedupConfig(within_source=True), in_process)[0]) >= 3


def test_hashes_are_read_in_blocks_of_whole_shards(dataset, monkeypatch):
    preview = next(column for column in dataset.columns() if column.name == "preview")
    monkeypatch.setattr("pipeline.dedup.near_duplicates.CLIPS_A_TASK", 5)
    hashes = stage.Stored(dataset, preview)
    read = [data for block in hashes.blocks() for data in hashes.read(*block)]
    assert len(hashes.blocks()) > 1
    rows = {row["clip_id"]: row["video_hash"] for row in scans.table(dataset, "hashes", preview).to_pylist()}
    assert read == [rows[name] for name in hashes.ids] and len(read) == len(rows)
    some = dict(zip(hashes.ids[::3], hashes.shards[::3].tolist(), strict=True))
    assert hashes.some(some) == {name: rows[name] for name in some}
    first = stage.Stored(dataset, preview, [int(hashes.shards[0])])
    assert set(first.shards) == {hashes.shards[0]} and first.ids == hashes.ids[: len(first.ids)]


def test_new_footage_makes_a_new_version_beside_the_old(small, tmp_path, capsys):
    folder = tmp_path / "more"
    folder.mkdir()
    for seed in (60, 61):
        write_video(folder / f"{seed}-whole.mp4", frames_of(seed), FPS)
    dataset, [preview] = curated(folder, tmp_path / "ds")
    first = dedup(dataset, preview, None, DedupConfig(), in_process)
    write_video(folder / "60-again.mp4", frames_of(60), FPS, options={"crf": "34"})
    dataset, _ = curated(folder, tmp_path / "ds")
    capsys.readouterr()
    second = dedup(dataset, preview, None, DedupConfig(), in_process)
    assert re.search(r"dedup: \d new clips against \d, 1 pairs compared, 1 groups", capsys.readouterr().err)
    assert first != second
    assert {first, second} <= set(dataset.columns())
    assert scans.table(dataset, "duplicates", first).num_rows == 0
    assert scans.table(dataset, "duplicates", second).num_rows == 2


@pytest.fixture(scope="module")
def grown_once(tmp_path_factory):
    """A dataset of two shots that was searched, and then got a copy of one."""
    folder = tmp_path_factory.mktemp("more")
    for seed in (60, 61):
        write_video(folder / f"{seed}-whole.mp4", frames_of(seed), FPS)
    dataset, [preview] = curated(folder, folder.parent / "grown")
    dedup(dataset, preview, None, DedupConfig(), in_process)
    write_video(folder / "60-again.mp4", frames_of(60), FPS, options={"crf": "34"})
    return curated(folder, folder.parent / "grown")[0], preview


@pytest.fixture
def grown(grown_once, tmp_path):
    """A copy of it, to change."""
    dataset, preview = grown_once
    return Dataset(str(shutil.copytree(dataset.uri, tmp_path / "ds"))), preview


@pytest.mark.parametrize("file", ["table-03", "starts-05", "frames", "clips", "groups"])
@pytest.mark.parametrize("is_gone", [False, True], ids=["cut", "gone"])
def test_damaged_keys_cost_a_whole_search_and_nothing_else(grown, capsys, file, is_gone):
    dataset, preview = grown
    [path] = Path(dataset.uri, "keys").glob(f"*/{file}.parquet")
    path.unlink() if is_gone else path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    column = dedup(dataset, preview, None, DedupConfig(), in_process)
    assert "so all clips are searched" in capsys.readouterr().err
    assert scans.table(dataset, "duplicates", column).num_rows == 2
    assert len(list(Path(dataset.uri, "keys").iterdir())) == 1


def test_a_search_that_is_made_again_does_not_spoil_what_it_goes_on_from(grown, monkeypatch):
    monkeypatch.setattr("pipeline.dedup.known.MAX_SHARE", 9.0)
    dataset, preview = grown
    column = dedup(dataset, preview, None, DedupConfig(), in_process)
    before = scans.table(dataset, "duplicates", column).to_pylist()
    withdraw(dataset, column, dataset.committed_shards(column))
    dataset.refresh()
    assert dedup(dataset, preview, None, DedupConfig(), in_process) == column
    assert scans.table(dataset, "duplicates", column).to_pylist() == before
    chains = {
        path.parent.name: json.loads(path.read_text())
        for path in Path(dataset.uri, "keys").glob("*/run.json")
    }
    assert sorted(len(note["before"]) for note in chains.values()) == [0, 1, 2]
    assert not any(name in note["before"] for name, note in chains.items())


def tiny_clip(folder):
    """A tiny open_clip model of the real architecture, as a local folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir()
    preprocess = {"size": 32, "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return EmbedConfig(model=f"local-dir:{folder}")


def test_embeddings_of_whole_frames_from_open_clip(tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    for seed in (1, 2):
        write_video(folder / f"{seed}-whole.mp4", frames_of(seed, (96, 160)), FPS)
    config = tiny_clip(tmp_path / "clip")
    dataset, [preview, embed] = curated(folder, tmp_path / "ds", config)
    rows = scans.table(dataset, "embeddings", embed).to_pylist()
    assert len(rows) == 2
    assert all(
        np.linalg.norm(row["vector"]) == pytest.approx(1, abs=1e-5) and len(row["vector"]) == 16
        for row in rows
    )
    alike = groups_of(
        dataset,
        preview,
        Vectors([row["clip_id"] for row in rows], np.array([row["vector"] for row in rows], np.float32)),
        DedupConfig(min_cosine=-1.0),
        in_process,
    )[0]
    assert len(alike) == 1  # everything matches at that threshold
    square = padded_square(np.full((60, 20, 3), 255, np.uint8), 30)
    assert (square[:, 10:20] == 255).all() and (square[:, :9] != 255).all()  # the whole frame, padded


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.long
def test_copies_of_fifty_clips_among_five_hundred_others(tmp_path):
    """Through encoders, the decode layer and the shot detector: precision and recall of (copy, original)
    pairs; no pair among the others.
    """
    folder = tmp_path / "footage"
    folder.mkdir()
    for seed in range(2000, 2050):
        write_copies(folder, seed)
    for seed in range(5000, 5500):
        write_video(folder / f"{seed}-other.mp4", frames_of(seed, duration_s=1.5), FPS)
    dataset, [preview] = curated(folder, tmp_path / "ds")
    groups, _, report, _ = groups_of(dataset, preview, None, DedupConfig(), in_process)
    names = name_of(dataset)
    assert len(set(names.values())) == 800
    found = set()
    for one in groups:
        members = sorted({names[clip_id] for clip_id in (one.kept, *one.others)})
        found |= set(itertools.combinations(members, 2))
    right = {pair for pair in found if pair[0].split("-")[0] == pair[1].split("-")[0]}
    wanted = {
        tuple(sorted((f"{seed}-whole", f"{seed}-{copy}")))
        for seed in range(2000, 2050)
        for copy in ("lowq", "half", "light", "bars", "trim")
    }
    recall, precision = len(wanted & found) / len(wanted), len(right) / max(1, len(found))
    print(
        f"{report.clips} clips, {report.candidates} pairs compared: precision {precision:.3f}, recall "
        f"{recall:.3f}"
    )
    assert precision >= 0.99
    assert recall >= 0.95
    assert not any(name.endswith("other") for pair in found for name in pair)
