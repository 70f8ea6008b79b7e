"""How compiled kernels use threads, for every op: a new op joins with a line in CALLS."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hepgen import kernels
from hepgen.kernels import dispatch, philox
from hepgen.kernels.broken_line import broken_line
from hepgen.networks import MAF, MLP

pytestmark = pytest.mark.skipif(dispatch.core() is None, reason="hepgen._core is not built")
LINUX = sys.platform == "linux"


def draw(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32))


# Each makes its numbers with numpy and uses no torch op that would start torch's own threads (2^15 numbers), so that it can
# run after fork.


def mmd2(size: int) -> list[torch.Tensor]:
    x, y = draw(size, 3, 1).requires_grad_(), draw(size, 3, 2)
    value = kernels.mmd2(x, y, 1.0)
    return [value.detach(), *torch.autograd.grad(value, x)]


def kernel_mean(size: int) -> list[torch.Tensor]:
    return [kernels.kernel_mean(draw(size, 3, 1), 1.0)]


def gaussian_sums(size: int) -> list[torch.Tensor]:
    return [kernels.gaussian_sums(draw(size, 3, 1), draw(size, 3, 2), 1.0)]


def kde(size: int) -> list[torch.Tensor]:
    samples, grid = draw(size, 3, 1).requires_grad_(), torch.from_numpy(np.linspace(-4, 4, 60))
    exact, binned = (kernels.kde(samples, grid, 0.3, method=method) for method in ("exact", "binned"))
    slope = torch.from_numpy(np.ones((60, 3), np.float32))
    return [d for density in (exact, binned) for d in (density.detach(), *torch.autograd.grad(density, samples, slope))]


def kde_divergence(size: int) -> list[torch.Tensor]:
    samples, grid = draw(size, 3, 1).requires_grad_(), torch.from_numpy(np.linspace(-4, 4, 60))
    value = kernels.kde_divergence(samples, grid, 0.3, torch.from_numpy(np.full((60, 3), 1 / 60, np.float32)))
    return [value.detach(), *torch.autograd.grad(value, samples)]


@functools.cache
def flow() -> MAF:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return MAF(4, 2, 2, (24, 24))


def maf_forward(size: int) -> list[torch.Tensor]:
    maf = flow()
    density = maf.log_prob(draw(size, 4, 1), draw(size, 2, 2))
    return [density.detach(), *torch.autograd.grad(density, list(maf.parameters()), torch.from_numpy(np.ones(size, np.float32)))]


def maf_inverse(size: int) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(flow().inverse(draw(size, 4, 1), draw(size, 2, 2)))


def maf_nll(size: int) -> list[torch.Tensor]:
    maf = flow()
    value = maf.negative_log_likelihood(draw(size, 4, 1), draw(size, 2, 2))
    return [value.detach(), *torch.autograd.grad(value, list(maf.parameters()))]


@functools.cache
def perceptron() -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return MLP(4, 2, (32, 32))


def mlp(size: int) -> list[torch.Tensor]:
    network, x = perceptron(), draw(size, 4, 1)
    out = network(x)
    return [out.detach(), *torch.autograd.grad(out, list(network.parameters()), torch.from_numpy(np.ones((size, 2), np.float32)))]


def ecd_step(size: int) -> list[torch.Tensor]:
    params, velocities, grads = (list(draw(size, 10, seed).unbind(1)) for seed in (1, 2, 3))
    params, velocities = [p.contiguous() for p in params], [v.contiguous() for v in velocities]
    kernels.ecd_step(params, velocities, grads, loss=0.5, lr=0.1, eta=3.0, nu=1e-3)
    return params + velocities


def draw_normals(size: int) -> list[torch.Tensor]:
    return [torch.from_numpy(philox.normal(np.arange(size), 4, seed=1))]


def line(size: int) -> list[torch.Tensor]:
    points = np.linspace(-3, 3, 1000)
    numbers = np.random.default_rng(1).normal(size=size)
    return [torch.from_numpy(broken_line(numbers, points, points**3 + points, (1.0, 2.0)))]


# op -> the call, a size at which it uses threads, a size at which it takes long
CALLS: dict[str, tuple[Callable[[int], list[torch.Tensor]], int, int]] = {
    "broken_line": (line, 40_000, 2_000_000),
    "mmd2": (mmd2, 900, 6_000),
    "kernel_mean": (kernel_mean, 900, 9_000),
    "gaussian_sums": (gaussian_sums, 900, 8_000),
    "kde": (kde, 10_400, 2_000_000),
    "kde_divergence": (kde_divergence, 10_400, 4_000_000),
    "maf_forward": (maf_forward, 900, 30_000),
    "maf_inverse": (maf_inverse, 900, 100_000),
    "maf_nll": (maf_nll, 900, 30_000),
    "mlp": (mlp, 3_000, 300_000),
    "ecd_step": (ecd_step, 17_000, 400_000),
    "philox": (draw_normals, 40_000, 400_000),
}


def outcome(op: str) -> list[bytes]:
    call, size, _ = CALLS[op]
    return [t.numpy().tobytes() for t in call(size)]


def test_every_compiled_op_is_here():
    assert set(CALLS) == {op for op, backends in dispatch.OPS.items() if "cpp" in backends}


@pytest.mark.parametrize("op", CALLS)
def test_same_bits_for_any_number_of_threads(op):
    before = torch.get_num_threads()
    try:
        outcomes = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(outcome(op))
    finally:
        torch.set_num_threads(before)
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.parametrize("op", CALLS)
def test_several_callers_at_once(op):
    want = outcome(op)
    with ThreadPoolExecutor(4) as pool:
        assert all(got == want for got in pool.map(lambda _: outcome(op), range(8)))


def test_different_ops_at_once():
    want = {op: outcome(op) for op in CALLS}
    with ThreadPoolExecutor(4) as pool:
        for op, got in pool.map(lambda op: (op, outcome(op)), [*CALLS, *reversed(CALLS)]):
            assert got == want[op]


@pytest.mark.parametrize("op", CALLS)
def test_other_python_threads_go_on(op):
    """The longest time in which another thread got no turn is a small part of the call, so the GIL was not held through it."""
    call, _, size = CALLS[op]
    call(size)
    turns: list[float] = []
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            turns.append(time.perf_counter())
            time.sleep(2e-4)

    other = threading.Thread(target=count)
    other.start()
    try:
        core = dispatch.core()
        name = {
            "philox": "philox_fill",
            "maf_forward": "maf_apply",
            "maf_inverse": "maf_apply",
            "mlp": "mlp_apply",
            "maf_nll": "maf_likelihood",
        }.get(op, op)
        inner, spans = getattr(core, name), []

        def timed(*arguments):
            start = time.perf_counter()
            result = inner(*arguments)
            spans.append((start, time.perf_counter()))
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core, name, timed)
            for _ in range(4):
                call(size)
    finally:
        stop.set()
        other.join()
    within = [sum(start < t < end for t in turns) for start, end in spans]
    assert max(within) >= 3, (within, [end - start for start, end in spans])


def run_program(program: str, **environment: str) -> str:
    head = f"import runpy, os, sys, threading\nops = runpy.run_path({str(Path(__file__))!r})\nimport torch\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + program],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its forked children too
        raise
    assert process.returncode == 0, err
    return out.strip()


# the most threads this process had during a call, beside the watcher and those before it
WATCH = """
def threads_during(op, enough=0.05):
    import time
    call, _, size = ops["CALLS"][op]
    most, stop = [0], threading.Event()
    def watch():
        while not stop.is_set():
            most[0] = max(most[0], len(os.listdir("/proc/self/task")))
            time.sleep(1e-3)
    watcher = threading.Thread(target=watch)
    before = 1000
    for _ in range(10):  # a thread that was joined is listed for a moment more
        time.sleep(2e-3)
        before = min(before, len(os.listdir("/proc/self/task")))
    watcher.start()
    end = time.perf_counter() + enough
    while time.perf_counter() < end:
        call(size)
    stop.set()
    watcher.join()
    return most[0] - before - 1
"""


@pytest.mark.skipif(not LINUX, reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_follows_torch(threads):
    printed = run_program(WATCH + f"torch.set_num_threads({threads})\nprint(*[threads_during(op) for op in ops['CALLS']])\n")
    # the first op brings them, and they serve all others
    assert printed.split() == [str(threads - 1)] + ["0"] * (len(CALLS) - 1)


@pytest.mark.skipif(not LINUX, reason="counts threads in /proc")
def test_no_threads_beside_those_of_torch():
    program = (
        "torch.set_num_threads(3)\n"
        "(torch.ones(2000, 2000) + 1).sum()\n"  # torch has its threads now
        "assert len(os.listdir('/proc/self/task')) >= 3\n"
        "assert ops['dispatch'].core().borrows_threads()\n"
        "print([threads_during(op) for op in ops['CALLS']])\n"
    )
    assert printed_zeros(run_program(WATCH + program))


def printed_zeros(printed: str) -> bool:
    return printed == str([0] * len(CALLS))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_survives_fork():
    """After use in the parent; the child, asked for two, starts threads of its own, and ends them with each call."""
    program = (
        WATCH + "torch.set_num_threads(2)\n"
        "want = {op: ops['outcome'](op) for op in ops['CALLS']}\n"
        "(torch.ones(2000, 2000) + 1).sum()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    held = ops['dispatch'].threads(2)\n"
        "    held.__enter__()\n"
        "    good = not ops['dispatch'].core().borrows_threads() and all(ops['outcome'](op) == want[op] for op in want)\n"
        "    good = good and (sys.platform != 'linux' or threads_during('kernel_mean') == 1)\n"
        "    good = good and (sys.platform != 'linux' or threads_during('kernel_mean') == 1)\n"  # the first one is gone
        "    os._exit(0 if good else 3)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "assert all(ops['outcome'](op) == want[op] for op in want)\n"
        "sys.exit(code)\n"
    )
    run_program(program)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_first_use_after_fork():
    """The core is loaded in the child only: it must see that torch's threads are the parent's."""
    program = (
        "import os, sys, torch, numpy as np\n"
        "torch.set_num_threads(2)\n"
        "(torch.ones(2000, 2000) + 1).sum()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    from hepgen import _core\n"
        "    _core.philox_fill(np.zeros((100000, 1), np.uint64), 2, 1, 0, True, 2)\n"
        "    os._exit(3 if _core.borrows_threads() else 0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


@pytest.mark.skipif(not (LINUX and hasattr(os, "fork")), reason="counts threads in /proc")
def test_workers_of_a_forked_pool_use_one_thread():
    """coffea's futures executor makes such processes by fork: each of them is one worker of several."""
    program = (
        WATCH + "import multiprocessing, concurrent.futures, warnings\n"
        "torch.set_num_threads(3)\n"
        "ops['outcome']('kernel_mean')\n"
        "def work(_):\n"
        "    return threads_during('kernel_mean')\n"
        "warnings.simplefilter('ignore')\n"
        "with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool:\n"
        "    print(list(pool.map(work, range(2))))\n"
    )
    assert run_program(program) == "[0, 0]"
