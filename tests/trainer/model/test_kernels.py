"""The operations that compiled blocks call, against plain oracles, and what is kept of a recomputed block."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config import ModelConfig
from trainer.data.patches import coordinates
from trainer.model import kernels
from trainer.model.attention import attend_dense, attend_routed, documents
from trainer.model.dit import DiT
from trainer.model.kernels import attend_documents, look_up, pieces_of
from trainer.model.layout import JointLayout, Layout, Levels
from trainer.model.routes import checked_route
from trainer.model.routing import Kernels, backward_routed, forward_routed, route_of
from trainer.state.recompute import recomputed

CONFIG = ModelConfig(width=64, depth=2, num_heads=2, latent_channels=4, text_width=8)
PACKS = [([5, 3, 5, 1], [5, 3, 5, 1]), ([4, 0, 7], [2, 9, 2]), ([6], [1]), ([0, 70, 70], [3, 70, 70])]


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize(("queries", "keys"), PACKS)
def test_routed_attention_equals_the_dense_oracle_with_its_gradients(queries, keys):
    given_ = [torch.randn(sum(own), 2, 8, requires_grad=True) for own in (queries, keys, keys)]
    of = documents(offsets(queries), offsets(keys), torch.float32)
    found, expected = attend_routed(*given_, of), attend_dense(*given_, of)
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn(found.shape)
    own, true = (torch.autograd.grad((value * weights).sum(), given_) for value in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(own, true, strict=True))


def plain(q, k, v, cu_q, cu_k, longest):
    """Attention of documents one by one, and the logarithms of the sums, as a kernel of a GPU gives them."""
    out, sums = torch.zeros_like(q), torch.zeros(q.shape[1], q.shape[0])
    assert longest == (int(cu_q.diff().max()), int(cu_k.diff().max())) and int(cu_q[-1]) == len(q)
    for a, b, c, d in zip(cu_q, cu_q[1:], cu_k, cu_k[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) / q.shape[2] ** 0.5
        out[a:b] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[c:d])
        sums[:, a:b] = scores.logsumexp(-1)
    return out, sums


def plain_back(gradient, q, k, v, out, sums, cu_q, cu_k, longest):
    given_ = [x.detach().requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        found, logs = plain(*given_, cu_q, cu_k, longest)
        assert torch.allclose(found, out, atol=1e-5) and torch.allclose(logs, sums, atol=1e-5)
        return torch.autograd.grad((found * gradient).sum(), given_)


class Alone:
    """The same, for one document only."""

    def __init__(self, kernel):
        self.kernel, self.count = kernel, 0

    def __call__(self, *given_):
        self.count += 1
        assert len(given_[-2]) == 2 and min(given_[-1]) >= 7
        return self.kernel(*given_)


@pytest.mark.parametrize(
    ("queries", "keys", "long"),
    [
        ([9, 2, 0, 3, 8, 7, 1], [9, 2, 4, 3, 8, 7, 1], 3),
        ([2, 3], [4, 1], 0),
        ([12], [9], 1),
        ([0, 9, 3], [2, 9, 3], 1),
        ([9, 3], [2, 8], 0),
    ],
)
def test_the_calls_of_a_route_give_what_one_dense_mask_gives(queries, keys, long):
    q, k, v = (torch.randn(sum(own), 2, 4, requires_grad=True) for own in (queries, keys, keys))
    at_q, at_k = offsets(queries), offsets(keys)
    expected = attend_dense(q, k, v, documents(at_q, at_k, q.dtype))
    alone, alone_back = Alone(plain), Alone(plain_back)
    kernels_ = Kernels(plain, alone, plain_back, alone_back)
    places = at_q.int(), at_k.int(), route_of(at_q, at_k, 7)
    with torch.no_grad():
        out, sums = forward_routed(q, k, v, *places, kernels_)
        assert torch.allclose(out, expected, atol=1e-5)
        weights = torch.randn(out.shape)
        found = backward_routed(weights, q, k, v, out, sums, *places, kernels_)
    true = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, true, strict=True))
    assert alone.count == alone_back.count == long


def test_the_operation_is_registered_as_torch_wants_it():
    at = offsets([5, 3, 4])
    given_ = [torch.randn(12, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    torch.library.opcheck(attend_documents, (*given_, at.int(), at.int(), at, at, route_of(at, at, 4)))
    level = torch.tensor([2, 2, 0, 1, 1, 1])
    torch.library.opcheck(kernels.sum_levels, (torch.randn(6, 4), level, *pieces_of(level), 3))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=9), st.integers(1, 9))
def test_long_documents_go_alone_and_all_others_together(lengths, long_from):
    at_q, at_k = (offsets(side) for side in zip(*lengths, strict=True))
    found = route_of(at_q, at_k, long_from).tolist()
    assert [index for row in found for index in range(*row[:2])] == list(range(len(lengths)))
    for first, end, is_long, q0, q1, k0, k1, most_q, most_k in found:
        own = lengths[first:end]
        assert is_long == (min(own[0]) >= long_from)
        assert not is_long or len(own) == 1
        assert is_long or all(min(each) < long_from for each in own)
        assert (q0, q1, k0, k1) == (at_q[first], at_q[end], at_k[first], at_k[end])
        assert (most_q, most_k) == tuple(map(max, zip(*own, strict=True)))
    kinds = [row[2] for row in found]
    assert all(a or b for a, b in zip(kinds, kinds[1:], strict=False)), "short neighbours share a call"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 700)), min_size=1, max_size=6))
def test_pieces_are_the_levels_again(runs):
    level = torch.cat([torch.full((count,), own) for own, count in runs])
    lengths, levels = pieces_of(level)
    assert torch.equal(levels.repeat_interleave(lengths), level)
    assert int(lengths.max()) <= kernels.PIECE
    values = torch.randn(len(level), 3, dtype=torch.float64)
    expected = values.new_zeros(5, 3).index_add(0, level, values)
    pieces = torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)  # as a GPU does
    assert torch.allclose(values.new_zeros(5, 3).index_add_(0, levels, pieces), expected)


def test_noise_levels_are_looked_up_exactly():
    table, level = torch.randn(30, 48, requires_grad=True), torch.randint(0, 30, (900,))
    with torch.autocast("cpu", torch.bfloat16):
        found = look_up(table, level, *pieces_of(level))
    assert torch.equal(found, table[level])
    weights = torch.randn(found.shape)
    (gradient,) = torch.autograd.grad((found * weights).sum(), table)
    assert torch.allclose(gradient, torch.zeros_like(table).index_add(0, level, weights), atol=1e-4)


def test_words_have_the_highest_level_of_their_sample():
    levels = Levels.like(torch.tensor([0.0, 0.3, 0.8]), torch.tensor([0, 1, 1, 2, 0]))
    found = JointLayout([3, 2], [2, 1]).levels(levels)
    assert found.of.tolist() == [0, 1, 1, 1, 1, 2, 0, 2]
    assert torch.equal(found.levels.repeat_interleave(found.lengths), found.of)


def batch(seed=0):
    """Inputs of a pack of three samples, one of them with a given frame."""
    torch.manual_seed(seed)
    grids = [((1, 3, 2), 0.0), ((4, 2, 2), 30.0), ((3, 2, 4), 8.0)]
    coords = [coordinates(grid, CONFIG.patch, fps)[0] for grid, fps in grids]
    lengths, words = [len(own) for own in coords], [2, 5, 3]
    sigma = torch.tensor([0.3, 0.5, 0.9]).repeat_interleave(torch.tensor(lengths))
    sigma[10:14] = 0.0
    cu, text_cu, count = offsets(lengths), offsets(words), sum(lengths)
    values = torch.randn(count, 16), sigma, (sigma == 0).float(), torch.cat(coords)
    return *values, cu, torch.randn(sum(words), 8), text_cu


def model_of(text="cross", keeps=None):
    torch.manual_seed(1)
    model = DiT(dataclasses.replace(CONFIG, text=text))
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    if keeps:
        for index, block in enumerate(model.blocks):
            model.blocks[index] = recomputed(block, keeps)
    return model


def outcome(model, *more):
    """Velocity and gradients of a pass."""
    out = model(*batch(), *more)
    out.square().mean().backward()
    return out.detach(), [value.grad.clone() for value in model.parameters() if value.grad is not None]


def is_alike(one, other):
    return torch.allclose(one[0], other[0], atol=1e-5) and all(
        torch.allclose(a, b, atol=1e-4) for a, b in zip(one[1], other[1], strict=True)
    )


@pytest.mark.parametrize("text", ["cross", "joint"])
def test_a_block_compiles_without_a_break_and_gives_what_it_gave(text):
    expected, model = outcome(model_of(text)), model_of(text)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True, dynamic=True)
    model._finish = torch.compile(model._finish, backend="aot_eager", fullgraph=True, dynamic=True)
    assert is_alike(outcome(model), expected)


def test_a_layout_made_beforehand_changes_nothing():
    model, given_ = model_of(), batch()
    layout = Layout.of(given_[1], given_[4], given_[6], None)
    assert is_alike(outcome(model_of(), layout), outcome(model))


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if name.startswith("aten.addmm"):
            name += f" {args[2].shape[1]}"
        self.counts[name] = self.counts.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu.default"


def test_a_recomputed_block_computes_again_what_it_does_not_keep():
    expected, found = outcome(model_of()), {}
    for keeps in ("nothing", "attention", "widest"):
        model = model_of(keeps=keeps)
        with Counted() as counted:
            assert is_alike(outcome(model), expected)
        widest = f"aten.addmm.default {model_of().blocks[0].up.out_features}"
        found[keeps] = counted.counts[ATTENTION], counted.counts[widest]
    attention, widest = found["nothing"]
    assert found["attention"] == (attention // 2, widest)
    assert found["widest"] == (attention // 2, widest // 2)


def test_a_half_stream_is_near_the_whole_one():
    found = []
    for is_half in (False, True):
        model = model_of()
        if is_half:
            model.keep_stream_half()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(model(*batch()).float())
    assert not torch.equal(*found)
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpus_kernels_are_used_where_they_are_right():
    assert checked_route(torch.device("cuda"), 4, 128, 96) == 96
