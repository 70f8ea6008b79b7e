"""The Triton flow, on a card or through Triton's interpreter, against plain torch: tile borders, padded widths, several slices a step."""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import Tensor

from hepgen.kernels.maf import MafWeights, flatten_flow, hidden_widths, maf_forward_reference, maf_inverse_reference
from hepgen.networks import MAF

pytest.importorskip("triton")
ON_CARD = torch.cuda.is_available()
if not ON_CARD and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("there is no card, and TRITON_INTERPRET=1 is not set", allow_module_level=True)

from hepgen.kernels.triton import maf as flow  # noqa: E402
from hepgen.kernels.triton import maf_backward, maf_plan  # noqa: E402

DEVICE = "cuda" if ON_CARD else "cpu"
REFERENCES = (maf_forward_reference, maf_inverse_reference)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
both_directions = pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_weights(features: int, context: int, hidden: tuple[int, ...], activation: str) -> MafWeights:
    torch.manual_seed(features)
    weights = MAF(features, context, 2, hidden, "random", activation, seed=1).double().weights()
    return weights._replace(blocks=[[w.detach() + 0.2 * torch.randn(w.shape, dtype=w.dtype) for w in block] for block in weights.blocks])


def arguments(weights: MafWeights, dtype: torch.dtype) -> tuple:
    """What every function of the backend takes of a flow."""
    flat = flatten_flow(weights).to(DEVICE, dtype)
    return flat, hidden_widths(weights), weights.orders.to(DEVICE), weights.activation, weights.bound


def expected(inverse: bool, x: Tensor, context: Tensor, weights: MafWeights, gradients: tuple[Tensor, Tensor]) -> list[Tensor]:
    blocks = [[w.clone().requires_grad_() for w in block] for block in weights.blocks]
    inputs = [x.clone().requires_grad_(), context.clone().requires_grad_(), *(w for block in blocks for w in block)]
    results = REFERENCES[inverse](inputs[0], inputs[1], weights._replace(blocks=blocks))
    scalar = sum((r * g).sum() for r, g in zip(results, gradients, strict=True))
    found = torch.autograd.grad(scalar, inputs, allow_unused=True)
    of_x, of_context, *rest = (torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True))
    return [*(r.detach() for r in results), of_x, of_context, torch.cat([g.reshape(-1) for g in rest])]


def results(inverse: bool, given: tuple, dtype: torch.dtype) -> list[Tensor]:
    x, context, weights, gradients = given
    flat, *shape = arguments(weights, dtype)
    x, context, *gradients = (t.to(DEVICE, dtype) for t in (x, context, *gradients))
    y, log_det, record = flow.maf(inverse, x, context, flat, *shape, True)
    return [y, log_det, *flow.maf_backward(inverse, *gradients, record, context, flat, *shape, 7)]


def compare(inverse: bool, n: int, features: int, context: int, hidden: tuple[int, ...], activation: str, dtype: torch.dtype) -> None:
    weights = flow_weights(features, context, hidden, activation)
    given = draw(n, features, seed=1), draw(n, context, seed=2), weights, (draw(n, features, seed=3), draw(n, seed=4))
    for result, wanted in zip(results(inverse, given, dtype), expected(inverse, *given), strict=True):
        scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
        torch.testing.assert_close(result.cpu().double(), wanted, rtol=0, atol=TOLERANCE[dtype] * scale)


@both_directions
@pytest.mark.parametrize(
    ("n", "features", "context", "hidden", "activation", "dtype"),
    [
        (1, 1, 0, (3,), "tanh", torch.float32),
        (5, 1, 3, (17, 5), "elu", torch.float64),
        (63, 2, 0, (20,), "relu", torch.float32),
        (64, 2, 3, (7, 33), "tanh", torch.float64),
        (65, 3, 0, (16, 16), "elu", torch.float32),
        (127, 4, 3, (31,), "elu", torch.float64),
        (128, 5, 0, (9, 20, 12), "relu", torch.float32),
        (129, 6, 3, (30,), "relu", torch.float64),
        (66, 7, 3, (21, 9), "tanh", torch.float32),
    ],
)
def test_shapes(inverse, n, features, context, hidden, activation, dtype):
    compare(inverse, n, features, context, hidden, activation, dtype)


@both_directions
@pytest.mark.parametrize(("context", "hidden", "dtype"), [(33, (35, 20), torch.float64), (0, (18, 12, 17), torch.float32)])
def test_several_slices_and_chunks(inverse, context, hidden, dtype, monkeypatch):
    monkeypatch.setattr(maf_plan, "MOST", 16)
    compare(inverse, 20, 2, context, hidden, "elu", dtype)


@both_directions
def test_events_in_several_parts(inverse, monkeypatch):
    monkeypatch.setattr(maf_backward, "_SLICE_EVENTS", 128)
    monkeypatch.setattr(flow, "resident_programs", lambda _: 1)
    compare(inverse, 140, 2, 1, (6,), "tanh", torch.float64)


@both_directions
@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_what_is_not_wanted_is_empty(inverse, wanted):
    weights = flow_weights(2, 1, (4,), "relu")
    flat, *shape = arguments(weights, torch.float64)
    x, context = draw(6, 2, seed=1).to(DEVICE), draw(6, 1, seed=2).to(DEVICE)
    _, _, record = flow.maf(inverse, x, context, flat, *shape, True)
    one = x.new_ones(())
    given = one.expand(6, 2), one.expand(6), record, context, flat, *shape
    for i, (some, every) in enumerate(zip(flow.maf_backward(inverse, *given, wanted), flow.maf_backward(inverse, *given, 7), strict=True)):
        assert torch.equal(some, every if wanted >> i & 1 else every[:0])


@both_directions
def test_strides(inverse):
    weights = flow_weights(3, 2, (9, 6), "elu")
    flat, *shape = arguments(weights, torch.float64)
    x, context = draw(6, 80, seed=1).to(DEVICE).T[::2, ::2], draw(1, 2, seed=2).to(DEVICE).expand(40, 2)
    for result, wanted in zip(
        flow.maf(inverse, x, context, flat, *shape, True),
        flow.maf(inverse, x.contiguous(), context.contiguous(), flat, *shape, True),
        strict=True,
    ):
        assert torch.equal(result, wanted)


@both_directions
def test_rows_do_not_see_each_other(inverse):
    weights = flow_weights(3, 0, (20,), "relu")
    flat, *shape = arguments(weights, torch.float32)
    x, context = draw(140, 3, seed=1).to(DEVICE, torch.float32), draw(140, 0).to(DEVICE, torch.float32)
    clean, log_det, _ = flow.maf(inverse, x, context, flat, *shape, False)
    x[[3, 130], [0, 2]] = math.nan
    dirty, dirty_log_det, _ = flow.maf(inverse, x, context, flat, *shape, False)
    kept = torch.ones(140, dtype=torch.bool)
    kept[[3, 130]] = False
    assert torch.equal(clean[kept], dirty[kept])
    assert torch.equal(log_det[kept], dirty_log_det[kept])
    assert dirty[~kept].isnan().any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_likelihood(dtype):
    weights = flow_weights(3, 2, (9, 14), "elu")
    x, context, w = draw(70, 3, seed=1), draw(70, 2, seed=2), draw(70, seed=3)
    z, log_det = maf_forward_reference(x, context, weights)
    log_prob = log_det - 0.5 * (z.square().sum(1) + 3 * math.log(2 * math.pi))
    _, _, *gradients = expected(False, x, context, weights, (w[:, None] * z, -w))
    found = flow.maf_nll(*(t.to(DEVICE, dtype) for t in (x, context, w)), *arguments(weights, dtype), 7)
    for result, wanted in zip(found, [-(w * log_prob).sum(), log_prob, *gradients], strict=True):
        torch.testing.assert_close(result.cpu().double(), wanted, rtol=0, atol=TOLERANCE[dtype] * max(1.0, float(wanted.abs().max())))


def test_no_events():
    weights = flow_weights(3, 2, (5,), "relu")
    flat, *shape = arguments(weights, torch.float64)
    nothing = draw(0, 3).to(DEVICE), draw(0, 2).to(DEVICE)
    total, log_prob, *gradients = flow.maf_nll(*nothing, draw(0).to(DEVICE), flat, *shape, 7)
    assert total == 0
    assert len(log_prob) == 0
    assert gradients[2].shape == flat.shape
    assert not any(g.any() for g in gradients)


@pytest.mark.skipif(not ON_CARD, reason="there is no card")
@both_directions
def test_same_bits_and_graph_capture(inverse):
    weights = flow_weights(6, 6, (128, 128), "relu")
    flat, *shape = arguments(weights, torch.float32)
    x, context = draw(5000, 6, seed=1).to(DEVICE, torch.float32), draw(5000, 6, seed=2).to(DEVICE, torch.float32)

    def step() -> list[Tensor]:
        y, log_det, record = flow.maf(inverse, x, context, flat, *shape, True)
        return [y, log_det, *flow.maf_backward(inverse, y, log_det, record, context, flat, *shape, 7)]

    first = [t.clone() for t in step()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    for again, replayed, wanted in zip(step(), captured, first, strict=True):
        assert torch.equal(again, wanted)
        assert torch.equal(replayed, wanted)
