"""Attention over parts of a pack equals attention over the whole, with its gradients."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.commands import ended, together
from trainer.model.ring import RingPlan, join
from trainer.model.sequence import SequenceGroup

SCRIPT = """
import sys, torch
import torch.distributed as dist
from trainer.model.attention import attend_dense, documents
from trainer.model.ring import attend_ring
from trainer.state.parallel import join
torch.set_num_threads(1)
size, ring = int(sys.argv[1]), int(sys.argv[2])
ranks = join(size, ring)
group = ranks.sequence
for number, lengths in enumerate(([40], [5, 3, 30, 2], [10] * 4, [19, 1, 20], [1] * 40, [7, 26, 7])):
    torch.manual_seed(number)
    at = torch.tensor([0, *lengths]).cumsum(0)
    whole = [torch.randn(40, 4, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = torch.randn(40, 4, 8, dtype=torch.float64)
    expected = attend_dense(*whole, documents(at, at, torch.float64))
    true = torch.autograd.grad((expected * weights).sum(), whole)
    span = group.span(40)
    own = [part.detach()[span].clone().requires_grad_() for part in whole]
    of = documents(group.part_offsets(at), group.part_offsets(at), torch.float64)
    q, k, v = group.to_heads(*own)
    found = group.to_tokens(attend_ring(q, k, v, of.cu_q, of.at_q, None, group.ring_plan(at)))
    assert torch.allclose(found, expected[span], atol=1e-6), (lengths, "values")
    mine = torch.autograd.grad((found * weights[span]).sum(), own)
    for one, other in zip(mine, true):
        assert torch.allclose(one, other[span], atol=1e-6), (lengths, "gradients")
print("alike")
"""


def run_together(script, size, *arguments):
    started = together(size, "-c", script, size, *arguments)
    assert all("alike" in out for out, _ in ended(started, 240))


@pytest.mark.parametrize(("size", "ring"), [(4, 2), (4, 4)])
def test_a_ring_and_its_hybrid_with_heads_equal_one_process(size, ring):
    run_together(SCRIPT, size, ring)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("size", "ring"), [(5, 5), (8, 2), (8, 4)])
def test_larger_rings_equal_one_process(size, ring):
    run_together(SCRIPT, size, ring)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(2, 6))
def test_two_parts_share_what_a_plain_count_says(lengths, size):
    lengths = [*lengths, -sum(lengths) % size] if sum(lengths) % size else lengths
    at = torch.tensor([0, *lengths]).cumsum(0)
    owner = torch.repeat_interleave(torch.tensor(lengths)).tolist()
    part = len(owner) // size
    for one, other in itertools.permutations(range(size), 2):
        mine, theirs = (owner[p * part : (p + 1) * part] for p in (one, other))
        both = set(mine) & set(theirs)
        found = RingPlan(at, one, size, None).shared[other]
        assert (found is None) == (not both)
        if found:
            [document] = both
            assert [i for i, of in enumerate(mine) if of == document] == list(
                range(found.own.start, found.own.stop)
            )
            assert [i for i, of in enumerate(theirs) if of == document] == list(
                range(found.other.start, found.other.stop)
            )


def test_every_part_is_given_to_and_taken_from_once():
    for size in (2, 3, 5):
        plans = [RingPlan(torch.tensor([0, size]), rank, size, None) for rank in range(size)]
        for number, rounds in enumerate(zip(*(plan.rounds() for plan in plans), strict=True)):
            for rank, (to, of) in enumerate(rounds):
                assert rounds[to][1] == rank and rounds[of][0] == rank, number
        assert {of for _, of in plans[0].rounds()} == set(range(1, size))


def test_results_for_two_sets_of_keys_join_to_that_for_both():
    q, k, v = (torch.randn(count, 2, 4) for count in (5, 9, 9))

    def attended(keys):
        scores = torch.einsum("qhd,khd->hqk", q, k[keys]) / 2
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[keys]), scores.logsumexp(-1)

    out, sums = join(*attended(slice(0, 4)), *attended(slice(4, 9)))
    assert torch.allclose(out, attended(slice(0, 9))[0], atol=1e-6)
    assert torch.allclose(sums, attended(slice(0, 9))[1], atol=1e-6)


def test_offsets_within_a_part_are_those_of_the_processes_that_deal_its_heads():
    cu = torch.tensor([0, 3, 9, 16])
    assert SequenceGroup(3, 4, ring=2).part_offsets(cu).tolist() == [0, 0, 1, 8]
    assert SequenceGroup(3, 4, ring=4).part_offsets(cu).tolist() == [0, 0, 0, 4]
    assert SequenceGroup(3, 4).part_offsets(cu).tolist() == cu.tolist()
    assert SequenceGroup(3, 4, ring=2).offsets(cu).tolist() == [0, 0, 0, 4]
