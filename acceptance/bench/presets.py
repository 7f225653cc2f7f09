"""Presets of models, methods and their pairings in one TOML file.

    [models.NAME]       target, draft, medusa, eagle, judge, and how they are loaded
    [methods.NAME]      method, and its knobs
    [experiments.NAME]  models, methods, and every other option of a run

Keys are the command's options with underscores; values are checked as the command checks them. The file may say
`version = 1` above its tables.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from acceptance.results.settings import ALGORITHMS, KNOBS, Arm, check_knob, option_of
from simulator.ground.artefacts import UserError
from simulator.ground.fields import read_toml
from simulator.ground.names import one_of

from .options import DecodeOptions

BUNDLED_PRESETS = Path(__file__).parent / "presets.toml"
TABLES = ("models", "methods", "experiments")
VERSION = 1
PLAIN_WORD = re.compile(r"[A-Za-z0-9._-]+")
MODEL_KEYS = (
    *("target", "draft", "medusa", "eagle", "judge", "dtype", "quantization"),
    *("placement", "target_device", "draft_device", "inflate_target"),
)
# Options whose names and fields differ.
FIELDS = {"prompts": "dataset", "format": "dataset_format"}
# What belongs to a call of the command, not to an experiment.
NOT_PRESET = (
    *("method", "config", "experiment", "out", "dry_run", "plot", "profile", "as_json", "force"),
    *("help", "version"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presets:
    """A file of presets; every value has been checked.

    models, experiments: options by name. methods: arms by name.
    """

    path: Path
    models: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Arm]
    experiments: Mapping[str, Mapping[str, Any]]

    def values_of(self, experiment: str) -> dict[str, Any]:
        """Return the options that an experiment sets, those of its models among them."""
        if experiment not in self.experiments:
            there = ", ".join(self.experiments) or "none there"
            raise UserError(f"--experiment: {experiment!r} is not in {self.path}, expected {there}")
        values = dict(self.experiments[experiment])
        names = {"methods": "method"}
        models = self.models.get(values.pop("models", ""), {})
        return {**models, **{names.get(key, key): value for key, value in values.items()}}


def load_presets(path: Path, parameters: Mapping[str, click.Parameter]) -> Presets:
    """Read presets and check every value.

    Raises:
        UserError: Names the file, the key, the value and what is allowed.
    """
    document = read_toml(path).object()
    version = document.pop("version", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version != VERSION:
        raise UserError(f"{path}: version is {version!r}, expected {VERSION}")
    for name, table in document.items():
        if name not in TABLES:
            raise UserError(f"{path}: {name!r} is not known, expected {', '.join(TABLES)}")
        if not isinstance(table, dict) or not all(isinstance(t, dict) for t in table.values()):
            raise UserError(f"{path}: {name} holds no tables, expected [{name}.NAME]")
        check_names(f"{path}: {name}", table)
    sections = {name: document.get(name, {}) for name in TABLES}
    models = {
        name: checked(f"{path}: models.{name}", table, MODEL_KEYS, parameters)
        for name, table in sections["models"].items()
    }
    methods = {name: arm_of(f"{path}: methods.{name}", name, table) for name, table in sections["methods"].items()}
    allowed = tuple(name for name in parameters if name not in NOT_PRESET)
    for name, table in models.items():
        check_together(f"{path}: models.{name}", table, methods={})
    experiments = {}
    for name, table in sections["experiments"].items():
        at = f"{path}: experiments.{name}"
        rest = {FIELDS.get(key, key): value for key, value in table.items() if key not in ("models", "methods")}
        pairing = pairing_of(at, table, models)
        experiments[name] = pairing | checked(at, rest, allowed, parameters)
    presets = Presets(path=path, models=models, methods=methods, experiments=experiments)
    for name in experiments:
        check_together(f"{path}: experiments.{name}", presets.values_of(name), methods)
    return presets


def check_names(at: str, names: Iterable[str]) -> None:
    """Refuse names that the command line, a file's keys or a table could not show."""
    for name in names:
        if not PLAIN_WORD.fullmatch(name):
            raise UserError(f"{at}: the name {name!r} is not allowed, expected a plain word: letters, digits, . _ -")


def check_together(at: str, values: Mapping[str, Any], methods: Mapping[str, Arm]) -> None:
    """Refuse what the command would refuse."""
    try:
        options = DecodeOptions().with_values(values)
        for name in options.method.split(","):
            method_knobs = methods[name].knobs if name in methods else {}
            Arm(name=name, method=name, knobs={**options.knobs, **method_knobs})
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def pairing_of(at: str, table: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, str]:
    """Return which models and methods an experiment pairs."""
    pairing: dict[str, str] = {}
    if "models" in table:
        name = table["models"]
        if not isinstance(name, str) or name not in models:
            raise UserError(f"{at}.models: {name!r} is not allowed, expected {', '.join(models) or 'none are there'}")
        pairing["models"] = name
    if "methods" in table:
        names = table["methods"]
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise UserError(f"{at}.methods: {names!r} is not allowed, expected a list of names")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{at}.methods: {name!r} is there twice, expected each once")
        pairing["methods"] = ",".join(names)
    return pairing


def checked(
    at: str, table: Mapping[str, Any], allowed: tuple[str, ...], parameters: Mapping[str, click.Parameter]
) -> dict[str, Any]:
    """Return a table's values as the command's options would hold them."""
    values = {}
    for key, value in table.items():
        if key not in allowed:
            raise UserError(f"{at}.{key}: not known, expected {', '.join(allowed)}")
        values[key] = converted(f"{at}.{key}", value, parameters[key])
    return values


def converted(at: str, value: Any, parameter: click.Parameter) -> Any:
    """Return a value as an option would hold it."""
    is_flag = isinstance(parameter, click.Option) and parameter.is_flag
    if is_flag != isinstance(value, bool) or not isinstance(value, bool | int | float | str):
        raise UserError(f"{at}: {value!r} is not allowed, expected {'true or false' if is_flag else 'one value'}")
    if is_flag:
        return value
    try:
        # As text: a click integer would cut 4.5 to 4.
        return parameter.type.convert(str(value), parameter, None)
    except click.BadParameter as error:
        raise UserError(f"{at}: {error.message}") from None


def arm_of(at: str, name: str, table: Mapping[str, Any]) -> Arm:
    """Return a method of a file of presets."""
    method = table.get("method")
    if not isinstance(method, str):
        raise UserError(f"{at}.method: {method!r} is not allowed, expected the name of a method")
    if name == "all":
        raise UserError(f"{at}: the name is not allowed, expected another one, not all")
    for key, value in table.items():
        if key != "method" and key not in KNOBS:
            raise UserError(f"{at}.{key}: not known, expected method, {', '.join(KNOBS)}")
        if key != "method":
            check_knob(f"{at}.{key}", KNOBS[key], value)
    try:
        return Arm(name=name, method=method, knobs={key: value for key, value in table.items() if key != "method"})
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def check_given_knobs(presets: Presets | None, methods: str, given: Iterable[str]) -> None:
    """Refuse methods that are not there, and knobs that preset ones set: their names would not tell what runs."""
    for name in map(str.strip, methods.split(",")):
        check_method("--method", name, presets.methods if presets else ())
    arms = [presets.methods[n] for n in map(str.strip, methods.split(",")) if n in presets.methods] if presets else []
    for knob in given:
        if names := [arm.name for arm in arms if knob in arm.knobs]:
            raise UserError(f"{option_of(knob)}: not used with {', '.join(names)}, which set it themselves in a preset")


def check_inflation(presets: Presets) -> None:
    """Refuse targets inflated beyond what the command takes."""
    from acceptance.models.inflate import MAX_TIMES

    for section, tables in (("models", presets.models), ("experiments", presets.experiments)):
        for name, table in tables.items():
            times = table.get("inflate_target", 1)
            if times > MAX_TIMES:
                at = f"{presets.path}: {section}.{name}.inflate_target"
                raise UserError(f"{at}: {times:g} is not allowed, expected 1 to {MAX_TIMES}")


def check_method(at: str, name: str, own: Iterable[str]) -> None:
    """Refuse a method that is neither built in nor one of the presets' own."""
    known = ("all", *own, *ALGORITHMS)
    if name not in known:
        raise UserError(f"{at}: {name!r} is not allowed, expected {one_of(known, name)}")


def check_methods(presets: Presets) -> None:
    """Refuse presets that name methods which are not there, or are named like one that is."""
    check_inflation(presets)
    for name, arm in presets.methods.items():
        if name in ALGORITHMS:
            raise UserError(f"{presets.path}: methods.{name}: is the name of a built-in method, expected another one")
        if arm.method not in ALGORITHMS:
            at = f"{presets.path}: methods.{name}.method"
            raise UserError(f"{at}: {arm.method!r} is not allowed, expected {one_of(ALGORITHMS, arm.method)}")
        for knob in arm.knobs:
            if knob not in ALGORITHMS[arm.method].knobs:
                used = ", ".join(ALGORITHMS[arm.method].knobs) or "none"
                raise UserError(f"{presets.path}: methods.{name}.{knob}: not used by {arm.method}, expected {used}")
    for name, options in presets.experiments.items():
        for method in filter(None, options.get("methods", "").split(",")):
            check_method(f"{presets.path}: experiments.{name}.methods", method, presets.methods)


def presets_text(presets: Presets) -> str:
    """Return what a file of presets holds."""
    lines = [f"{presets.path}:"]
    for name, values in presets.models.items():
        lines.append(f"model {name}: {pairs(values)}")
    for name, arm in presets.methods.items():
        lines.append(f"method {name}: {pairs({'method': arm.method} | dict(arm.knobs))}")
    for name, values in presets.experiments.items():
        lines.append(f"experiment {name}: {pairs(values)}")
    return "\n".join(lines)


def pairs(values: Mapping[str, Any]) -> str:
    """Write options in one line."""
    return "  ".join(f"{key}={value}" for key, value in values.items())
