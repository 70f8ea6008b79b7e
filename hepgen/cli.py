"""The command line. Every command is a few lines over the package; imports wait until a command needs them."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hepgen import __version__
from hepgen.errors import HepgenError

app = typer.Typer(
    name="hepgen",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=__doc__.splitlines()[0] if __doc__ else None,
)
samples_app = typer.Typer(no_args_is_help=True, help="Samples hepgen can generate.")
app.add_typer(samples_app, name="samples")

Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the random numbers; the model's own by default.")]


def main() -> None:
    """Run the command line: 0 when all went well, 1 for what went wrong in the work, 2 for what was asked wrongly."""
    try:
        app(args=_joined(sys.argv[1:]))
    except HepgenError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        _fail(f"{error.filename or 'the output'} cannot be written: {(error.strerror or '').lower()}", 1)


def _fail(sentence: str, code: int) -> None:
    print(f"hepgen: {sentence}", file=sys.stderr)
    raise SystemExit(code)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"hepgen {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Out = Path("hepgen-demo"),
    epochs: Annotated[int | None, typer.Option(help="Epochs of the MDMM fit; eight times as many of log loss come before it.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run the main job on the packaged files: fit, transform, fill histograms, report."""
    from hepgen.demo import run_demo

    run_demo(out, epochs=epochs, overwrite=overwrite, progress=False if quiet else None)


@app.command()
def fit(
    study: Annotated[Path, typer.Argument(help="The study file.")],
    ranks: Annotated[int, typer.Option(min=1, help="Processes that fit together on this machine, started by torchrun.")] = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fit the model of a study file, evaluate it, and write model, figures and report."""
    from hepgen.fitting import fit_study
    from hepgen.study import Study

    plan = Study.from_file(study)
    if ranks > 1:
        again = [str(study), *["--overwrite"] * overwrite, *["--quiet"] * quiet]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "hepgen"]
        raise typer.Exit(subprocess.run([*command, "fit", *again], check=False).returncode)
    found = fit_study(plan, overwrite=overwrite, progress=False if quiet else None)
    if found is None:  # one of several ranks, and not the first
        return
    _show(found.table())
    print(f"model: {plan.out / 'model.hepgen'}\nreport: {plan.out / 'report' / 'report.html'}")


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="A saved model.")],
    source: Annotated[str, typer.Argument(metavar="IN", help="ROOT or Parquet file to read; with workers of dask a pattern too.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; with workers of dask a folder, of a file for each part.")],
    tree: Annotated[str | None, typer.Option(help="Name of the tree; found by itself by default.")] = None,
    schema: Annotated[str | None, typer.Option(help="Name of the schema; detected by default.")] = None,
    seed: Seed = None,
    file_format: Annotated[str | None, typer.Option("--format", help="ttree, rntuple or parquet; by OUT, or as IN.")] = None,
    chunk_size: Annotated[int, typer.Option(help="Events that are read, transformed and written together.")] = 50_000,
    workers: Annotated[int | None, typer.Option(help="Threads that transform a chunk each; one for each core by default.")] = None,
    invalid: Annotated[str, typer.Option(help="What an event with NaN or inf gets: raise, identity or nan.")] = "raise",
    profile: Annotated[bool, typer.Option("--profile", help="Print where the time went.")] = False,
    executor: Annotated[
        str, typer.Option(help="threads of this process, or workers of dask, which go on where they were stopped.")
    ] = "threads",
    scheduler: Annotated[str | None, typer.Option(help="Address of dask's scheduler; workers on this machine by default.")] = None,
    part_size: Annotated[int, typer.Option(help="Entries of a part, with workers of dask.")] = 1_000_000,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Transform the events of a file, or add their weights; all other branches, their types and the order stay."""
    import time

    from hepgen.applying import apply_file
    from hepgen.errors import UsageError
    from hepgen.estimators import load

    began = time.perf_counter()
    fitted = load(model)
    if executor not in {"threads", "dask"} or (scheduler is not None and executor != "dask"):
        raise UsageError(f"executor {executor!r} is not known, or has no scheduler: choose threads, or dask with one")
    if executor == "dask":
        from hepgen.applying_parts import apply_parts

        parts = apply_parts(
            fitted, source, out, scheduler=scheduler, part_size=part_size, overwrite=overwrite, progress=False if quiet else None,
            tree=tree, schema=schema, seed=seed, invalid=_invalid(invalid), file_format=file_format, chunk_size=chunk_size,
        )  # fmt: skip
        print(f"{out}: {parts.events} events in {parts.parts} parts, {parts.skipped} of them there before")
        return
    done = apply_file(
        fitted, source, out, tree=tree, schema=schema, seed=seed, invalid=_invalid(invalid), file_format=file_format,
        chunk_size=chunk_size, workers=workers, overwrite=overwrite, progress=False if quiet else None,
    )  # fmt: skip
    word = "transformed" if hasattr(fitted, "transform") else "weighted"
    print(f"{out}: {done.events} events, {done.transformed} {word}, {done.untouched} passed through without the objects")
    if profile:
        from hepgen.applying import profile_table

        _show(profile_table(done, time.perf_counter() - began))


@app.command()
def weights(
    model: Annotated[Path, typer.Argument(help="A saved Reweighter.")],
    sources: Annotated[list[str], typer.Argument(metavar="IN...", help="ROOT or Parquet files of one sample, or patterns.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    tree: Annotated[str | None, typer.Option(help="Name of the tree; found by itself by default.")] = None,
    schema: Annotated[str | None, typer.Option(help="Name of the schema; detected by default.")] = None,
    replicas: Annotated[bool, typer.Option("--replicas", help="Write the weights of every member of the ensemble too.")] = False,
    invalid: Annotated[str, typer.Option(help="What an event with NaN or inf gets: raise, or identity (weight 1).")] = "raise",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write the weights of events to a file of their own, by run and event number."""
    from hepgen.applying import weigh_files
    from hepgen.errors import UsageError
    from hepgen.estimators import load
    from hepgen.estimators.weigher import Weigher
    from hepgen.events.weight_files import read_metadata

    fitted = load(model)
    if not isinstance(fitted, Weigher):
        raise UsageError(f"{model} holds a {type(fitted).__name__}, which gives no weights: use hepgen apply")
    options = {"tree": tree, "schema": schema, "replicas": replicas, "invalid": _invalid(invalid), "overwrite": overwrite}
    path = weigh_files(fitted, sources, out, progress=False if quiet else None, **options)
    said = read_metadata(path)
    print(f"{path}: {said['events']} events, weights that sum to {said['sum_of_weights']:.6g}")


def _invalid(given: str) -> Any:
    from hepgen.errors import UsageError

    if given not in ("raise", "identity", "nan"):
        raise UsageError(f"--invalid {given}: choose raise, identity or nan")
    return given


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="A saved EventGenerator.")],
    events: Annotated[int, typer.Option(help="Events to generate.")],
    out: Annotated[Path, typer.Option(help="ROOT or Parquet file to write.")],
    seed: Seed = None,
    first: Annotated[int, typer.Option(help="Number of the first event: jobs that make parts of one sample begin at different ones.")] = 0,
    file_format: Annotated[str | None, typer.Option("--format", help="ttree, rntuple or parquet; by the name of OUT by default.")] = None,
    chunk_size: Annotated[int, typer.Option(help="Events that are drawn and written together.")] = 65_536,
    workers: Annotated[int | None, typer.Option(help="Threads that draw a chunk each; one for each core by default.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Generate new events into a file; an event depends on the seed and its number alone."""
    from hepgen.estimators import load
    from hepgen.sampling import sample_file

    done = sample_file(
        load(model), out, events, seed=seed, first=first, file_format=file_format, chunk_size=chunk_size, workers=workers,
        overwrite=overwrite, progress=False if quiet else None,
    )  # fmt: skip
    print(f"{out}: {done.events} events of seed {done.seed} in {done.seconds:.1f} s ({done.rate:,.0f} events/s)")


@app.command()
def compare(study: Annotated[Path, typer.Argument(help="The study file.")], overwrite: Overwrite = False, quiet: Quiet = False) -> None:
    """Run every generator of a study file on one sample, and print all figures of merit side by side."""
    from hepgen.comparing import compare_study
    from hepgen.study import Study

    plan = Study.from_file(study)
    _show(compare_study(plan, overwrite=overwrite, progress=False if quiet else None).table())
    print(f"models: {plan.out / 'models'}\nreport: {plan.out / 'report' / 'report.html'}")


@app.command()
def evaluate(
    study: Annotated[Path, typer.Argument(help="The study file that was fitted.")],
    model: Annotated[Path | None, typer.Option(help="The model; the study's own by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; the study's own by default.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare data, simulation and transformed simulation: table, metrics.json, figures, report."""
    from hepgen.estimators import load
    from hepgen.fitting import evaluate_study
    from hepgen.study import Study

    plan = Study.from_file(study)
    fitted = load(model if model is not None else plan.out / "model.hepgen")
    _show(evaluate_study(plan, fitted, out=out or plan.out / "report", overwrite=overwrite).table())


@samples_app.command("make")
def samples_make(
    name: Annotated[str, typer.Argument(help="Name of the sample; see `hepgen samples list`.")],
    events: Annotated[int, typer.Option(help="Events to write to each file.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 1,
    out: Out = Path("samples"),
    processes: Annotated[int | None, typer.Option(help="Processes to generate in; all cores by default.")] = None,
    quiet: Quiet = False,
) -> None:
    """Generate a sample with Pythia 8."""
    from hepgen import samples
    from hepgen.progress import progress_bar

    with progress_bar(f"generate {name}", 2 * events, False if quiet else None) as report:
        paths = samples.make(name, events, seed, out, processes=processes, progress=lambda done, _total: report(done, ""))
    for path in paths:
        print(path)


@samples_app.command("list")
def samples_list() -> None:
    """Name the samples there are."""
    from hepgen import samples

    for name in samples.names():
        print(name)


@app.command()
def bench(
    op: Annotated[str | None, typer.Argument(help="The op to measure; all of them by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    sizes: Annotated[list[str] | None, typer.Option(help="Numbers of rows.")] = None,
    backends: Annotated[list[str] | None, typer.Option(help="Backends to measure.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; torch's setting by default.")] = None,
    repeats: Annotated[int, typer.Option(help="Rounds in which everything is timed in turn.")] = 7,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plot: Annotated[bool, typer.Option("--plot", help="Draw the scaling in rows, features and threads too: bench-OP.png.")] = False,
    out: Out = Path(),
) -> None:
    """Measure the kernels on this machine beside the peers that are installed."""
    from hepgen import bench as benchmarks

    ops = (benchmarks.OPS if device == "cpu" else benchmarks.ON_GPU) if op is None else (op,)
    rows_at, on = _numbers(_split(sizes)), _split(backends)
    options: dict[str, Any] = {"sizes": rows_at, "backends": on, "threads": threads, "repeats": repeats, "device": device}
    rows = [row for name in ops for row in benchmarks.run(name, **options)]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _show(benchmarks.table(rows))
    if plot:
        from hepgen import plots
        from hepgen.bench.scaling import scan

        out.mkdir(parents=True, exist_ok=True)
        for name in ops:
            plots.scaling(scan(name, sizes=rows_at, backends=on, threads=threads), out / f"bench-{name}.png")


def _joined(arguments: list[str]) -> list[str]:
    """Take ``--sizes 1000 16000`` for ``--sizes 1000,16000``, and backends alike: an option of click has one value."""
    from hepgen.kernels.dispatch import BACKENDS

    out: list[str] = []
    option = ""
    for argument in arguments:
        more = {"--sizes": argument.isdigit(), "--backends": argument in BACKENDS}.get(option, False)
        if more and out[-1] != option:
            out[-1] += f",{argument}"
        else:
            option = option if more else argument
            out.append(argument)
    return out


def _split(given: list[str] | None) -> list[str] | None:
    return None if given is None else [part for text in given for part in text.replace(",", " ").split()]


def _numbers(given: list[str] | None) -> list[int] | None:
    from hepgen.errors import UsageError

    try:
        return None if given is None else [int(text) for text in given]
    except ValueError:
        raise UsageError(f"--sizes takes whole numbers, got {', '.join(given or ())}") from None


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print which kernels can run here, versions, threads and the instruction set."""
    from hepgen.info import collect, table

    found = collect()
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for part in table(found):
            _show(part)


def _show(renderable: Any) -> None:
    from rich.console import Console

    # A log is no terminal of 80 columns: let tables keep their width there.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(renderable)


if __name__ == "__main__":
    main()
