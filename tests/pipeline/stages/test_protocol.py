import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from manifests.layout import Column, Dataset
from manifests.tables import scans
from pipeline.config import EncodeConfig, IngestConfig
from pipeline.engine.run import build_stages
from pipeline.stages.journal import Journal

COLUMN = Column("preview", "abc")


def test_an_item_in_hand_at_two_deaths_is_poison_and_others_are_not(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    for _ in range(2):
        code = textwrap.dedent(f"""
            import os
            from manifests.layout import Column, Dataset
            from pipeline.stages.journal import Journal
            journal = Journal(Dataset({str(tmp_path)!r}), "run", Column("preview", "abc"), 3)
            with journal.item("good", limit_s=60):
                pass
            with journal.item("bad", limit_s=60):
                os.abort()
        """)
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode != 0
    journal = Journal(dataset, "run", COLUMN, 3)
    assert "2 times" in journal.poison("bad")
    assert journal.poison("good") is None
    assert Journal(dataset, "another-run", COLUMN, 3).poison("bad") is None


def test_an_item_over_its_time_limit_ends_its_process_and_says_so(tmp_path):
    code = textwrap.dedent(f"""
        import time
        from manifests.layout import Column, Dataset
        from pipeline.stages.journal import Journal
        journal = Journal(Dataset({str(tmp_path)!r}), "run", Column("preview", "abc"), 0)
        with journal.item("slow", limit_s=0.2):
            time.sleep(30)
    """)
    Dataset.create(str(tmp_path))
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 70
    assert "time_limit" in Journal(Dataset(str(tmp_path)), "run", COLUMN, 0).poison("slow")


def test_in_is_kept_plus_dropped_plus_failed_from_stage_to_stage(dataset):
    totals = {}
    for row in scans.table(dataset, "shards").to_pylist():
        assert row["num_in"] == row["num_kept"] + row["num_dropped"] + row["num_failed"]
        total = totals.setdefault(row["column"], [0, 0])
        total[0] += row["num_in"]
        total[1] += row["num_kept"]
    assert totals["caption"][0] == totals["preview"][1]
    assert totals["text"][0] == totals["caption"][1]
    assert totals["latent"][0] == totals["preview"][1]


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"encode": EncodeConfig(max_pixels=1024)}, {"latent"}),
        ({"encode": EncodeConfig(item_limit_s=5)}, set()),
    ],
)
def test_a_setting_renames_the_columns_it_changes_and_no_other(change, moves):
    before = {stage.name: stage.column for stage in build_stages(IngestConfig())}
    after = {stage.name: stage.column for stage in build_stages(IngestConfig(**change))}
    assert {name for name in before if before[name] != after[name]} == moves


def test_latents_hold_mean_and_logvar_of_the_promised_shape_and_no_pickle(dataset):
    from safetensors.torch import load

    from manifests.store.shards import read_member
    from manifests.views import View
    from media.decode.images import decode_image
    from vae.stored import LEAST_SLABS, mean_and_logvar

    column = View.load(dataset).column("latent")
    rows = {row["clip_id"]: row for row in scans.table(dataset, "latents", column).to_pylist()}
    for path, members in scans.members(dataset, column).values():
        for member in members:
            row = rows[member.key]
            if member.field == "latent.png":
                assert decode_image(read_member(dataset.filesystem, path, member)).shape[0] == row["latent_h"]
                continue
            tensors = load(read_member(dataset.filesystem, path, member))
            mean, logvar = mean_and_logvar(tensors)
            shape = row["num_channels"], row["latent_t"], row["latent_h"], row["latent_w"]
            assert mean.shape == logvar.shape == shape
            assert (row["slab_offset"] is None) == (row["latent_t"] < LEAST_SLABS) == ("mean" in tensors)
            assert row["height_px"] * row["width_px"] <= 4096 * 1.05
    for root, _, files in os.walk(dataset.root):
        assert not [name for name in files if name.endswith((".pkl", ".pt", ".pth"))], root


def test_a_source_that_breaks_midway_keeps_every_clip_before_the_break(films, tmp_path, monkeypatch):
    """A double breaks the decode of one film at its second shot, in every pass."""
    import media.apart.reader
    from media.errors import MediaError
    from tests.conftest import ingest_here

    media_files = {path.stem: path for path in films.glob("film-*") if path.suffix != ".json"}
    truth = {path.stem: json.loads(path.read_text())["truth"] for path in sorted(films.glob("film-*.json"))}
    name = next(
        stem for stem, film in truth.items() if [join["kind"] for join in film["joins"]][:1] == ["cut"]
    )
    (tmp_path / "footage").mkdir()
    shutil.copy(media_files[name], tmp_path / "footage")
    break_s = truth[name]["joins"][0]["frame"] / truth[name]["fps"] + 0.3
    real = media.apart.reader.Reader.pictures

    def broken(self, *span, **options):
        for picture in real(self, *span, **options):
            if picture.time_s > break_s:
                raise MediaError("decode", f"{self.facts.path}: broken here")
            yield picture

    monkeypatch.setattr(media.apart.reader.Reader, "pictures", broken)
    dataset = ingest_here(tmp_path / "footage", tmp_path / "ds")
    clips = scans.table(dataset, "clips").to_pylist()
    assert clips[0]["end_s"] == pytest.approx(truth[name]["joins"][0]["frame"] / truth[name]["fps"], abs=2e-3)
    [failure] = scans.table(dataset, "failures").to_pylist()
    assert (failure["stage"], failure["error"]) == ("preview", "decode")
    assert name in failure["cause"]
    assert scans.table(dataset, "latents").num_rows == len(clips)


def test_a_change_of_size_is_a_new_clip_of_its_own_shape(tmp_path):
    from media.writer import write_video
    from tests.conftest import ingest_here
    from world.render import render_frame
    from world.scene import sample_shot

    (tmp_path / "footage").mkdir()
    parts = []
    for index, size in enumerate([(64, 48), (48, 64)]):
        shot = sample_shot(index, 1.3, 2.0)
        write_video(
            tmp_path / f"{index}.ts", [render_frame(shot, i / 12, *size) for i in range(24)], 12, "mpeg4"
        )
        parts.append((tmp_path / f"{index}.ts").read_bytes())
    (tmp_path / "footage" / "both.ts").write_bytes(b"".join(parts))
    dataset = ingest_here(tmp_path / "footage", tmp_path / "ds")
    clips = scans.table(dataset, "clips").to_pylist()
    assert [
        (clip["width_px"], clip["height_px"], clip["num_frames"], clip["starts_with"]) for clip in clips
    ] == [
        (64, 48, 24, "source_start"),
        (48, 64, 24, "size_change"),
    ]
    latents = scans.table(dataset, "latents").to_pylist()
    assert [(row["width_px"], row["height_px"]) for row in latents] == [(64, 48), (48, 64)]
    assert not scans.table(dataset, "failures").num_rows


def test_an_unexpected_error_in_one_file_is_a_failure_and_a_full_disk_is_not(films, tmp_path, monkeypatch):
    from pipeline.curate import stage as curate
    from tests.conftest import ingest_here

    victim = sorted(path for path in films.glob("film-*") if path.suffix != ".json")[1]
    real = curate.pieces
    broken = {"error": ZeroDivisionError("odd file")}

    def fragile(segment, source, config, beat):
        if segment["uri"] == str(victim):
            raise broken["error"]
        yield from real(segment, source, config, beat)

    monkeypatch.setattr(curate, "pieces", fragile)
    dataset = ingest_here(films, tmp_path / "ds")
    [failure] = scans.table(dataset, "failures").to_pylist()
    assert (failure["uri"], failure["error"], failure["cause"]) == (
        str(victim),
        "ZeroDivisionError",
        "odd file",
    )
    assert str(victim) not in scans.table(dataset, "clips")["uri"].to_pylist()
    broken["error"] = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        ingest_here(films, tmp_path / "full")
