"""The fused perceptron against plain torch, closed forms and itself under other circumstances."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from hepgen import kernels
from hepgen.errors import BackendError, UsageError
from hepgen.kernels import Dropout, MlpShape, MlpWeights, dispatch, mlp, mlp_ensemble
from hepgen.kernels.perceptron import mlp_ensemble_reference, mlp_reference

pytestmark = pytest.mark.usefixtures("one_thread")
CORE = dispatch.core()
ISAS = CORE.instruction_sets() if CORE is not None else []
needs_cpp = pytest.mark.skipif(CORE is None, reason="hepgen._core is not built")
needs_two_isas = pytest.mark.skipif(len(ISAS) < 2, reason="there is one instruction set")
both_backends = pytest.mark.parametrize("name", ["reference", pytest.param("cpp", marks=needs_cpp)])


def draw(n: int, columns: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network(
    widths: tuple[int, ...],
    activation: str = "relu",
    output: str = "linear",
    shortcuts: bool = False,
    dtype: torch.dtype = torch.float64,
) -> MlpWeights:
    layers = [(draw(b, a, 7 * b + a) / math.sqrt(a), draw(1, b, a)[0]) for a, b in pairwise(widths)]
    return cast(MlpWeights(layers, activation, output, shortcuts), dtype)


def cast(weights: MlpWeights, dtype: torch.dtype) -> MlpWeights:
    return weights._replace(layers=[tuple(t.detach().to(dtype).requires_grad_() for t in layer) for layer in weights.layers])


def flat(weights: MlpWeights) -> list[Tensor]:
    return [tensor for layer in weights.layers for tensor in layer]


def value_and_gradients(function, x: Tensor, weights: MlpWeights) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = function(x, weights)
    return [y.detach(), *torch.autograd.grad((y * draw(*y.shape, 11, y.dtype)).sum(), [x, *flat(weights)])]


def largest_error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).abs().max()) if exact.numel() else 0.0


def compare(x: Tensor, weights: MlpWeights) -> None:
    """In float64 to rounding; in float32 at most twice the error of plain torch in float32, both against float64."""
    for result, wanted in zip(value_and_gradients(mlp, x, weights), value_and_gradients(mlp_reference, x, weights), strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12 * max(1.0, float(wanted.abs().max()) if wanted.numel() else 0.0))
    single = x.float(), cast(weights, torch.float32)
    exact = value_and_gradients(mlp_reference, single[0].double(), cast(single[1], torch.float64))
    ours, plain = value_and_gradients(mlp, *single), value_and_gradients(mlp_reference, *single)
    for mine, theirs, wanted in zip(ours, plain, exact, strict=True):
        floor = 8 * torch.finfo(torch.float32).eps * max(1.0, float(wanted.abs().max()) if wanted.numel() else 0.0)
        assert largest_error(mine, wanted) <= 2 * largest_error(theirs, wanted) + floor


@needs_cpp
class TestAgainstReference:
    @pytest.mark.parametrize(
        ("widths", "rows", "activation", "output", "shortcuts"),
        [
            ((20, 128, 128, 128, 26), 150, "relu", "linear", False),
            ((6, 64, 128, 64, 1), 1100, "elu", "sigmoid", False),  # several groups of rows
            ((1, 50, 100, 50, 1), 65, "tanh", "sigmoid", False),
            ((3, 2), 1, "relu", "sigmoid", False),
            ((1, 1, 1), 64, "elu", "linear", False),
            ((20, *[128] * 6, 26), 150, "elu", "tanh", True),  # the decoder of paper D
            ((4, 33, 20, 33, 7, 33, 5), 1100, "relu", "tanh", True),
            ((2, 17, 17, 17, 17, 1), 65, "tanh", "linear", True),
            ((3, 8, 9, 2), 64, "relu", "sigmoid", True),  # too few layers for a shortcut
        ],
    )
    def test_shapes_in_every_instruction_set(self, isa, widths, rows, activation, output, shortcuts):
        compare(draw(rows, widths[0], 1), network(widths, activation, output, shortcuts))

    @settings(deadline=None, max_examples=40)
    @given(
        rows=st.integers(0, 140),
        widths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
        activation=st.sampled_from(["relu", "tanh", "elu"]),
        output=st.sampled_from(["linear", "sigmoid", "tanh"]),
    )
    def test_any_shape(self, rows, widths, activation, output):
        compare(draw(rows, widths[0], 1), network(tuple(widths), activation, output))

    @settings(deadline=None, max_examples=40)
    @given(
        rows=st.integers(0, 140),
        hidden=st.tuples(st.integers(1, 40), st.integers(1, 40)),  # of odd and even layers
        depth=st.integers(0, 7),
        ends=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        activation=st.sampled_from(["relu", "tanh", "elu"]),
        output=st.sampled_from(["linear", "tanh"]),
    )
    def test_any_shape_with_shortcuts(self, rows, hidden, depth, ends, activation, output):
        widths = (ends[0], *(hidden[layer % 2] for layer in range(depth)), ends[1])
        compare(draw(rows, widths[0], 1), network(widths, activation, output, shortcuts=True))


@both_backends
class TestByHand:
    layers = (
        (torch.tensor([[1.0, -2.0], [0.5, 0.5]]).double(), torch.tensor([0.0, -1.0]).double()),
        (torch.tensor([[2.0, 3.0]]).double(), torch.tensor([0.25]).double()),
    )

    @pytest.mark.parametrize(
        ("activation", "output", "expected"),
        [  # x = (1, 2): the hidden units see -3 and 0.5
            ("relu", "linear", 3 * 0.5 + 0.25),
            ("tanh", "linear", 2 * math.tanh(-3) + 3 * math.tanh(0.5) + 0.25),
            ("elu", "linear", 2 * math.expm1(-3) + 3 * 0.5 + 0.25),
            ("relu", "sigmoid", 1 / (1 + math.exp(-1.75))),
            ("relu", "tanh", math.tanh(1.75)),
        ],
    )
    def test_one_event(self, name, activation, output, expected):
        with kernels.backend(name):
            y = mlp(torch.tensor([[1.0, 2.0]]).double(), MlpWeights(self.layers, activation, output))
        assert y.item() == pytest.approx(expected, rel=1e-14)

    def test_a_shortcut_adds_the_layer_two_before_under_the_activation(self, name):
        one, zero = torch.ones(1, 1).double(), torch.zeros(1).double()
        # hidden units of x = 1/4: x, elu(x - 2), elu(that + x), elu(2 that), elu(that + the third): no shortcut into even layers
        layers = [(one, zero), (one, zero - 2), (one, zero), (2 * one, zero), (one, zero), (3 * one, zero)]
        first, second = 0.25, math.expm1(0.25 - 2)
        third = math.expm1(second + first)
        fourth = math.expm1(2 * third)
        fifth = math.expm1(fourth + third)
        with kernels.backend(name):
            y = mlp(torch.tensor([[0.25]]).double(), MlpWeights(layers, "elu", "tanh", shortcuts=True))
        assert y.item() == pytest.approx(math.tanh(3 * fifth), rel=1e-14)

    def test_a_sigmoid_far_out_neither_overflows_nor_turns_nan(self, name):
        one = torch.ones(1, 1)
        with kernels.backend(name):
            y = mlp(torch.tensor([[-1e4], [-100.0], [100.0], [1e4]]), MlpWeights([(one, one[0])], output="sigmoid"))
        assert y[2:].flatten().tolist() == [1.0, 1.0]
        assert (y[:2] < 1e-37).all()


@needs_cpp
class TestGradients:
    @pytest.mark.parametrize(
        ("hidden", "activation", "output", "shortcuts"),
        [
            ((8, 5), "tanh", "linear", False),
            ((8, 5), "elu", "sigmoid", False),
            ((8, 5), "relu", "sigmoid", False),
            ((6, 4, 6, 5, 6), "elu", "tanh", True),
            ((6, 4, 6), "relu", "tanh", True),
            ((6, 6, 6, 6), "tanh", "linear", True),
        ],
    )
    def test_gradcheck(self, hidden, activation, output, shortcuts):
        weights = network((3, *hidden, 2), activation, output, shortcuts)

        def function(x: Tensor, *tensors: Tensor) -> Tensor:
            return mlp(x, weights._replace(layers=list(zip(tensors[::2], tensors[1::2], strict=True))))

        assert torch.autograd.gradcheck(function, (draw(4, 3, 1).requires_grad_(), *flat(weights)))

    @pytest.mark.parametrize("asking", ["events", "weights"])
    def test_only_what_asks_gets_a_gradient(self, asking):
        weights = network((3, 6, 2))
        x = draw(10, 3, 1).requires_grad_(asking == "events")
        for tensor in flat(weights):
            tensor.requires_grad_(asking == "weights")
        wanted = [x] if asking == "events" else flat(weights)
        results = [torch.autograd.grad(f(x, weights).square().sum(), wanted) for f in (mlp, mlp_reference)]
        for mine, plain in zip(*results, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-12)

    def test_values_kept_and_computed_again_agree(self):
        weights = network((2, 500, 500, 1))
        x, upstream = draw(12_000, 2, 1), draw(12_000, 1, 2)

        def gradients(rows: slice) -> list[Tensor]:
            leaf = x[rows].clone().requires_grad_()
            return list(torch.autograd.grad((mlp(leaf, weights) * upstream[rows]).sum(), [leaf, *flat(weights)]))

        def record_bytes(n: int) -> int:
            parameters = torch.cat([w.detach().reshape(-1) for w in flat(weights)])
            inputs = x[None, :n], parameters[None], torch.zeros(1, dtype=torch.int64), [2, 500, 500, 1], "relu", "linear", False, 0.0, True
            with FakeTensorMode(allow_non_fake_inputs=True):
                expected = torch.ops.hepgen.mlp(*inputs)[1].numel()
            size = torch.ops.hepgen.mlp(*inputs)[1].numel()
            assert size == expected
            return 8 * size

        assert record_bytes(6000) > 48e6, "the hidden units of half the rows are kept"
        assert record_bytes(12_000) == 0, "those of all rows are not"
        whole, first, second = gradients(slice(None)), gradients(slice(0, 6000)), gradients(slice(6000, None))
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
        for all_rows, one, other in zip(whole[1:], first[1:], second[1:], strict=True):
            torch.testing.assert_close(all_rows, one + other, rtol=1e-11, atol=1e-11 * float(all_rows.abs().max()))

    @needs_two_isas
    def test_a_record_of_another_instruction_set(self):
        weights, leaf = network((5, 20, 20, 3)), draw(70, 5, 1).requires_grad_()
        try:
            CORE.set_instruction_set(ISAS[0])
            y = mlp(leaf, weights)
            CORE.set_instruction_set(ISAS[-1])
            (changed,) = torch.autograd.grad(y.square().sum(), leaf)
        finally:
            CORE.set_instruction_set(os.environ.get("HEPGEN_ISA", "auto"))
        (same,) = torch.autograd.grad(mlp(leaf, weights).square().sum(), leaf)
        torch.testing.assert_close(changed, same, rtol=1e-12, atol=1e-12)

    def test_second_derivative_is_refused(self):
        x = draw(3, 2, 1).requires_grad_()
        (first,) = torch.autograd.grad(mlp(x, network((2, 4, 1), "tanh")).sum(), x, create_graph=True)
        with pytest.raises(BackendError, match="first derivatives only"):
            first.sum().backward()


@needs_cpp
class TestRows:
    def test_a_row_does_not_depend_on_its_place(self, isa):
        weights, x = network((5, 33, 17, 3), dtype=torch.float32), draw(700, 5, 1, torch.float32)
        with torch.no_grad():
            whole = mlp(x, weights)
            for begin, end in [(0, 1), (1, 64), (64, 129), (130, 131), (131, 700)]:
                assert torch.equal(mlp(x[begin:end], weights), whole[begin:end])

    @pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
    @pytest.mark.parametrize(("hidden", "output", "shortcuts"), [((20,), "sigmoid", False), ((20, 9, 20), "tanh", True)])
    def test_nan_stays_in_its_row(self, isa, activation, hidden, output, shortcuts):
        weights, clean = network((4, *hidden, 3), activation, output, shortcuts), draw(100, 4, 1)
        dirty = clean.clone()
        dirty[[3, 99], [0, 2]] = math.nan
        kept = ~dirty.isnan().any(1)
        expected, result = (value_and_gradients(mlp, x, weights)[:2] for x in (clean, dirty))
        for mine, wanted in zip(result, expected, strict=True):
            assert torch.equal(mine[kept], wanted[kept])
        assert result[0][~kept].isnan().all()

    def test_denormal_numbers(self, isa):
        weights = network((3, 9, 2), dtype=torch.float32)
        weights = weights._replace(layers=[(w, torch.zeros_like(b)) for w, b in weights.layers])
        x = draw(70, 3, 1, torch.float32) * 2.0**-130
        exact = mlp_reference(x.double(), cast(weights, torch.float64))
        assert (exact.abs() < torch.finfo(torch.float32).tiny).all()
        torch.testing.assert_close(mlp(x, weights).double(), exact, rtol=0, atol=64 * 2.0**-149)

    def test_no_rows(self):
        results = value_and_gradients(mlp, draw(0, 3, 1), network((3, 5, 2)))
        assert results[0].shape == (0, 2)
        assert not any(g.any() for g in results[1:])

    def test_strides(self):
        weights, x = network((4, 10, 12, 2)), draw(8, 90, 1).T[::2, ::2]
        turned = weights._replace(layers=[(w.T.contiguous().T, b) for w, b in weights.layers])
        expected = value_and_gradients(mlp, x.contiguous(), weights)
        for result, wanted in zip(value_and_gradients(mlp, x, turned), expected, strict=True):
            assert torch.equal(result, wanted)


@needs_cpp
class TestThreads:
    def test_the_same_bits_for_any_number_of_threads(self, isa):
        weights, x = network((5, 24, 24, 3), dtype=torch.float32), draw(1500, 5, 1, torch.float32)
        runs = []
        for threads in (1, 2, 5, 2):
            torch.set_num_threads(threads)
            runs.append(value_and_gradients(mlp, x, weights))
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))

    def test_several_callers_at_once(self):
        weights, x = network((4, 16, 16, 2)), draw(600, 4, 1)
        alone = value_and_gradients(mlp, x, weights)
        torch.set_num_threads(3)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda _: value_and_gradients(mlp, x, weights), range(12)))
        assert all(torch.equal(a, b) for run in together for a, b in zip(run, alone, strict=True))


@needs_cpp
class TestTorch:
    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    @pytest.mark.parametrize(("output", "shortcuts"), [("sigmoid", False), ("tanh", True)])
    def test_opcheck(self, dropout, output, shortcuts):
        widths = [3, 6, 4, 6, 2]
        parameters = draw(2, MlpShape(widths).size, 2).requires_grad_()
        x, seeds = draw(10, 3, 1).reshape(2, 5, 3).requires_grad_(), torch.tensor([3, 4])
        torch.library.opcheck(torch.ops.hepgen.mlp.default, (x, parameters, seeds, widths, "tanh", output, shortcuts, dropout, True))

    @pytest.mark.parametrize("shortcuts", [False, True])
    def test_compile(self, shortcuts):
        weights = network((3, 6, 4, 6, 2), shortcuts=shortcuts)

        def scaled(x: Tensor, weights: MlpWeights) -> Tensor:
            return 3 * mlp(2 * x, weights)

        compiled = torch.compile(scaled, backend="aot_eager", fullgraph=True)
        for rows in (5, 70):
            expected = value_and_gradients(scaled, draw(rows, 3, 1), weights)
            for result, wanted in zip(value_and_gradients(compiled, draw(rows, 3, 1), weights), expected, strict=True):
                torch.testing.assert_close(result, wanted, rtol=1e-14, atol=1e-14)


def ensemble(members: int, n: int, shape: MlpShape, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = draw(members * n, shape.widths[0], 1, dtype).reshape(members, n, -1).requires_grad_()
    return x, (0.4 * draw(members, shape.size, 2, dtype)).requires_grad_()


def ensemble_gradients(function, x: Tensor, parameters: Tensor, shape: MlpShape, dropout: Dropout | None) -> list[Tensor]:
    y = function(x, parameters, shape, dropout)
    return [y.detach(), *torch.autograd.grad((y * draw(y.numel(), 1, 11, y.dtype).reshape(y.shape)).sum(), [x, parameters])]


@needs_cpp
class TestEnsemble:
    @pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
    @pytest.mark.parametrize("probability", [0.0, 0.05, 0.5])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
    def test_against_reference(self, isa, activation, probability, dtype, tolerance):
        self.compare(MlpShape((2, 37, 16, 2), activation, "sigmoid"), probability, dtype, tolerance)

    @pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
    @pytest.mark.parametrize("probability", [0.05, 0.5])
    def test_shortcuts_and_dropout_against_reference(self, isa, activation, probability):
        self.compare(MlpShape((2, 37, 16, 37, 16, 37, 3), activation, "tanh", True), probability, torch.float64, 1e-12)

    @staticmethod
    def compare(shape, probability, dtype, tolerance):
        x, parameters = ensemble(3, 150, shape, dtype)
        dropout = Dropout(probability, torch.tensor([5, 2**62, 0]))
        results = [ensemble_gradients(f, x, parameters, shape, dropout) for f in (mlp_ensemble, mlp_ensemble_reference)]
        for mine, wanted in zip(*results, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))

    def test_a_member_is_as_it_is_alone_for_any_number_of_threads(self):
        shape = MlpShape((2, 20, 20, 1))
        x, parameters = ensemble(5, 300, shape)
        seeds = torch.arange(5)
        wholes = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            wholes.append(ensemble_gradients(mlp_ensemble, x, parameters, shape, Dropout(0.1, seeds)))
        assert all(torch.equal(a, b) for whole in wholes[1:] for a, b in zip(whole, wholes[0], strict=True))
        y = mlp_ensemble(x, parameters, shape, Dropout(0.1, seeds))
        for member in range(5):
            one = slice(member, member + 1)
            assert torch.equal(mlp_ensemble(x[one], parameters[one], shape, Dropout(0.1, seeds[one]))[0], y[member])

    def test_units_are_left_out_at_the_rate_asked_for_and_the_mean_is_kept(self):
        shape = MlpShape((1, 64, 64))  # the outputs are the hidden units
        parameters = torch.cat([torch.zeros(64), torch.ones(64), torch.eye(64).flatten(), torch.zeros(64)])[None]
        x = torch.zeros(1, 6400, 1)
        for probability in (0.05, 0.3):
            units = mlp_ensemble(x, parameters, shape, Dropout(probability, torch.tensor([1])))[0]
            kept = units > 0
            count = kept.numel()
            assert abs(int(kept.sum()) - count * (1 - probability)) < 5 * math.sqrt(count * probability * (1 - probability))
            assert float(units[kept].min()) == pytest.approx(1 / (1 - probability), rel=1e-4)
            for rate in (kept.double().mean(0), kept.double().mean(1)):  # no unit and no event is special
                spread = math.sqrt(probability * (1 - probability) * len(rate) / count)
                assert float(rate.std()) == pytest.approx(spread, rel=0.35)
            other = mlp_ensemble(x, parameters, shape, Dropout(probability, torch.tensor([2])))[0] > 0
            both = int((kept & other).sum())
            assert abs(both - count * (1 - probability) ** 2) < 5 * math.sqrt(count * probability)

    @pytest.mark.parametrize("shortcuts", [False, True])
    def test_gradcheck(self, shortcuts):
        shape = MlpShape((2, 5, 4, 5, 1), "elu", shortcuts=shortcuts)
        x, parameters = ensemble(2, 3, shape)
        dropout = Dropout(0.4, torch.tensor([3, 4]))
        assert torch.autograd.gradcheck(lambda a, b: mlp_ensemble(a, b, shape, dropout), (x, parameters))

    def test_members_that_share_their_events_need_no_copies(self):
        shape = MlpShape((3, 8, 1))
        x, (_, parameters) = draw(70, 3, 1), ensemble(4, 1, shape)
        assert torch.equal(mlp_ensemble(x.expand(4, 70, 3), parameters, shape), mlp_ensemble(x.repeat(4, 1, 1), parameters, shape))

    def test_errors(self):
        shape = MlpShape((3, 8, 1))
        x, parameters = ensemble(4, 5, shape)
        with pytest.raises(
            UsageError, match=r"events \(members, n, 3\) and parameters \(members, 41\) are needed, got \(4, 5, 3\) and \(3, 41\)"
        ):
            mlp_ensemble(x, parameters[:3], shape)
        with pytest.raises(UsageError, match="a probability below 1 and 4 seeds of int64"):
            mlp_ensemble(x, parameters, shape, Dropout(1.0, torch.arange(4)))
        with pytest.raises(UsageError, match="a probability below 1 and 4 seeds of int64"):
            mlp_ensemble(x, parameters, shape, Dropout(0.5, torch.arange(3)))


class TestErrors:
    weights, x = network((3, 6, 2)), draw(4, 3, 1)

    def test_columns(self):
        with pytest.raises(UsageError, match=r"mlp: events must have shape \(n, 3\), got \(4, 2\)"):
            mlp(self.x[:, :2], self.weights)

    def test_layers_that_do_not_fit_each_other(self):
        (first, _), last = self.weights.layers
        with pytest.raises(UsageError, match=r"layer 0 must have a weight \(units, 3\) and a bias \(units,\), got \(6, 3\) and \(2,\)"):
            mlp(self.x, MlpWeights([(first, last[1]), last]))
        with pytest.raises(UsageError, match=r"layer 1 must have a weight \(units, 6\)"):
            mlp(self.x, MlpWeights([self.weights.layers[0], (last[0][:, :5], last[1])]))

    def test_no_layers(self):
        with pytest.raises(UsageError, match="weights must hold a matrix"):
            mlp(self.x, MlpWeights([]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_dtypes(self, dtype):
        with pytest.raises(UsageError, match="all be float32 or all float64, on one device, got torch.float"):
            mlp(self.x.to(dtype), cast(self.weights, torch.float16 if dtype == torch.float16 else torch.float64))

    def test_names(self):
        with pytest.raises(UsageError, match="activation 'gelu' is not known: choose one of relu, tanh, elu"):
            mlp(self.x, self.weights._replace(activation="gelu"))
        with pytest.raises(UsageError, match="output 'softmax' is not known: choose one of linear, sigmoid, tanh"):
            mlp(self.x, self.weights._replace(output="softmax"))

    def test_a_shortcut_between_layers_of_different_widths(self):
        with pytest.raises(UsageError, match="a shortcut joins hidden layers 3 and 5, which have 6 and 5 units: give them as many"):
            mlp(self.x, network((3, 6, 4, 6, 4, 5, 2), shortcuts=True))
        x, parameters = ensemble(1, 5, MlpShape((3, 6, 4, 5, 1)))
        with pytest.raises(UsageError, match="hidden layers 1 and 3, which have 6 and 5 units"):
            mlp_ensemble(x, parameters, MlpShape((3, 6, 4, 5, 1), shortcuts=True))
