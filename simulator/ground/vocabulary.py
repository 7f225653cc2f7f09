"""One name for each thing on the command line, what else it is called, and numbers as people type them.

Every command of ours reads its words through here (see `command.OneLineErrors`): synonyms are not declared again where
an option is.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from .artefacts import UserError
from .names import nearest, number_format, one_of
from .ranges import allowed_numbers, in_milliseconds, not_a_number, number_in

# Of a batch that they make a load of: who sends it.
CLIENTS = ("--concurrency", "--max-concurrency", "--clients")
# Options that mean the same; a command has one of them under its own name and takes the others.
SYNONYMS = (
    ("--draftN", "--draft-n", "--k", "--num-speculative-tokens"),
    ("--replications", "--runs", "--repeats"),
    ("--batch", "--batch-size", *CLIENTS),
    ("--rate", "--request-rate"),
    ("--prompts", "--dataset"),
    ("--format", "--dataset-format"),
    ("--column", "--text-column"),
    ("--reference-column", "--reference-text-column"),
    ("--trace-out", "--events"),
    ("--out-dir", "--out"),
    ("--target-model", "--target"),
    ("--draft-model", "--draft"),
    ("--tp", "--tensor-parallel-size"),
    ("--dp", "--data-parallel-size", "--dp-size"),
    ("--total", "--output-len"),
    ("--isl", "--input-len", "--random-input-len"),
    ("--osl", "--random-output-len"),
    ("--chunk", "--max-num-batched-tokens", "--chunked-prefill-size"),
    ("--max-running", "--max-num-seqs", "--max-running-requests"),
    ("--requests", "--num-prompts"),
    ("--workload", "--traffic"),
    ("--gpu-memory-utilization", "--mem-fraction-static"),
)
# Options that other programs have: which ones of ours are meant, where a command has one of them.
INSTEAD = {
    **dict.fromkeys(("--device", "--gpu", "--hardware", "--gpu-type"), ("--profile",)),
    **dict.fromkeys(("--model", "--model-path"), ("--target-model", "--draft-model")),
    **dict.fromkeys(("--speculative-model", "--draft-model-path"), ("--draft-model",)),
    **dict.fromkeys(("--acceptance", "--acceptance-rate", "--pair"), ("--acceptance", "--alpha", "--hist")),
}
# Of an option that a command does not have: what is meant instead.
EXPERTS = "experts lie on all devices that --tp and --dp name, whole or in parts, which is the same work"
MEANS = {
    **dict.fromkeys(("--ep", "--ep-size", "--expert-parallel-size", "--enable-expert-parallel"), EXPERTS),
    "--profile": "the device that a forecast is for; a Chrome trace is --trace-out",
    "--out-dir": "a folder; here --out names a file",
}


def flags_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by each of their own names."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    return {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}


def own_name(flag: str, own: dict[str, click.Option]) -> str | None:
    """Return what a command calls an option, by any of its names; None where it has none, or several of them apart."""
    if flag in own:
        return flag
    for group in SYNONYMS:
        meant = {own[name].name: name for name in reversed(group) if name in own}
        if flag in group and len(meant) == 1:
            return next(iter(meant.values()))
    return None


def in_own_words(command: click.Command, args: Sequence[str], *, interspersed: bool) -> list[str]:
    """Return a command's arguments with options by its own names.

    Args:
        command: Whose they are.
        args: As typed.
        interspersed: Whether options may follow arguments.

    Raises:
        click.NoSuchOption: It is none of the command's; says what is near, and which commands have it.
        UserError: `--out-dir` where no file has a name of its own; or one option with values apart.
    """
    own, typed = flags_of(command), list(args)
    words: list[str] = []
    said: dict[str, tuple[str, str]] = {}
    while typed:
        word = typed.pop(0)
        flag, has_value, value = word.partition("=")
        if word == "--" or not (interspersed or word.startswith("-")):
            return [*words, word, *typed]
        if not flag.startswith("--"):
            if word not in own and word[1:].isalpha() and own_name(f"-{word}", own):
                raise click.NoSuchOption(word, f"{word}: no such option of {command.name}, expected -{word}")
            words.append(word)
            # Of a short option, its value.
            if word in own and not own[word].is_flag and typed:
                words.append(typed.pop(0))
            continue
        name = own_name(flag, own)
        if name is None and flag not in ("--help", "--version"):
            raise click.NoSuchOption(flag, unknown(command, flag, own))
        option = own.get(name or flag)
        if option is not None and not option.is_flag and not option.count and not has_value and typed:
            has_value, value = "=", typed.pop(0)
        if flag == "--out-dir" and name == "--out" and option is not None:
            value = file_in(value, option)
        if option is not None and not option.multiple:
            check_said_once(said.setdefault(str(option.name), (flag, value)), (flag, value))
        words.append(f"{name or flag}={value}" if has_value else name or flag)
    return words


def as_typed(text: str, command: click.Command, args: Sequence[str]) -> str:
    """Return what is wrong with an option under the name that the user has for it."""
    name, own = re.split(r"[: ]", text, maxsplit=1)[0], flags_of(command)
    typed = flags_in(args)
    if name not in own or name in typed:
        return text
    return next((flag for flag in typed if own_name(flag, own) == name), name) + text[len(name) :]


def flags_in(args: Sequence[str]) -> list[str]:
    """Return the options that were typed, as they were."""
    return [flag for flag in (word.partition("=")[0] for word in args) if flag.startswith("--")]


def check_said_once(before: tuple[str, str], now: tuple[str, str]) -> None:
    """Refuse an option that is given two values, by whatever names of it."""
    (first, meant), (flag, value) = before, now
    if meant != value or (not value and first != flag):
        same = ", which means the same" if value and first != flag else ""
        raise UserError(f"{f'{flag}: {value}'.strip()} beside {f'{first} {meant}'.strip()}{same}, expected one of them")


def file_in(folder: str, option: click.Option) -> str:
    """Return the file that --out names by default, in a folder."""
    if not isinstance(option.default, Path):
        raise UserError(f"--out-dir {folder}: is a folder, and this command names no file in it; expected --out FILE")
    return str(Path(folder) / option.default.name)


def unknown(command: click.Command, flag: str, own: dict[str, click.Option]) -> str:
    """Say that a command has no such option, what is near, and where it is."""
    words = [f"{flag}: no such option of {command.name}"]
    meant = [name for name in INSTEAD.get(flag, ()) if name in own]
    if meant:
        return f"{words[0]}, expected {' or '.join(meant)}"
    # First what is most like this command.
    others = {name: flags_of(other) for name, other in commands()}
    elsewhere = [name for name, theirs in others.items() if own_name(flag, theirs)]
    elsewhere.sort(key=lambda name: (-len(others[name].keys() & own.keys()), name))
    words += [MEANS[flag]] if flag in MEANS else []
    if elsewhere:
        return "; ".join([*words, f"{', '.join(elsewhere[:3])} {'has' if len(elsewhere) == 1 else 'have'} it"])
    near = [name for name in nearest(flag, own) if name[:4] == flag[:4]]
    return "; ".join([*words, f"nearest: {', '.join(near or nearest(flag, own))}"])


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is installed and every command of those, by what a user types."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        scripts = distribution("specsim").entry_points.select(group="console_scripts")
    except PackageNotFoundError:
        return
    for script in scripts:
        loaded = script.load()
        if script.name != "specsim":
            yield script.name, loaded
            for name, inner in getattr(loaded, "commands", {}).items():
                yield f"{script.name} {name}", inner


class Spoken(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Numbers as people type them, refused in one voice: the value, and what is allowed."""

    whole = False
    # Up to this a number may be a share, in percent.
    most_share = 10.0

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one number."""
        least, most = getattr(self, "min", None), getattr(self, "max", None)
        above = bool(getattr(self, "min_open", False))
        is_share = not self.whole and most is not None and most <= self.most_share
        number = number_in(str(value), percent=is_share)
        is_whole = number is not None and number.is_finite() and number == number.to_integral_value()
        good = is_whole if self.whole else number is not None and not number.is_nan()
        if number is None or not good or not in_range(float(number), least, most, above):
            allowed = allowed_numbers(least, most, whole=self.whole, above=above)
            self.fail(not_a_number(str(value), allowed, 2 if most is None else most), param, ctx)
        return int(number) if self.whole else float(number)


def in_range(number: float, least: float | None, most: float | None, above: bool) -> bool:
    """Whether a number lies within its bounds."""
    low = least is None or (number > least if above else number >= least)
    return low and (most is None or number <= most)


class Whole(Spoken, click.types.IntParamType):
    """A whole number."""

    whole = True


class WholeRange(Spoken, click.IntRange):
    """A whole number within bounds."""

    whole = True


class Real(Spoken, click.types.FloatParamType):
    """A number."""


class RealRange(Spoken, click.FloatRange):
    """A number within bounds."""


class Milliseconds(RealRange):
    """A time in milliseconds, or with its unit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one time."""
        return super().convert(in_milliseconds(str(value)), param, ctx)


class Seconds(Real):
    """A time in seconds, or with its unit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one time."""
        text, read = str(value), in_milliseconds(str(value))
        return super().convert(text if read == text else str(float(read) / 1000), param, ctx)


class Choice(click.Choice):  # type: ignore[type-arg]  # generic only in the newest click
    """One of some words, in any case; number formats by whatever name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word that is meant."""
        words = [str(choice) for choice in self.choices]
        meant = next((t for t in (str(value), str(value).lower(), number_format(str(value))) if t in words), None)
        if meant is None:
            self.fail(f"{value!r} is not allowed, expected {one_of(words, str(value))}", param, ctx)
        return meant


SPOKEN: dict[type, Any] = {
    click.types.IntParamType: Whole,
    click.IntRange: WholeRange,
    click.types.FloatParamType: Real,
    click.FloatRange: RealRange,
    click.Choice: Choice,
}


def speak(parameters: Sequence[click.Parameter]) -> None:
    """Have the numbers and choices of parameters read as above."""
    for parameter in parameters:
        spoken = SPOKEN.get(type(parameter.type))
        if spoken is not None:
            known = vars(parameter.type)
            parameter.type = spoken.__new__(spoken)
            vars(parameter.type).update(known)


def message_of(error: click.ClickException) -> str:
    """Return what is wrong with a command line: the option first."""
    text = error.format_message().rstrip(".")
    if found := re.fullmatch(r"Got unexpected extra arguments? \((.*)\)", text):
        return f"{found[1]}: not expected here; a value with spaces needs quotes, a list commas"
    if text == "Missing command" and isinstance(error, click.UsageError) and error.ctx:
        inner = getattr(error.ctx.command, "commands", {})
        return f"no command, expected one of {', '.join(inner)}"
    if isinstance(error, click.NoSuchOption):
        return text if text.startswith(error.option_name) else f"{error.option_name}: no such option"
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name}: {text.removeprefix(f'Option {error.option_name!r} ')}"
    parameter = getattr(error, "param", None)
    if parameter is None or not isinstance(error, click.BadParameter):
        return text
    is_option = isinstance(parameter, click.Option)
    name = parameter.opts[0] if is_option else parameter.human_readable_name
    if isinstance(error, click.MissingParameter):
        return f"{name}: is missing" + (f", expected {parameter.make_metavar(error.ctx)}" if is_option else "")
    return f"{name}: {error.message.rstrip('.')}"
