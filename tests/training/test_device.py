from __future__ import annotations

import copy

import pytest
import torch

from hepgen.errors import UsageError
from hepgen.estimators.flow_objectives import KLLoss, LogLoss, MDMMLoss, MMDLoss
from hepgen.losses import MMD, KLOfKDE
from hepgen.networks import MAF
from hepgen.optim import MDMM
from hepgen.training import Plan, Sample, loop, train

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU here")


def samples(n: int = 3000, weighted: bool = False) -> dict[str, Sample]:
    generator = torch.Generator().manual_seed(3)
    sim = torch.randn(n, 2, generator=generator)
    data = torch.randn(n, 2, generator=generator) * 0.8 + 0.3
    weights = torch.rand(n, generator=generator) + 0.5 if weighted else None
    return {"sim": Sample(sim, weights), "data": Sample(data, None)}


def objective(kind: str, given: dict[str, Sample]):
    torch.manual_seed(5)
    flow = MAF(2, 2, blocks=3, hidden=(16, 16), shear=True)
    target = given["data"].values
    if kind == "nll":
        return LogLoss(flow)
    mmd, kl = MMD(0.5), KLOfKDE(target, batch_size=500, points=128)
    return {
        "mmd": lambda: MMDLoss(flow, mmd),
        "kl": lambda: KLLoss(flow, kl),
        "mdmm": lambda: MDMMLoss(flow, kl, mmd, (1e-2, 1e-3), MDMM(1.015, rate=0.01)),
    }[kind]()


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu"])
def test_devices_that_are_not_there(name):
    if name.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="sees no GPU|runs on cpu or cuda"):
        Plan(1, 10, device=name)


@GPU
@pytest.mark.parametrize("kind", ["nll", "kl", "mmd", "mdmm"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "ecd"])
def test_a_fit_on_a_gpu_ends_where_one_on_the_cpu_does(kind, optimizer):
    given = samples(weighted=True)
    rates = (0.5, 0.5) if optimizer == "ecd" else (1e-3, 1e-4)
    ends = []
    for device in ("cpu", "cuda"):
        fitted = objective(kind, given)
        record = train(fitted, given, Plan(6, 500, rates, optimizer=optimizer, device=device))
        assert {p.device.type for p in fitted.parameters()} == {b.device.type for b in fitted.buffers()} == {"cpu"}
        assert [epoch["epoch"] for epoch in record.epochs] == list(range(1, 7))
        ends.append(record)
    cpu, gpu = (end.epochs for end in ends)
    assert gpu[-1]["valid"] == pytest.approx(cpu[-1]["valid"], rel=0.3, abs=0.05)  # other random numbers, the same fit
    assert gpu[-1]["train"] < gpu[0]["train"] or optimizer == "ecd"


@GPU
@pytest.mark.parametrize("kind", ["nll", "mdmm"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_replayed_steps_are_the_steps(kind, optimizer, monkeypatch):
    given, plan = samples(), Plan(3, 500, optimizer=optimizer, device="cuda")
    replayed, eager = objective(kind, given), objective(kind, given)
    train(replayed, given, plan)
    monkeypatch.setattr(loop, "CAPTURABLE", ())
    train(eager, given, plan)
    for one, other in zip(replayed.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@GPU
def test_a_fit_on_a_gpu_resumes_bit_for_bit(tmp_path, monkeypatch):
    given, plan = samples(), Plan(4, 500, device="cuda")
    whole = objective("mdmm", given)
    train(whole, given, plan)
    broken = objective("mdmm", given)
    steps = 0
    take = loop._Fit._take_step

    def stop_in_the_middle(self):
        nonlocal steps
        steps += 1
        if steps == 11:
            self._save()
            raise KeyboardInterrupt
        take(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Fit, "_take_step", stop_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            train(broken, given, plan, checkpoint=tmp_path / "fit")
    again = objective("mdmm", given)
    train(again, given, plan, checkpoint=tmp_path / "fit")
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@GPU
def test_an_epoch_does_not_wait_for_the_host(monkeypatch):
    given = samples()
    fit = loop._Fit(objective("mdmm", given), given, Plan(2, 500, device="cuda"), [1], None)
    for _ in range(4):  # three as ever, and the recording
        fit._take_step()
    torch.cuda.synchronize()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("it waits"))
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fit._take_step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_the_device_does_not_change_the_name_of_a_cpu_fit(tmp_path):
    given, plan = samples(200), Plan(1, 100)
    first = objective("nll", given)
    train(first, given, plan, checkpoint=tmp_path / "fit")
    state = copy.deepcopy(first.state_dict())
    again = objective("nll", given)
    train(again, given, Plan(1, 100, device="cpu"), checkpoint=tmp_path / "fit")
    assert all(torch.equal(a, b) for a, b in zip(state.values(), again.state_dict().values(), strict=True))
