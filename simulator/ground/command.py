"""The frame of every command: one clear line for a user's mistake, exit code 2, no traceback; progress on stderr."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, NoReturn

import click

from .artefacts import UserError
from .version import VERSION

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class FileOrFolder(click.Path):
    """The name of a file or folder; an empty one, which would mean the current folder, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty, expected a file", param, ctx)
        return super().convert(value, param, ctx)


FILE = FileOrFolder(path_type=Path)

# Columns that a line takes at most; of what is drawn to be measured.
WIDTH, WIDEST = 100, 10_000
SECONDS_A_FRAME = 0.1

Decorator = Callable[[Any], Any]


def fail(name: str | None, message: str) -> NoReturn:
    """Print one line to stderr and leave with the exit code of user errors."""
    click.echo(f"{name}: {' '.join(message.split())}", err=True)
    sys.exit(EXIT_USER_ERROR)


class OneLineErrors(click.Command):
    """A command whose user errors are one line on stderr and exit code 2."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run as a program; never returns."""
        name = prog_name or self.name
        try:
            code = super().main(args, name, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            fail(name, error.format_message())
        except UserError as error:
            fail(name, str(error))
        except (OSError, UnicodeError, MemoryError) as error:
            # What no check could foresee: a full disk, a folder that may not be entered, a name that is no text.
            fail(name, f"{type(error).__name__}: {error}".encode(errors="replace").decode())
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{name}: interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that begins with the name of a file begins with the option it was given by."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            for parameter in self.params:
                path = ctx.params.get(parameter.name or "")
                if isinstance(path, Path) and str(error).startswith(f"{path}: "):
                    option = isinstance(parameter, click.Option)
                    name = parameter.opts[0] if option else parameter.human_readable_name
                    raise UserError(f"{name} {error}") from None
            raise


class OneLineErrorsGroup(OneLineErrors, click.Group):
    """The same with subcommands, whose errors it turns into one line."""


def command(name: str, cls: type[OneLineErrors] = OneLineErrors, **more: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a command with --help, --version and one-line errors; what is `more` goes to click."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        versioned = click.version_option(VERSION, prog_name=name)(function)
        settings = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
        return click.command(name, cls=cls, context_settings=settings, **more)(versioned)

    return decorate


def stacked(*options: Decorator) -> Decorator:
    """Stack option decorators in the order in which --help shows them."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def is_given(context: click.Context, name: str) -> bool:
    """Say whether the user set this option, rather than its default."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def refuse_given(context: click.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that the user gave and that would have no effect; names the first, and `why`."""
    for parameter in context.command.params:
        if parameter.name in names and is_given(context, parameter.name):
            raise UserError(f"{parameter.opts[0]}: not used with {why}")


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar; `update` takes how many steps were done since the last time."""

    update: Callable[[int], None]


@contextmanager
def progress(label: str, length: int) -> Iterator[Bar]:
    """Yield a progress bar on stderr with rate and time left; it shows nothing when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield Bar(lambda _: None)
        return
    from rich import progress as rich
    from rich.console import Console

    class Rate(rich.ProgressColumn):
        def render(self, task: rich.Task) -> str:
            return f"{task.speed:.3g}/s" if task.speed else ""

    columns = (rich.TextColumn(label), rich.BarColumn(), rich.MofNCompleteColumn(), Rate(), rich.TimeRemainingColumn())
    # No thread draws: what is timed meanwhile is left alone.
    with rich.Progress(*columns, console=Console(stderr=True), auto_refresh=False) as shown:
        task, drawn_s = shown.add_task(label, total=length), 0.0

        def update(steps: int) -> None:
            nonlocal drawn_s
            shown.advance(task, steps)
            if time.monotonic() - drawn_s > SECONDS_A_FRAME or shown.finished:
                shown.refresh()
                drawn_s = time.monotonic()

        yield Bar(update)


def wrapped(lines: Iterable[str]) -> str:
    """Return lines, those that are too long for a terminal in several."""
    broken = (textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False) or [""] for line in lines)
    return "\n".join(part for parts in broken for part in parts)


def table(rows: Iterable[Sequence[str]], left: Sequence[int] = (0,), *, headed: bool = True) -> str:
    """Lay rows of text out in columns: to the left those that `left` names, the others to the right.

    On a terminal that is wide enough the first row, where it is a heading, is ruled off and coloured.
    """
    rows = [list(map(str, row)) for row in rows]
    drawn = ruled(rows, left, headed=headed) if sys.stdout.isatty() else None
    if drawn is not None:
        return drawn
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def ruled(rows: Sequence[Sequence[str]], left: Sequence[int], *, headed: bool) -> str | None:
    """Return a table for a terminal; None where it is too wide for it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, show_header=headed, header_style="bold cyan", pad_edge=False, show_edge=False)
    for i in range(max(map(len, rows))):
        heading = rows[0][i] if headed and i < len(rows[0]) else ""
        drawn.add_column(Text(heading), justify="left" if i in left else "right", no_wrap=True)
    for row in rows[1:] if headed else rows:
        drawn.add_row(*map(Text, row))
    console = Console(file=StringIO(), force_terminal=True, width=WIDEST)
    if console.measure(drawn).maximum > get_terminal_size().columns:
        return None
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip("\n")
