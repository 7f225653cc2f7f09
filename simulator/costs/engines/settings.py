"""What an engine's settings say of a forecast, and what a forecast recommends to engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Method, Tree
from simulator.costs.formats import FORMATS
from simulator.ground.fields import Field
from simulator.ground.names import nearest, number_format

if TYPE_CHECKING:
    from typing import NoReturn

# First and last batch size, and their draft length, 0 where nothing is drafted.
Row = tuple[int, int, int]
# Number formats that engines take by name of a draft whose file does not say.
QUANTIZATIONS = ("fp8", "awq", "gptq")
# Characters of settings.
MOST_TEXT = 1 << 18
NOTHING = "changes nothing in a forecast"
NOT_FORECAST = "is not forecast"
UNUSED = "is not looked at"
ACCEPTED = "changes what is accepted alone, which --alpha or --hist state"


class Stated(NamedTuple):
    """A value of one of our options, and how the engine's own settings state it."""

    value: str | float
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of an engine, read.

    option: of ours that holds them. options: of ours, by the names of fields of `DeviceOptions` and `Point`. schedule:
    draft lengths by batch size. survival: P(A >= j), where the engine is to accept at these rates. draft_devices: those
    that share the draft, where that is stated. notes: sentences on what is taken in another way than it is stated.
    alike: methods that the engine calls as the one that is stated, of which a drafter's file tells the one.
    usual_length: the draft length that it takes where none is stated; None: none.
    """

    option: str
    options: Mapping[str, Stated]
    schedule: tuple[Row, ...] = ()
    survival: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    usual_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """What a forecast recommends.

    draft: the drafter's name as engines take it; None where nobody said. draft_format: the number format of its
    weights, "" where its file says. devices, draft_devices: those that share the target and the draft. apart: whether
    the draft is on a device of its own. rows: draft lengths by batch size, none where one length is for all.
    draft_length: at the batch size that is forecast, 0 where plain decoding is best. modules: that take turns.
    """

    method: Method
    tree: Tree | None = None
    draft: str | None = None
    draft_format: str = ""
    devices: int = 1
    draft_devices: int | None = None
    apart: bool = False
    rows: tuple[Row, ...] = ()
    draft_length: int = 0
    modules: int = 1

    @property
    def lacks(self) -> str:
        """What the user has to add; "" where nothing."""
        return f"the {self.method.title} drafter" if self.draft is None and self.method.engines.needs_model else ""

    @property
    def branches(self) -> bool:
        """Whether drafts are trees."""
        return self.tree is not None and self.tree.topk > 1

    @property
    def longest(self) -> int:
        """The longest draft length of all batch sizes."""
        return max((k for _, _, k in self.rows), default=self.draft_length)


class Written(NamedTuple):
    """A recommendation in an engine's words: as JSON has it (None: there is none), lines to paste, what to know."""

    settings: dict[str, Any] | None
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def stated_format(text: str) -> str | None:
    """Return the number format of ours that an engine's quantization is; None where a checkpoint's own file tells."""
    found = number_format(text)
    return found if found in FORMATS else None


def gathered(told: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return sentences on keys: `told` has, by what is to be said, the keys of which it is."""
    plural = {NOTHING: "change nothing in a forecast", NOT_FORECAST: "are not forecast"}
    plural[UNUSED] = "are not looked at"
    plural[ACCEPTED] = ACCEPTED.replace("changes", "change")
    return tuple(f"{', '.join(keys)} {what if len(keys) == 1 else plural[what]}" for what, keys in told.items() if keys)


def called(engine: str) -> dict[str, Method]:
    """Return the methods that an engine has, by what it calls them."""
    found: dict[str, Method] = {}
    for method in methods().values():
        name = getattr(method.engines, engine)
        found |= {name: method} if name and name not in found else {}
    return dict(sorted(found.items()))


def refuse_word(word: Field, known: Sequence[str]) -> "NoReturn":
    """Refuse a word that an engine may have, and that names nothing here."""
    word.refuse(f"one of {', '.join(known)}")


def refuse_key(key: Field, known: Sequence[str], engine: str) -> "NoReturn":
    """Refuse a key that an engine does not have; names the nearest."""
    near = ", ".join(nearest(key.where, known))
    raise key.error(f"{key.path}: {key.where[:80]!r} is no setting of {engine}, nearest: {near}")
