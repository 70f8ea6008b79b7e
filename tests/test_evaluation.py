"""The whole evaluation: numbers against the metrics themselves, the files, the report, and what is refused."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

import hepgen
from hepgen import report
from hepgen.errors import InputError, OutputError, UsageError
from hepgen.evaluation import evaluate
from hepgen.events import Features, Selection
from hepgen.metrics import pearson

NAMES = ["photon[0].pt", "photon[0].eta", "photon[0].phi", "photon[1].pt", "photon[1].eta", "photon[1].phi"]


def diphotons(n, seed, *, like_data):
    """Return (n, 6): falling pt with a threshold, correlated eta without the crack in data, back-to-back phi."""
    rng = np.random.default_rng([seed, int(like_data)])
    tilt, slope, spread = (0.25, 22.0, 0.9) if like_data else (0.5, 30.0, 0.5)
    rows = []
    while sum(map(len, rows)) < n:
        common = rng.exponential(slope * (0.6 if like_data else 0.1), n)
        pt = np.sort(25 + common[:, None] + rng.exponential(slope, (n, 2)), axis=1)[:, ::-1]
        eta = rng.multivariate_normal([0, 0], [[1, tilt], [tilt, 1]], n) * 1.1
        phi = rng.uniform(-np.pi, np.pi, n)
        back = (phi + np.pi + rng.standard_t(3, n) * spread * 0.3 + np.pi) % (2 * np.pi) - np.pi
        x = np.column_stack([pt[:, 0], eta[:, 0], phi, pt[:, 1], eta[:, 1], back])
        mass = np.sqrt(2 * x[:, 0] * x[:, 3] * (np.cosh(x[:, 1] - x[:, 4]) - np.cos(x[:, 2] - x[:, 5])))
        forward = np.abs(x[:, [1, 4]])
        keep = (x[:, 0] > 35) & (x[:, 0] < 250) & (mass > 60) & (mass < 300) & (forward < 2.37).all(axis=1)
        if like_data:
            keep &= ((forward < 1.37) | (forward > 1.52)).all(axis=1)
        rows.append(x[keep])
    return np.concatenate(rows)[:n]


FEATURES = Features(NAMES)
HISTORY = {
    "epoch": [1, 2],
    "train": [2.0, 1.0],
    "valid": [2.1, 1.2],
    "lambda": [0.0, 0.1, 0.2],
    "l1": [3.0, 2.0, 1.0],
    "l2": [1.0, 0.5, 0.2],
}


@pytest.fixture(scope="module")
def samples():
    data, sim = diphotons(6000, 1, like_data=True), diphotons(5000, 2, like_data=False)
    transformed = diphotons(5000, 3, like_data=True)
    return sim, data, transformed, np.random.default_rng(4).choice([1.0, -0.5], 5000, p=[0.9, 0.1])


@pytest.fixture(scope="module")
def written(samples, tmp_path_factory):
    pytest.importorskip("matplotlib")
    pytest.importorskip("mplhep")
    sim, data, transformed, w = samples
    out = tmp_path_factory.mktemp("evaluation") / "deep" / "report"
    found = evaluate(
        FEATURES,
        sim,
        data,
        transformed,
        sim_weights=w,
        selection=Selection.named("diphoton"),
        history=HISTORY,
        out=out,
        title="Photons <1>",
    )
    return found, out


class Page(HTMLParser):
    """Collects what a browser would fetch, the pictures and the text."""

    def __init__(self, page):
        super().__init__()
        self.links, self.pictures, self.text, self.tags = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "action", "background"}:
                (self.pictures if value.startswith("data:image/png;base64,") else self.links).append(value)

    def handle_data(self, data):
        self.text.append(data)


def test_metrics_file_holds_the_numbers(written, samples):
    found, out = written
    sim, data, transformed, w = samples
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers == found.metrics
    assert list(numbers) == [
        "schema", "hepgen", "title", "seed", "features", "derived", "samples", "correlations", "chi2", "auc", "outside_selection",
    ]  # fmt: skip
    assert (numbers["schema"], numbers["hepgen"], numbers["seed"], numbers["derived"]) == (1, hepgen.__version__, 1, ["m_yy"])
    assert numbers["samples"]["simulation"]["sum_of_weights"] == pytest.approx(w.sum())
    assert numbers["samples"]["transformed"]["effective_events"] == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert numbers["samples"]["data"]["weighted"] is False
    table = numbers["correlations"]["table"]
    pair = "photon[0].pt, photon[1].pt"
    assert next(iter(table["data"])) == pair
    assert table["data"][pair]["value"] == pytest.approx(np.corrcoef(data[:, 0], data[:, 3])[0, 1], abs=1e-12)
    assert table["transformed"][pair]["value"] == pytest.approx(pearson(transformed, w)[0, 3], abs=1e-12)
    difference = numbers["correlations"]["difference_to_data"]["simulation"][pair]
    assert difference["value"] == pytest.approx(pearson(sim, w)[0, 3] - np.corrcoef(data[:, 0], data[:, 3])[0, 1], abs=1e-12)
    assert np.shape(numbers["correlations"]["matrix"]["data"]) == (7, 7)
    assert list(numbers["chi2"]) == [*NAMES, "m_yy", "m_yy in 100-160"]
    assert set(numbers["chi2"]["m_yy"]["simulation"]) == {"chi2", "ndf", "per_ndf", "p_value"}


def test_good_simulation_is_told_from_bad(written):
    numbers = written[0].metrics
    assert abs(numbers["auc"]["transformed"]["value"] - 0.5) < 4 * numbers["auc"]["transformed"]["error"]
    assert abs(numbers["auc"]["floor"]["value"] - 0.5) < 4 * numbers["auc"]["floor"]["error"]
    assert numbers["auc"]["simulation"]["value"] > 0.6
    # same distribution: every chi2 within what its degrees of freedom allow
    assert all(entry["transformed"]["p_value"] > 1e-4 for entry in numbers["chi2"].values())
    assert numbers["chi2"]["photon[1].pt"]["simulation"]["per_ndf"] > 5
    largest = numbers["correlations"]["largest_difference"]
    assert largest["transformed"] < 0.05 < largest["simulation"]
    outside = numbers["outside_selection"]
    assert (outside["data"]["fraction"], outside["transformed"]["events"]) == (0, 0)
    assert outside["simulation"]["cuts"]["abs(photon[0].eta) in [0, 1.37] or [1.52, 2.37]"]["fraction"] > 0.02


def test_folder_holds_what_is_promised(written):
    out = written[1]
    names = {"metrics.json", "report.html", "marginals.png", "mass.png", "correlations.png", "roc.png", "history.png"}
    assert {path.name for path in out.iterdir()} == names
    assert [path.name for path in out.parent.iterdir()] == ["report"]


def test_report_shows_everything_and_fetches_nothing(written):
    import base64

    found, out = written
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.links == []
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", text)
    assert "default-src 'none'" in text
    pictures = {base64.b64decode(source.split(",", 1)[1]) for source in page.pictures}
    assert pictures == {path.read_bytes() for path in out.glob("*.png")}
    shown = " ".join(page.text)
    assert "Photons <1>" in shown
    for row in found.rows():
        if not row[0].startswith("chi2"):
            assert all(cell in shown for cell in row)
    entry = found.metrics["chi2"]["m_yy"]["transformed"]
    assert f"{entry['chi2']:.1f} / {entry['ndf']}" in shown


def test_table_prints_on_a_console(written):
    console = Console(width=160, force_terminal=False)
    with console.capture() as captured:
        console.print(written[0].table())
    text = captured.get()
    assert "corr photon[0].pt, photon[1].pt" in text
    assert f"{written[0].metrics['auc']['transformed']['value']:.4f}" in text
    assert "Photons <1>" in text


def test_existing_files_are_kept_unless_told_otherwise(written, samples, tmp_path):
    found = written[0]
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "history.png").write_text("of an earlier evaluation")
    sim, data, transformed, _ = samples
    with pytest.raises(OutputError, match="exists and holds files"):
        evaluate(FEATURES, sim, data, transformed, out=tmp_path)
    with pytest.raises(OutputError, match=r"notes\.txt is a file"):
        found.write(tmp_path / "notes.txt")
    few = 90  # of which less than 50 lie in 100-160 GeV
    without = evaluate(NAMES, sim[:few], data[:few], transformed[:few], history={"epoch": []}, out=tmp_path, overwrite=True)
    assert without.metrics["outside_selection"] is None
    assert "m_yy" in without.metrics["chi2"]
    assert "m_yy in 100-160" not in without.metrics["chi2"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "history.png").exists()
    assert (tmp_path / "report.html").exists()


def test_nothing_is_left_when_writing_fails(written, tmp_path, monkeypatch):
    found = written[0]
    monkeypatch.setattr(type(found), "pictures", lambda self: {"roc": (written[1] / "roc.png").read_bytes()})
    assert [path.name for path in found.write(tmp_path / "good")] == ["roc.png", "report.html", "metrics.json"]
    monkeypatch.setattr(type(found), "html", lambda self, pictures: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found.write(tmp_path / "new")
    monkeypatch.setattr(type(found), "html", lambda self, pictures: "page")
    monkeypatch.setattr("hepgen.evaluation.json.dumps", lambda *arguments, **options: "\udcff")
    with pytest.raises(UnicodeEncodeError):
        found.write(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    monkeypatch.setattr("hepgen.evaluation.json.dumps", lambda *arguments, **options: "{}")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write into the folder"):
        found.write(tmp_path / "file" / "below")


def test_columns_without_a_pair_are_evaluated_too():
    rng = np.random.default_rng(5)
    sim, data = rng.normal(1, 1, size=(400, 2)), rng.normal(size=(400, 2))
    found = evaluate(["x", "y"], sim, data, sim - 1)
    assert found.metrics["derived"] == []
    assert list(found.metrics["correlations"]["table"]["data"]) == ["x, y", "others"]
    assert found.rows()[0][0] == "corr x, y"
    assert not any("others" in row[0] for row in found.rows())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sim": np.ones((0, 6))}, InputError, "the simulation sample has no events"),
        ({"data": np.ones((100, 5))}, InputError, "the data sample has 5 columns, but 6 names"),
        ({"transformed": np.full((100, 6), np.nan)}, InputError, r"column photon\[0\].pt of the transformed sample has 100 NaN"),
        ({"sim_weights": np.ones(3)}, InputError, r"the weights of the simulation sample have shape \(3,\)"),
        ({"data_weights": np.resize([1.0, -1.0], 100)}, InputError, "the weights of the data sample sum to zero"),
        ({"sim_weights": np.ones(100), "transformed": np.ones((50, 6))}, InputError, "give transformed_weights"),
        ({"features": NAMES, "selection": Selection.named("diphoton")}, UsageError, "a selection needs hepgen.Features"),
    ],
)
def test_unusable_input_is_named(change, error, message):
    x = diphotons(100, 6, like_data=True)
    arguments = {"features": FEATURES, "sim": x, "data": x, "transformed": x} | change
    with pytest.raises(error, match=message):
        evaluate(**arguments)


def test_report_escapes_and_checks_its_parts(tmp_path):
    page = report.render("a & b", [report.Section("<s>", [report.Text("x < y"), report.Table(("h",), [("<b>",)], strong=[0])])], footer="f")
    assert "<h1>a &amp; b</h1>" in page
    assert "<h2>&lt;s&gt;</h2>" in page
    assert '<tr class="strong"><td>&lt;b&gt;</td></tr>' in page
    with pytest.raises(UsageError, match="has 1 cells, its head has 2"):
        report.Table(("a", "b"), [("c",)])
    with pytest.raises(UsageError, match="is not a PNG"):
        report.Picture(b"GIF89a", "no")
    path = report.write(tmp_path / "r.html", page)
    assert path.read_text() == page
    with pytest.raises(OutputError, match="exists already"):
        report.write(path, page)
    report.write(path, "new", overwrite=True)
    assert path.read_text() == "new"
    with pytest.raises(OutputError, match="cannot write the report"):
        report.write(tmp_path / "none" / "r.html", page)
