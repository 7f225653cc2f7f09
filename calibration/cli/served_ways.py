"""Ways of serving as arms of a log are named: what each drafts with, what that accepts, how the engine is set."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.cli.as_rows import placed_as
from simulator.cli.options import SharedOptions, load_checked, with_drafted
from simulator.cli.serving_options import BLOCK_SIZES, SCHEDULERS
from simulator.costs.parameters import DeviceOptions
from simulator.ground.artefacts import UserError
from simulator.ground.fields import shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH

if TYPE_CHECKING:
    from calibration.validate.served.measured import Measured
    from simulator.answers.scene import Arm, Traffic
    from simulator.answers.ways import Server
    from simulator.costs.fitted import ServingFit
    from simulator.costs.priced import Pricing

PLAIN, DRAFT_MODEL = "plain", "draft_model"
# Tokens of a request at most, where neither an option nor the model says.
USUAL_LONGEST = 131_072
WAY = "NAME=METHOD[:k=K]"


class Way(NamedTuple):
    """How an arm serves: method, "" of plain decoding; draft length."""

    method: str = ""
    k: int = 0


@dataclass(frozen=True, slots=True)
class Serving:
    """What options say of servers.

    ways: by arm. accepts: files of histograms by arm or method. traffic: all that was sent, by whose lengths memory is
    divided; None: nothing yet. fit: of the profile, to rows of servers. made: ways that were asked for before; known:
    costs of them.
    """

    profile: Path
    values: Mapping[str, Any]
    ways: Mapping[str, Way]
    accepts: Mapping[str, Path]
    traffic: "Traffic | None"
    fit: "ServingFit | None"
    made: "dict[tuple[Way, Path | None, int | None], Arm]" = field(default_factory=dict)
    known: "dict[Way, Pricing]" = field(default_factory=dict)

    @property
    def draws(self) -> int:
        """How many draws there are of the constants of the profile, as well as they are known."""
        return len(self.fit.draws) if self.fit else 0

    def arms(self, load: "Measured", draw: int | None = None) -> "dict[str, Arm]":
        """Return the ways of serving of a load's arms, of each server once; draw: of the profile's constants."""
        from calibration.validate.served.rows import repeated

        again = repeated(load)
        return {arm: self.arm(load, arm, draw) for arm in load.arms if arm not in again}

    def arm(self, load: "Measured", name: str, draw: int | None = None) -> "Arm":
        """Return the way of one."""
        from simulator.costs.priced import load_pricing

        way = self.way(load, name)
        device = self.device(way)
        if way not in self.known:
            self.known[way] = load_pricing(device)
        pricing = self.known[way]
        assert pricing.models is not None
        path = self.accepted(name, pricing.models.method.name) if way.k else None
        key = way, path, draw
        if key not in self.made:
            self.made[key] = self.make(self.drawn(pricing, draw), device, way, path)
        return self.made[key]

    def make(self, pricing: "Pricing", device: DeviceOptions, way: Way, path: Path | None) -> "Arm":
        """Return a way of serving at these costs; path: of what its rounds accept."""
        from simulator.answers.served import ways_of
        from simulator.rounds.acceptance_law import IidAcceptance

        assert pricing.models is not None
        assert self.traffic is not None
        server = self.server(pricing.models.target.longest_context)
        if path is None:
            return ways_of(pricing, self.traffic, server, IidAcceptance(0.0), ())[0]
        measured = load_checked(shared(device, path), way.k, pricing.models, (0.0,))
        assert measured is not None
        policies = (f"static:k={way.k}",)
        return ways_of(with_drafted(pricing, measured), self.traffic, server, measured, policies)[1]

    def check(self) -> None:
        """Refuse what can be refused before anything was sent.

        Raises:
            UserError: There is no such profile, model or file.
        """
        from simulator.costs.priced import load_pricing

        drafts = [Way(DRAFT_MODEL, 1)] if self.values["draft_model"] else []
        for way in (Way(), *drafts):
            self.known[way] = load_pricing(self.device(way))
        self.server(None)
        for path in self.accepts.values():
            if not path.exists():
                raise UserError(f"--accepts {path}: no such file")

    def drawn(self, pricing: "Pricing", draw: int | None) -> "Pricing":
        """Return costs with a draw of the constants that the profile was fitted to; None: as they were fitted."""
        from simulator.costs.moved import moved

        fit = pricing.profile and pricing.profile.fitted
        if draw is None or not fit or pricing.profile is None or pricing.models is None:
            return pricing
        factors = {name: float(by[0]) for name, by in fit.factors(fit.draws[draw % len(fit.draws)][None]).items()}
        profile = moved(pricing.profile, factors)
        profile = replace(profile, round_overhead_s=float(profile.round_overhead_s))
        return pricing._replace(profile=profile, models=replace(pricing.models, profile=profile))

    def way(self, load: "Measured", name: str) -> Way:
        """Return how an arm drafts: as options say, else as its counters and its name tell.

        Raises:
            UserError: They do not.
        """
        told = load.drafts(name)
        if name in self.ways:
            way = self.ways[name]
            if way.method and not (way.k or told):
                raise UserError(f"--way {name}={way.method}: no counter tells its draft length, expected :k=K behind")
            return way._replace(k=way.k or told) if way.method else way
        if not told:
            first = next(iter(load.arms))
            if name in (first, PLAIN) or load.is_counted(name):
                return Way()
            raise UserError(f"{load.path}: nothing tells what {name} drafts with, expected --way {WAY} or {name}=plain")
        method = method_in(name)
        if method == DRAFT_MODEL and self.values["draft_model"] is None:
            raise UserError(f"--draft-model: missing, expected what {name} drafts with, or --way {name}=METHOD")
        return Way(method, told)

    def device(self, way: Way) -> DeviceOptions:
        """Return device and models of a way."""
        values = {name: self.values[name] for name in ("target_model", "dtype", "kv_dtype", "tp")}
        values["gpu_memory_utilization"] = self.values["gpu_memory_utilization"]
        fit = self.fit
        values["target_model"] = values["target_model"] or (fit.model if fit else None)
        if values["target_model"] is None:
            raise UserError(f"--target-model: missing, expected that of the servers beside {self.profile}")
        values |= placed_as(fit, values) if fit else {}
        is_model = way.method == DRAFT_MODEL
        drafting = {"draft_model": self.values["draft_model"]} if is_model else {"method": way.method or "ngram"}
        return DeviceOptions(profile=str(self.profile), **values, **drafting)

    def server(self, context: int | None) -> "Server":
        """Return how the engine is set: what nobody says as for rows of the profile, else as engines have it."""
        from simulator.answers.ways import Server

        own, fit = self.values, self.fit
        rows = fit.served.options if fit else {}
        scheduler = own["engine"] or (fit.engine if fit else "") or SCHEDULERS[0]
        if scheduler not in SCHEDULERS:
            raise UserError(f"--engine: {scheduler} has no scheduler here, expected {', '.join(SCHEDULERS)}")
        names = ("async_scheduling", "prefix_caching")
        settings = {name: own[name] for name in names if own[name] is not None}
        given = {
            "chunk": own["chunk"] or (int(rows["chunk"]) if fit and "chunk" in fit.served.words else None),
            "most_running": own["max_running"]
            or (int(rows["max_running"]) if fit and "max_running" in fit.served.words else None),
        }
        return Server(
            longest=own["max_model_len"] or context or USUAL_LONGEST,
            block_size=own["block_size"] or BLOCK_SIZES[scheduler],
            num_blocks=own["num_blocks"],
            settings=settings | {"scheduler": SCHEDULERS.index(scheduler)},
            **{name: value for name, value in given.items() if value is not None},
        )

    def accepted(self, name: str, method: str) -> Path:
        """Return what was measured of an arm's rounds, or of its method's: a file or folder.

        Raises:
            UserError: Nothing was.
        """
        for key in (name, method):
            if key in self.accepts:
                return self.accepts[key]
        from calibration.fit.server_acceptance import accepted_beside

        beside = accepted_beside(self.profile) / method
        if beside.is_dir():
            return beside
        raise UserError(f"--accepts: nothing says what {name} accepts, expected {name}=FILE, or a folder {beside}")


def method_in(name: str) -> str:
    """Return the method that the name of an arm begins with; a draft model where that is none."""
    from simulator.costs.drafters.methods import method_beginning

    found = method_beginning(name)
    return found.name if found else DRAFT_MODEL


def shared(device: DeviceOptions, hist: Path) -> SharedOptions:
    """Return options of what a file of histograms says of rounds."""
    return SharedOptions(
        device=device,
        load=None,
        said=(),
        engine=None,
        law=None,
        published=None,
        extrapolate=False,
        stated=frozenset(),
        hist=hist,
        hist_as=None,
        measured=None,
        overlap=False,
        guesses=1,
        replications=1,
        seed=0,
        force=False,
        baseline_tpot=None,
        speculative_tpot=None,
    )


def ways_in(words: tuple[str, ...]) -> dict[str, Way]:
    """Return what --way says.

    Raises:
        UserError: One says nothing, or of one arm twice.
    """
    from simulator.costs.drafters.methods import method_named

    found: dict[str, Way] = {}
    for word in words:
        name, equals, said = word.partition("=")
        method, colon, length = said.partition(":")
        k = length.removeprefix("k=")
        is_length = not colon or (length.startswith("k=") and k.isascii() and k.isdecimal() and len(k) < 5)
        if not (name and equals and method and is_length):
            raise UserError(f"--way: {shortened(word, 80)} is not allowed, expected {WAY}, or NAME=plain")
        if name in found:
            raise UserError(f"--way: {name} twice, expected it once")
        if colon and not 1 <= int(k) <= MAX_DRAFT_LENGTH:
            raise UserError(f"--way {name}: k = {k} is not allowed, expected 1 to {MAX_DRAFT_LENGTH}")
        found[name] = Way() if method == PLAIN else Way(method_named(method, "--way").name, int(k or 0) if colon else 0)
    return found


def accepts_in(words: tuple[str, ...]) -> dict[str, Path]:
    """Return what --accepts says."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise UserError(f"--accepts: {shortened(word, 80)} is not allowed, expected NAME=FILE|FOLDER")
        found[name] = Path(path)
    return found
