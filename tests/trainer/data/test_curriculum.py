import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.views import View
from trainer.config import FitConfig, ModelConfig, StageConfig
from trainer.config_files import load_config, load_stages, save_config
from trainer.data.catalogue.catalog import load_catalog
from trainer.data.curriculum import EPOCHS_OF_A_STAGE, Curriculum, stage_table, stages_of
from trainer.data.loader import PackReader
from trainer.data.packs import PackSettings, plan_epoch
from trainer.data.samples import Sample, SampleTable
from trainer.presets import preset
from trainer.run.fit import fit, plan_stream

PATCH = (1, 2, 2)
TEST = dataclasses.replace(
    preset("tiny"),
    model=ModelConfig(width=48, depth=2, num_heads=2),
    tokens=256,
    save_every=4,
    held_out=0.15,
    is_tensorboard=False,
)


def table_of(count=60, seed=0):
    rng = np.random.default_rng(seed)
    every = [
        Sample(f"c{index:03d}", index // 9, 1 if index % 3 == 0 else int(rng.integers(2, 12)), 8, 10)
        for index in range(count)
    ]
    fps = np.array(
        [0.0 if sample.latent_t == 1 else (16.0 if index % 2 else 30.0) for index, sample in enumerate(every)]
    )
    return dataclasses.replace(SampleTable.of(every), fps=fps)


def settings_of(**more):
    return PackSettings(
        **{"seed": 1, "budget": 400, "packs_per_step": 2, "patch": PATCH, "attention_cost": 1 / 1152, **more}
    )


def shown(plan):
    return [sample for step in plan.steps for pack in plan.packs(step) for sample in pack]


@given(weight=st.floats(0.05, 3.5), epochs=st.integers(1, 12))
@settings(max_examples=40)
def test_over_many_epochs_a_sample_is_shown_as_often_as_its_weight_says(weight, epochs):
    table = dataclasses.replace(table_of(20), weight=np.full(20, weight))
    count = sum((table.draws(epoch) for epoch in range(epochs)), np.zeros(20, int))
    assert np.all(np.abs(count - epochs * weight) <= 1)
    assert abs(count.mean() - epochs * weight) < 0.2


def test_showings_of_one_epoch_have_their_own_windows_and_noise():
    table = dataclasses.replace(
        SampleTable.of([Sample("a", 0, 60, 8, 8), Sample("b", 0, 2, 8, 8)]), weight=np.array([3.0, 1.0])
    )
    plan = plan_epoch(table, settings_of(budget=160, is_covering=False), 4)
    parts = shown(plan)
    assert Counter(part.clip_id for part in parts) == {"a": 3, "b": 1}
    assert sorted(part.repeat for part in parts if part.clip_id == "a") == [0, 1, 2]
    assert len({part.start for part in parts if part.clip_id == "a"}) > 1
    assert all(part.tokens(PATCH) <= 160 for part in parts)


def test_images_make_up_the_share_of_tokens_that_is_asked_for():
    table, share = table_of(300), 0.4
    own = stage_table(table, StageConfig(image_share=share), PATCH, 4)
    tokens = Counter()
    for epoch in range(6):
        for sample in shown(plan_epoch(own, settings_of(), epoch)):
            tokens[sample.latent_t == 1] += sample.tokens(PATCH)
    assert tokens[True] / tokens.total() == pytest.approx(share, abs=0.02)
    assert set(stage_table(table, StageConfig(image_share=1.0), PATCH, 4).latent_t.tolist()) == {1}
    assert 1 not in stage_table(table, StageConfig(image_share=0.0), PATCH, 4).latent_t


def test_a_stage_shows_short_windows_and_leaves_rates_out_counted():
    config = dataclasses.replace(
        preset("tiny"), stages=(StageConfig(steps=5, max_s=1.0, max_fps=20.0), StageConfig(max_tokens=100))
    )
    first, second = stages_of(table_of(), config, 4)
    assert (first.first, second.first) == (0, 5)
    assert first.left_out == int((table_of().fps == 30.0).sum())
    assert {sample.latent_t for sample in shown(plan_epoch(first.table, first.settings, 0))} <= {
        1,
        2,
        3,
        4,
        5,
    }  # 16 fps: a second is 1 + 4 latents
    assert max(sample.tokens(PATCH) for sample in shown(plan_epoch(second.table, second.settings, 0))) <= 100
    assert second.left_out == 0


@given(step=st.integers(0, 40))
@settings(max_examples=20)
def test_stages_follow_one_another_and_any_step_can_be_resumed_at(step):
    config = dataclasses.replace(
        preset("tiny"),
        tokens=400,
        stages=(StageConfig(steps=7, image_share=1.0), StageConfig(steps=9), StageConfig()),
    )

    def stream():
        return Curriculum(stages_of(table_of(), config, 4))

    walked = [item for item, _ in zip(stream().steps_from(0), range(step + 1), strict=False)]
    assert next(stream().steps_from(step)) == walked[-1]
    assert walked[-1][1] // EPOCHS_OF_A_STAGE == (0 if step < 7 else 1 if step < 16 else 2)
    assert all(
        sample.latent_t == 1
        for _, epoch, packs in walked
        if epoch < EPOCHS_OF_A_STAGE
        for pack in packs
        for sample in pack
    )


def test_a_frame_over_the_budget_is_shown_in_part_where_that_is_asked_for():
    table = SampleTable.of(
        [Sample("wide", 0, 3, 20, 80), Sample("tall", 0, 1, 90, 6), Sample("fits", 0, 2, 8, 8)]
    )
    with pytest.raises(UsageError, match="--oversize window"):
        plan_epoch(table, settings_of(budget=100), 0)
    plan = plan_epoch(table, settings_of(budget=100, is_cropping=True, is_covering=False), 0)
    found = {sample.clip_id: sample for sample in shown(plan)}
    assert all(sample.tokens(PATCH) <= 100 for sample in found.values())
    assert found["wide"].tokens(PATCH) > 80  # as much of it as fits
    assert found["wide"].latent_w > found["wide"].latent_h
    assert (found["fits"].latent_t, found["fits"].latent_h) == (2, 8)
    assert (
        len(
            {
                plan_epoch(table, settings_of(budget=100, is_cropping=True), epoch).windows[0]
                for epoch in range(8)
            }
        )
        > 4
    )


def test_a_crop_keeps_its_true_place_and_its_validity(dataset):
    catalog = load_catalog(dataset, [View.load(dataset)], TEST)
    reader = PackReader(dataset, catalog, TEST)
    row = max(catalog.clips.values(), key=lambda item: item["latent_h"] * item["latent_w"])
    size = (row["latent_t"], row["latent_h"], row["latent_w"])
    whole = reader.read([Sample(row["clip_id"], row["shard"], *size)], 0)
    part = reader.read([Sample(row["clip_id"], row["shard"], size[0], 4, 6, 0, 2, 4)], 0)
    if row["latent_h"] % 2 == 0 and row["latent_w"] % 2 == 0:
        places = {tuple(place): index for index, place in enumerate(whole.coords.tolist())}
        chosen = torch.tensor([places[tuple(place)] for place in part.coords.tolist()])
        assert torch.equal(whole.valid[chosen], part.valid)
    assert part.members[0].is_window and not whole.members[0].is_window


def test_views_are_mixed_by_weight_each_with_its_own_texts(dataset, tmp_path):
    shutil.copytree(dataset.uri, tmp_path / "ds")
    copy = Dataset(str(tmp_path / "ds"))
    view = View.load(copy)
    dataclasses.replace(view, where="num_frames > 20").save(copy, "long")
    config = dataclasses.replace(TEST, mix={"default": 1.0, "long": 2.0})
    catalog = load_catalog(copy, [view, View.load(copy, "long")], config)
    epoch = Counter()
    table = catalog.table
    is_long = (
        table.latent_t * table.per_frame(config.model.patch) > config.tokens
    )  # shown through several windows each time
    windowed = {clip for clip, long in zip(table.clip_ids, is_long, strict=True) if long}
    stream = plan_stream(catalog, config)
    for number, found, packs in stream.steps_from(0):
        if found:
            break
        epoch.update(
            (sample.view, sample.clip_id)
            for pack in packs
            for sample in pack
            if sample.clip_id not in windowed
        )
        assert number < 500
    long = set(View.load(copy, "long").clips(copy)["clip_id"].to_pylist())
    held = {sample.clip_id for sample in catalog.held_out}
    assert {count for (own, _), count in epoch.items() if own == 0} == {1}
    assert {count for (own, _), count in epoch.items() if own == 1} == {2}
    assert {clip for own, clip in epoch if own == 1} == long - held - windowed
    fit(copy, "default", dataclasses.replace(config, steps=3), tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.json").mix == {"default": 1.0, "long": 2.0}


def test_views_of_several_vaes_are_not_mixed(dataset):
    view = View.load(dataset)
    other = dataclasses.replace(
        view,
        columns={**view.columns, "latent": dataclasses.replace(view.column("latent"), fingerprint="other")},
    )
    with pytest.raises(UsageError, match="several latent columns"):
        load_catalog(dataset, [view, other], dataclasses.replace(TEST, mix={"default": 1.0, "other": 1.0}))


def test_stages_are_read_strictly_and_saved_with_the_run(tmp_path):
    path = tmp_path / "stages.json"
    path.write_text(json.dumps([{"steps": 10, "max_s": 1.5}, {"image_share": 0.2}]))
    config = dataclasses.replace(FitConfig(), stages=load_stages(path))
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    for text in ("{", "{}", "[1]", '[{"stepz": 1}]'):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"stages\.json"):
            load_stages(path)
    with pytest.raises(UsageError, match="number of steps"):
        stages_of(table_of(), dataclasses.replace(FitConfig(), stages=(StageConfig(), StageConfig())), 4)
    with pytest.raises(UsageError, match="stage 1: leaves none"):
        stages_of(
            table_of(),
            dataclasses.replace(FitConfig(), stages=(StageConfig(min_fps=99.0, image_share=0.0),)),
            4,
        )


def test_stages_that_cannot_be_packed_are_refused_before_they_are_met():
    stages = (StageConfig(steps=5), StageConfig(steps=5, max_tokens=3), StageConfig())
    plan = Curriculum(stages_of(table_of(), dataclasses.replace(FitConfig(), stages=stages), 4))
    for begin, end in ((0, 20), (7, 20), (0, 6), (9, 10)):
        with pytest.raises(UsageError, match="max_tokens of stage 2: 3 are fewer than the"):
            plan.check(begin, end)
    for begin, end in ((0, 5), (10, 20), (3, 3)):  # which is over, or will not be met
        plan.check(begin, end)
    narrow = Curriculum(stages_of(table_of(), dataclasses.replace(FitConfig(), tokens=2), 4))
    with pytest.raises(UsageError, match="--tokens: 2 are fewer"):
        narrow.check(0, 1)


@pytest.mark.parametrize(("share", "kind"), [(1.0, "images"), (0.0, "videos")])
def test_a_share_of_what_the_data_has_none_of_is_refused_by_its_option(share, kind):
    table = table_of()
    table = table.where((table.latent_t == 1) == (kind == "videos"))
    with pytest.raises(UsageError, match=f"--image-share {share:g}: asks for {kind}, and the data has none"):
        stage_table(table, StageConfig(image_share=share), PATCH, 4)
