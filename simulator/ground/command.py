"""The frame of every command: one clear line for a user's mistake, exit code 2, no traceback; progress on stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import click

from .artefacts import UserError
from .version import VERSION

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
FILE = click.Path(path_type=Path)

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


class OneLineErrorsGroup(OneLineErrors, click.Group):
    """The same with subcommands, whose errors it turns into one line."""


def command(name: str, cls: type[OneLineErrors] = OneLineErrors, **more: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a command with --help, --version and one-line errors.

    Args:
        name: What the user types.
        cls: OneLineErrors, or OneLineErrorsGroup for a command with subcommands.
        **more: Passed to click.
    """

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
    """Refuse options that the user gave and that would have no effect.

    Raises:
        UserError: Names the first of them, and `why`.
    """
    for parameter in context.command.params:
        if parameter.name in names and is_given(context, parameter.name):
            raise UserError(f"{parameter.opts[0]}: not used with {why}")


def progress(label: str, length: int) -> AbstractContextManager[Any]:
    """Return a progress bar on stderr with rate and time left; nothing when stderr is not a terminal."""
    began = time.monotonic()

    def rate(_: object) -> str | None:
        return f"{bar.pos / max(time.monotonic() - began, 1e-9):.3g}/s" if bar.pos else None

    bar = click.progressbar(
        length=length,
        label=label,
        file=sys.stderr,
        show_eta=True,
        show_pos=True,
        item_show_func=rate,
        hidden=not sys.stderr.isatty(),
    )
    return bar


def table(rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Lay rows of text out in columns: to the left those that `left` names, the others to the right."""
    rows = [list(map(str, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
