"""The command line on the packaged files: what it writes, its exit codes, its one-sentence errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

import hepgen
from hepgen import cli, samples
from hepgen.events import Writer, chunks, open_info, read
from hepgen.events.weight_files import read_weights

Run = Callable[..., tuple[int, str, str]]

STUDY = """
output = "photons"
[sim]
files = ["{sim}"]
[data]
files = ["{data}"]
[features]
paths = ["photon[0].pt", "photon[0].eta", "photon[0].phi", "photon[1].pt", "photon[1].eta", "photon[1].phi"]
computed = ["mass(photon[0], photon[1])"]
[selection]
name = "diphoton"
[model]
loss = "nll"
blocks = 2
hidden = [16, 16]
[fit]
epochs = 2
batch_size = 512
[evaluation]
sim = {{ files = ["{sim_independent}"] }}
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line with some arguments: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hepgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr()
        return int(left.value.code or 0), out.out, out.err

    return call


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was fitted."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(STUDY.format(**samples.packaged("diphoton")))
    from hepgen.fitting import fit_study
    from hepgen.study import Study

    fit_study(Study.from_file(folder / "study.toml"))
    return folder


def one_sentence(err: str) -> str:
    assert err.startswith("hepgen: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_fit_leaves_model_and_evidence(fitted: Path) -> None:
    out = fitted / "photons"
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    report = {
        f"report/{name}"
        for name in ("metrics.json", "report.html", "marginals.png", "mass.png", "correlations.png", "roc.png", "history.png")
    }
    assert names >= {"model.hepgen", *report}
    metrics = json.loads((out / "report" / "metrics.json").read_text())
    assert metrics["auc"]["simulation"]["value"] > 0.7
    text = (out / "report" / "report.html").read_text()
    assert "http://" not in text
    assert "https://" not in text


def test_fit_does_not_replace_a_model(fitted: Path, run: Run) -> None:
    before = (fitted / "photons" / "model.hepgen").read_bytes()
    code, _, err = run("fit", fitted / "study.toml")
    assert code == 1
    assert "model.hepgen exists already" in one_sentence(err)
    assert (fitted / "photons" / "model.hepgen").read_bytes() == before


def test_apply_keeps_everything_else(fitted: Path, run: Run, tmp_path: Path) -> None:
    source, out = samples.packaged("diphoton")["sim_independent"], tmp_path / "out.root"
    code, said, _ = run("apply", fitted / "photons" / "model.hepgen", source, out, "--quiet")
    assert code == 0
    before, after = open_info(source), open_info(out)
    assert list(after.branches.items()) == list(before.branches.items())
    assert (after.tree, after.entries) == (before.tree, before.entries)
    old, new = (uproot.open(path)[before.tree].arrays() for path in (source, out))
    moved = {f"photon_{name}" for name in ("pt", "eta", "phi", "E")}
    for name in set(before.branches) - moved:
        assert ak.array_equal(old[name], new[name], dtype_exact=True), name
    two = np.asarray(old.photon_n) >= 2
    assert f"{len(two)} events, {two.sum()} transformed, {(~two).sum()} passed through" in said
    for name in moved:
        assert ak.array_equal(old[name][~two], new[name][~two])
        assert ak.array_equal(old[name][:, 2:], new[name][:, 2:])
        assert float(ak.mean(old[name][two][:, :2] == new[name][two][:, :2])) < 0.01
    assert np.allclose(ak.flatten(new.photon_E), ak.flatten(new.photon_pt * np.cosh(new.photon_eta)), rtol=1e-4), "photons stay massless"


def test_apply_does_not_depend_on_the_chunks(fitted: Path, run: Run, tmp_path: Path) -> None:
    source = samples.packaged("diphoton")["sim_independent"]
    results = []
    for chunk in (100, 1777, 100_000):
        out = tmp_path / f"{chunk}.root"
        assert run("apply", fitted / "photons" / "model.hepgen", source, out, "--chunk-size", chunk, "--quiet")[0] == 0
        results.append(read(out).photon)
    for photon in results[1:]:
        assert ak.array_equal(photon, results[0])


def test_apply_does_not_depend_on_the_workers(fitted: Path, run: Run, tmp_path: Path) -> None:
    source = samples.packaged("diphoton")["sim_independent"]
    results = []
    for workers in (1, 4):
        out = tmp_path / f"{workers}.root"
        code, _, _ = run("apply", fitted / "photons" / "model.hepgen", source, out, "--chunk-size", "500", "--workers", workers, "--quiet")
        assert code == 0
        results.append(read(out))
    assert ak.array_equal(*results, equal_nan=True)
    code, _, err = run("apply", fitted / "photons" / "model.hepgen", source, tmp_path / "none.root", "--workers", "0")
    assert (code, one_sentence(err)) == (2, "hepgen: workers must be at least 1, got 0\n")
    assert not (tmp_path / "none.root").exists()


def test_apply_says_where_its_time_went(fitted: Path, run: Run, tmp_path: Path) -> None:
    source = samples.packaged("diphoton")["sim_independent"]
    code, said, _ = run("apply", fitted / "photons" / "model.hepgen", source, tmp_path / "out.root", "--profile", "--quiet")
    assert code == 0
    assert "events/s" in said
    shares = {line.split("│")[1].strip(): int(line.split("│")[3].strip(" %")) for line in said.splitlines() if "%" in line}
    assert set(shares) == {"reading", "awkward", "kernel", "writing"}
    assert 96 <= sum(shares.values()) <= 104


def test_apply_does_what_was_asked_with_broken_events(fitted: Path, run: Run, tmp_path: Path) -> None:
    model, source = fitted / "photons" / "model.hepgen", tmp_path / "broken.root"
    raw = next(chunks(samples.packaged("diphoton")["sim_independent"], chunk_size=50)).raw
    pt = ak.to_numpy(ak.flatten(raw.photon_pt)).copy()
    pt[0] = np.nan
    raw["photon_pt"] = ak.unflatten(pt, ak.num(raw.photon_pt))
    with Writer(source, like=samples.packaged("diphoton")["sim_independent"]) as out:
        out.extend(raw)
    code, _, err = run("apply", model, source, tmp_path / "none.root", "--quiet")
    assert code == 1
    assert "holds 1 value that is NaN or inf, at entry 0" in one_sentence(err)
    code, said, _ = run("apply", model, source, tmp_path / "out.root", "--invalid", "identity", "--quiet")
    assert code == 0
    assert "49 transformed, 1 passed through" in said
    code, _, err = run("apply", model, source, tmp_path / "x.root", "--invalid", "drop")
    assert (code, one_sentence(err)) == (2, "hepgen: --invalid drop: choose raise, identity or nan\n")


def test_apply_needs_no_torch(fitted: Path, tmp_path: Path) -> None:
    source = samples.packaged("diphoton")["sim_independent"]
    arguments = ["hepgen", "apply", str(fitted / "photons" / "model.hepgen"), str(source), str(tmp_path / "out.root"), "-q"]
    heavy = ("torch", "scipy", "sklearn", "coffea", "matplotlib", "numba")
    script = (
        f"import sys; sys.argv = {arguments!r}\nfrom hepgen import cli\ntry: cli.main()\nexcept SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & set({heavy})))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"


def test_weights_of_a_reweighter_go_to_a_file(run: Run, fitted: Path, tmp_path: Path) -> None:
    sources = [samples.packaged("diphoton")[role] for role in ("sim", "data")]
    model = hepgen.Reweighter(hepgen.Features(["photon[0].pt", "photon[1].pt"]), ensemble=2, hidden=(8,))
    model.fit(*(read(source, entry_stop=800) for source in sources), epochs=1, batch_size=200, progress=False).save(tmp_path / "r.hepgen")
    code, said, _ = run("weights", tmp_path / "r.hepgen", sources[0], "--out", tmp_path / "w.parquet", "--quiet")
    events = read(sources[0])
    assert code == 0
    assert f"{len(events)} events, weights that sum to" in said
    assert np.array_equal(read_weights(tmp_path / "w.parquet", events), model.weights(events))
    code, _, err = run("weights", fitted / "photons" / "model.hepgen", sources[0], "--out", tmp_path / "x.parquet")
    assert code == 2
    assert "holds a SimToData, which gives no weights: use hepgen apply" in one_sentence(err)
    code, said, _ = run("apply", tmp_path / "r.hepgen", sources[0], tmp_path / "out.root", "--quiet")
    assert code == 0
    assert f"{len(events)} weighted" in said


@pytest.mark.parametrize("file_format", ["rntuple", "parquet"])
def test_apply_writes_other_formats(fitted: Path, run: Run, tmp_path: Path, file_format: str) -> None:
    source, out = samples.packaged("diphoton")["sim_independent"], tmp_path / f"out.{'parquet' if file_format == 'parquet' else 'root'}"
    assert run("apply", fitted / "photons" / "model.hepgen", source, out, "--format", file_format, "--quiet")[0] == 0
    assert run("apply", fitted / "photons" / "model.hepgen", source, tmp_path / "same.root", "--quiet")[0] == 0
    assert np.array_equal(ak.flatten(read(out).photon.pt), ak.flatten(read(tmp_path / "same.root").photon.pt))


def test_evaluate_writes_the_same_numbers_again(fitted: Path, run: Run, tmp_path: Path) -> None:
    code, said, _ = run("evaluate", fitted / "study.toml", "--out", tmp_path / "again")
    assert code == 0
    assert "classifier AUC" in said
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (fitted / "photons" / "report", tmp_path / "again"))
    assert one["correlations"] == two["correlations"]


def test_bad_input_of_apply(fitted: Path, run: Run, tmp_path: Path) -> None:
    model, source = fitted / "photons" / "model.hepgen", samples.packaged("diphoton")["sim"]
    out = tmp_path / "out.root"
    truncated, zmumu = tmp_path / "truncated.root", tmp_path / "other.root"
    truncated.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with uproot.recreate(zmumu) as file:
        file.mktree("mini", {"photon_pz": np.float32, "eventNumber": np.int64, "runNumber": np.int64})
        file["mini"].extend({"photon_pz": np.ones(3, np.float32), "eventNumber": np.arange(3), "runNumber": np.arange(3)})
    cases = [
        ((model, tmp_path / "none.root", out), 1, "none.root"),
        ((model, truncated, out), 1, "truncated.root"),
        ((model, zmumu, out), 1, "photon"),
        ((model, source, out, "--tree", "maxi"), 1, "mini"),
        ((model, source, out, "--schema", "cms"), 2, "atlas-open-data"),
        ((model, source, out, "--format", "csv"), 2, "csv"),
        ((model, source, tmp_path / "no" / "out.root"), 1, "there is no folder"),
        ((tmp_path / "none.hepgen", source, out), 1, "there is no model file"),
        ((fitted / "study.toml", source, out), 1, "not a hepgen model"),
    ]
    for arguments, expected, words in cases:
        code, _, err = run("apply", *arguments, "--quiet")
        assert (code, words in one_sentence(err)) == (expected, True), err
    out.write_bytes(b"mine")
    code, _, err = run("apply", model, source, out, "--quiet")
    assert code == 1
    assert "exists already" in one_sentence(err)
    assert out.read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"out.root", "truncated.root", "other.root"}


def nan_at(source: Path, out: Path, entry: int) -> None:
    raw = uproot.open(source)["mini"].arrays()
    content = np.array(ak.flatten(raw.photon_eta))
    content[ak.sum(raw.photon_n[:entry])] = np.nan
    photon = {name[7:]: raw[name] for name in raw.fields if name.startswith("photon_") and name != "photon_n"}
    photon["eta"] = ak.unflatten(content, raw.photon_n)
    others = {name: raw[name] for name in raw.fields if not name.startswith("photon_")}
    with uproot.recreate(out) as file:
        whole = {**others, "photon": ak.zip(photon)}
        file.mktree("mini", {name: array.type for name, array in whole.items()}, counter_name=lambda name: f"{name}_n")
        file["mini"].extend(whole)


def test_a_nan_is_named_with_its_entry_and_leaves_no_output(fitted: Path, run: Run, tmp_path: Path) -> None:
    nan_at(samples.packaged("diphoton")["sim_independent"], tmp_path / "nan.root", 1234)
    code, _, err = run(
        "apply", fitted / "photons" / "model.hepgen", tmp_path / "nan.root", tmp_path / "out.root", "--chunk-size", 500, "--quiet"
    )
    assert code == 1
    assert "photon[0].eta" in one_sentence(err)
    assert "1234" in err
    assert [path.name for path in tmp_path.iterdir()] == ["nan.root"]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"photon[0].eta": "photon[0].etta"}, 1, "did you mean photon_eta"),
        (
            {'name = "diphoton"': 'cuts = [{expression = "photon[0].pt", minimum = 1e9}]'},
            1,
            "none has the objects and passes the selection",
        ),
        ({'loss = "nll"': 'loss = "l2"'}, 2, "loss 'l2' is not known"),
        ({'name = "diphoton"': 'name = "dijet"'}, 2, "there is no selection 'dijet'"),
    ],
)
def test_bad_studies(fitted: Path, run: Run, tmp_path: Path, change: dict[str, str], code: int, words: str) -> None:
    text = (fitted / "study.toml").read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "study.toml").write_text(text)
    left, _, err = run("fit", tmp_path / "study.toml", "--quiet")
    assert (left, words in one_sentence(err)) == (code, True), err
    assert not list(tmp_path.rglob("*.hepgen"))


def test_an_empty_file_cannot_be_fitted_and_passes_through_apply(fitted: Path, run: Run, tmp_path: Path) -> None:
    source = samples.packaged("diphoton")["sim"]
    from hepgen.events import Writer, chunks

    info = open_info(source)
    with Writer(tmp_path / "empty.root", like=info) as writer:
        writer.extend(next(chunks(source, chunk_size=10)).raw[:0])
    code, said, _ = run("apply", fitted / "photons" / "model.hepgen", tmp_path / "empty.root", tmp_path / "out.root", "--quiet")
    assert code == 0
    assert "0 events" in said
    assert open_info(tmp_path / "out.root").entries == 0
    (tmp_path / "study.toml").write_text((fitted / "study.toml").read_text().replace(str(source), str(tmp_path / "empty.root"), 1))
    code, _, err = run("fit", tmp_path / "study.toml", "--quiet")
    assert code == 1
    assert "of 0 events none" in one_sentence(err)


def test_sample_writes_new_events(run: Run, tmp_path: Path, fitted: Path) -> None:
    model = hepgen.EventGenerator(hepgen.Features(["photon[0].pt", "photon[0].eta"]), "gmm", components=2, schema="atlas-open-data")
    model.fit(read(samples.packaged("diphoton")["sim"], entry_stop=500)).save(tmp_path / "g.hepgen")
    out = tmp_path / "x.root"
    code, said, _ = run("sample", tmp_path / "g.hepgen", "--events", 70, "--out", out, "--seed", 5, "--first", 30, "--chunk-size", 32, "-q")
    assert code == 0
    assert "70 events of seed 5 in " in said
    assert ak.array_equal(read(out).photon.eta, model.sample(100, seed=5)[30:].photon.eta)
    assert np.allclose(ak.flatten(read(out).photon.pt), ak.flatten(model.sample(100, seed=5)[30:].photon.pt), rtol=1e-6)
    assert open_info(out).tree == "mini"
    for arguments, expected, words in (
        ((tmp_path / "g.hepgen", "--events", 10, "--out", out), 1, "x.root exists already"),
        ((tmp_path / "g.hepgen", "--events", 0, "--out", tmp_path / "y.root"), 2, "events must be at least 1, got 0"),
        (
            (fitted / "photons" / "model.hepgen", "--events", 1, "--out", tmp_path / "y.root"),
            2,
            "is a SimToData, which makes no new events",
        ),
        ((tmp_path / "none.hepgen", "--events", 1, "--out", tmp_path / "y.root"), 1, "there is no model file"),
    ):
        code, _, err = run("sample", *arguments, "-q")
        assert (code, words in one_sentence(err)) == (expected, True), err
    assert run("sample", tmp_path / "g.hepgen", "--events", 20, "--out", out, "--format", "rntuple", "--overwrite", "-q")[0] == 0
    assert open_info(out).format == "RNTuple"
    assert {path.name for path in tmp_path.iterdir()} == {"g.hepgen", "x.root"}


COMPARE = """
task = "compare"
output = "generators"
[sample]
files = ["{sim}"]
[features]
paths = ["photon[0].pt", "photon[0].eta", "photon[0].phi"]
[generate]
events = 2000
train = 500
[models.kernels]
model = "kde"
bandwidth = 0.1
[models.smeared]
model = "smearing"
"""


def test_compare_prints_all_generators_side_by_side(run: Run, tmp_path: Path, fitted: Path) -> None:
    (tmp_path / "study.toml").write_text(COMPARE.format(**samples.packaged("diphoton")))
    code, said, _ = run("compare", tmp_path / "study.toml", "--quiet")
    assert code == 0
    assert "fit [s]" in said
    found = json.loads((tmp_path / "generators" / "report" / "comparison.json").read_text())["rows"]
    for label in ("kernels", "smeared"):
        (line,) = (line for line in said.splitlines() if line.strip().startswith(label) and "±" in line)
        assert f"{found[label]['delta']['value']:.4f} ± {found[label]['delta']['error']:.4f}" in line
    assert (tmp_path / "generators" / "models" / "kernels.hepgen").is_file()
    for command, study, words in (
        ("compare", tmp_path / "study.toml", "exists and holds files"),
        ("compare", fitted / "study.toml", "compares no generators: use hepgen fit"),
        ("fit", tmp_path / "study.toml", "use hepgen compare"),
        ("evaluate", tmp_path / "study.toml", "there is no model file"),
    ):
        code, _, err = run(command, study)
        assert (code > 0, words in one_sentence(err)) == (True, True), err


def test_info_names_ops_backends_and_versions(run: Run) -> None:
    code, said, _ = run("info", "--json")
    assert code == 0
    found = json.loads(said)
    assert {"op", "backend", "available", "reason"} == set(found["kernels"][0])
    assert any(row["op"] == "mmd2" and row["backend"] == "cpp" and row["available"] for row in found["kernels"])
    assert found["versions"]["torch"]
    code, said, _ = run("info")
    assert code == 0
    assert found["instruction_set"] in said


def test_usage_errors_exit_with_2(run: Run) -> None:
    assert run("apply")[0] == 2
    assert run("dance")[0] == 2
    assert run("--version")[1].startswith("hepgen 0.")


def test_samples_are_listed(run: Run) -> None:
    assert "diphoton" in run("samples", "list")[1].split()
    code, _, err = run("samples", "make", "toast", "--out", "nowhere")
    assert code == 2
    assert "there is no sample 'toast'" in one_sentence(err)
