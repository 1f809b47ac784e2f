"""`visavis models`: what is in the store, and fetching what is not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from visavis.models import PROFILES, Model, ModelError, find_model, load_manifest, models_dir

# How often a pull that does not write to a terminal says how far it is.
PLAIN_LINE_S = 5.0
TABLE_WIDTH = 120


@click.group()
def models() -> None:
    """The model files on this machine."""


@models.command("list")
def list_models() -> None:
    """Show every model, its licence, and whether it is here."""
    everything = load_manifest()
    table = Table(title=f"Models in {models_dir()}", title_justify="left", show_footer=True)
    present = _megabytes([model for model in everything if model.is_present()])
    table.add_column("model", footer="total", no_wrap=True)
    table.add_column("purpose", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("MB", footer=_megabytes(everything), justify="right", no_wrap=True)
    for profile in PROFILES:
        size = _megabytes([model for model in everything if profile in model.profiles])
        table.add_column(profile, footer=size, justify="right", no_wrap=True)
    table.add_column("here", footer=present, justify="right", no_wrap=True)
    for model in everything:
        marks = ["x" if profile in model.profiles else "" for profile in PROFILES]
        here = "yes" if model.is_present() else "no"
        table.add_row(model.name, model.purpose, model.licence, _megabytes([model]), *marks, here)
    console = Console()
    if not console.is_terminal:  # a pipe has no width to fit into
        console.width = TABLE_WIDTH
    console.print(table)
    for model in everything:
        if model.note:
            click.echo(f"{model.name}: {model.note}")


@models.command("pull")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default=PROFILES[0],
    envvar="VISAVIS_PROFILE",
    show_default=True,
    help="small: about 360 MB; standard: about 1.7 GB, better answers and voices.",
)
@click.option("--only", metavar="NAME", multiple=True, help="Only this model; may be repeated.")
def pull_models(profile: str, only: tuple[str, ...]) -> None:
    """Fetch the models of a profile that are not here yet.

    May be interrupted: the next pull goes on from there.
    """
    from visavis.store.pull import pull

    console = Console()
    started = time.monotonic()
    try:
        wanted = (
            [find_model(name) for name in only]
            if only
            else [model for model in load_manifest() if profile in model.profiles]
        )
        if all(model.is_present() for model in wanted):
            click.echo(f"Nothing to do: {_megabytes(wanted)} MB are in {models_dir()}.")
            return
        with _report(console) as report:
            pull(wanted, report)
    except ModelError as error:
        raise click.ClickException(str(error)) from error
    took_s = time.monotonic() - started
    click.echo(f"Ready: {_megabytes(wanted)} MB are in {models_dir()} ({took_s:.0f} s).")


def _megabytes(chosen: Sequence[Model]) -> str:
    return f"{sum(model.size for model in chosen) / 1e6:.1f}"


class _Lines:
    """Progress where bars make no sense: a log, a container build."""

    def __init__(self) -> None:
        self._next = 0.0
        self._finished: set[str] = set()

    def waiting(self) -> None:
        click.echo("Another pull is running; waiting for it.")

    def progress(self, model: str, done: float, total: int) -> None:
        is_finished = done >= total
        if is_finished == (model in self._finished) and time.monotonic() < self._next:
            return
        if is_finished and model in self._finished:
            return
        if is_finished:
            self._finished.add(model)
        self._next = time.monotonic() + PLAIN_LINE_S
        click.echo(f"{model}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")


class _Bars:
    """A bar per model."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def waiting(self) -> None:
        self._progress.console.print("Another pull is running; waiting for it.")

    def progress(self, model: str, done: float, total: int) -> None:
        if model not in self._tasks:
            self._tasks[model] = self._progress.add_task(model, total=total)
        self._progress.update(self._tasks[model], completed=int(done))


@contextlib.contextmanager
def _report(console: Console) -> Iterator[_Lines | _Bars]:
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)
