import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import UsageError
from trainer.packs import PlanStream, Sample, plan_epoch, pool_largest_fit, rank_packs

PATCH = (1, 2, 2)


def samples(sizes):
    return [Sample(f"c{index:04d}", index // 7, *size) for index, size in enumerate(sizes)]


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 16), st.integers(1, 16)), min_size=1, max_size=80)


@given(lengths=st.lists(st.integers(1, 100), max_size=200))
def test_every_item_lands_in_one_bin_that_holds_it(lengths):
    bins = pool_largest_fit(lengths, 100)
    assert sorted(index for chosen in bins for index in chosen) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in chosen) <= 100 for chosen in bins)


@given(sizes=sizes, seed=st.integers(0, 5), epoch=st.integers(0, 5))
@settings(max_examples=40)
def test_global_batches_are_the_same_for_every_world_size_and_hold_each_sample_once(sizes, seed, epoch):
    every = samples(sizes)
    plan = plan_epoch(every, seed=seed, epoch=epoch, budget=600, packs_per_step=8, patch=PATCH, width=192)
    assert plan == plan_epoch(every, seed=seed, epoch=epoch, budget=600, packs_per_step=8, patch=PATCH, width=192)
    assert sorted(item.clip_id for step in plan.steps for pack in step for item in pack) == [sample.clip_id for sample in every]
    for step in plan.steps:
        reference = sorted(item.clip_id for pack in step for item in pack)
        for world_size in (1, 2, 4, 8):
            ranks = [rank_packs(step, rank, world_size, 8) for rank in range(world_size)]
            assert len({len(packs) for packs in ranks}) == 1  # equal work on every rank
            assert sorted(item.clip_id for packs in ranks for pack in packs for item in pack) == reference


@given(sizes=sizes, step=st.integers(0, 40))
@settings(max_examples=30)
def test_a_step_is_the_same_whether_reached_or_resumed_at(sizes, step):
    def stream():
        return PlanStream(samples(sizes), seed=3, budget=600, packs_per_step=2, patch=PATCH, width=192)

    walked = [(number, epoch, packs) for (number, epoch, packs), _ in zip(stream().steps_from(0), range(step + 1), strict=False)][-1]
    assert next(stream().steps_from(step)) == walked
    jumping = stream()
    jumping.at(step + 5)
    assert jumping.at(step) == walked[1:]


def test_a_sample_over_the_budget_is_windowed_and_counted():
    long = Sample("long", 0, 50, 8, 8)  # 16 tokens a frame
    plan = plan_epoch([long], seed=0, epoch=1, budget=100, packs_per_step=1, patch=PATCH, width=192)
    [[[window]]] = plan.steps
    assert plan.num_windowed == 1
    assert (window.latent_t, window.tokens(PATCH)) == (6, 96)
    assert 0 <= window.start <= 44


def test_a_frame_over_the_budget_is_refused_by_name():
    with pytest.raises(UsageError, match="huge"):
        plan_epoch([Sample("huge", 0, 1, 100, 100)], seed=0, epoch=0, budget=100, packs_per_step=1, patch=PATCH, width=192)
