"""Throughputs of a server forecast from few of its rows: constants of a profile are told by rows, the others priced."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.fit.from_serving import TPOT_NOISE, before_rows, pass_constants
from calibration.fit.told import Rows, solved
from calibration.published.cases import Case, Row
from calibration.published.loads import VLLM, Load
from simulator.costs.model_costs import ModelPair
from simulator.costs.moved import moved
from simulator.costs.profile import Profile
from simulator.costs.profile_file import load_profile
from simulator.ground.histogram import tokens_per_round_iid
from simulator.rounds.priors import prior
from simulator.serving.steady import steady

from .priced import pair_of, placed
from .simulated import simulated

Floats = NDArray[np.float64]
# The acceptance of rows that do not say it, as the log odds of an alpha: its standard error.
ALPHA, ALPHA_ERROR = "alpha", 0.8
# Of one draft, where no figure of its method was published.
USUAL_ALPHA = 0.7
# How often the closed form is held to what is simulated.
TIMES_BESIDE = 2
# Devices and drafts of a row.
Key = tuple[int | None, int | None]


class Told(NamedTuple):
    """What rows told of a server: its profile or samples of it, and an alpha where rows do not say acceptance."""

    profile: Profile
    alpha: float | None = None


class Server(NamedTuple):
    """Rows of a group whose models lie on devices, as their profile has them before any row told it anything."""

    case: Case
    rows: Sequence[Row]
    models: Mapping[Key, ModelPair]
    profile: Profile

    @classmethod
    def of(cls, case: Case, rows: Sequence[Row]) -> "Server":
        """Place the models that rows are of."""
        profile = before_rows(load_profile(case.profile or ""), drafts=any(row.draft_length for row in rows))
        models = {key_of(row): pair_of(profile, placed(case.pairs[row.group], row), None) for row in rows}
        return cls(case, rows, models, profile)

    def told_by(self, fits: Sequence[Row]) -> tuple[dict[str, float], Told]:
        """Return what some rows and what was known before tell: factors of constants, an alpha; and the server of them.

        Where rows are simulated, the closed form is held to the simulation of those that are fitted.
        """
        beside = np.ones(len(fits))
        found, told = self.solved_for(fits, beside)
        for _ in range(TIMES_BESIDE if self.load.simulated else 0):
            beside = self.forecast(fits, told) / self.throughputs(fits, told)
            found, told = self.solved_for(fits, beside)
        return found, told

    def solved_for(self, fits: Sequence[Row], beside: Floats) -> tuple[dict[str, float], Told]:
        """Return the same, of rows that are so many times what the closed form says, shape [fits].

        Each constant begins as the profile has it, and moves by its own error; rows are known as well as those of
        servers are.
        """
        shared = any(models.devices > 1 for models in self.models.values())
        drafts = any(row.draft_length for row in self.rows)
        constants = pass_constants(self.profile, shared=shared, drafts=drafts)
        usual = self.usual_alpha() if self.case.acceptance else None
        measured = np.log([row.measured for row in fits]) - np.log(beside)

        def factors_of(logs: Floats) -> dict[str, Floats]:
            return {c.name: np.exp(logs[..., i]) for i, c in enumerate(constants)}

        def told(logs: Floats) -> Told:
            alpha = None if usual is None else float(1 / (1 + (1 / usual - 1) * np.exp(-logs[-1])))
            return Told(moved(self.profile, factors_of(logs)), alpha)

        def off(logs: Floats) -> Floats:
            # Samples of a profile are priced together, those of an acceptance one by one.
            if usual is not None and logs.ndim > 1:
                return np.stack([off(each) for each in logs])
            return np.asarray(np.log(self.throughputs(fits, told(logs))) - measured)[..., None, :]

        errors = np.array([c.error for c in constants] + [ALPHA_ERROR] * (usual is not None))
        rows = Rows(off, np.array([TPOT_NOISE]), errors, np.arange(len(fits)))
        logs = solved(rows, np.ones((1, len(fits))), np.zeros(len(errors))).logs
        server = told(logs)
        found = {name: float(value) for name, value in factors_of(logs).items()}
        return found | ({} if server.alpha is None else {ALPHA: server.alpha}), server

    def forecast(self, rows: Sequence[Row], told: Told) -> Floats:
        """Return the tokens a second of all clients of each row, shape [rows]: request by request where so sent."""
        lasting = self.throughputs(rows, told)
        if not self.load.simulated:
            return lasting
        found = []
        for row, rate in zip(rows, lasting, strict=True):
            each_s = float(told.profile.round_overhead_s)
            own = replace(self.models[key_of(row)], profile=told.profile, round_overhead_s=each_s)
            tau = tokens_a_round(row, told.alpha)
            found.append(simulated(own, self.load, row.sequences, row.draft_length or 0, tau, float(rate)))
        return np.array(found)

    @property
    def load(self) -> Load:
        """How the rows were sent."""
        assert self.case.load is not None
        return self.case.load

    def usual_alpha(self) -> float:
        """Return the acceptance of one draft with which rounds yield what was published of their method."""
        longest = max(row.draft_length or 0 for row in self.rows)
        known = prior(next(iter(self.models.values())).method.name)
        if known is None or longest == 0:
            return USUAL_ALPHA
        grid = np.linspace(0.01, 0.99, 99)
        tokens = known.cut(min(longest, known.draft_length)).tokens_per_round
        return float(np.interp(tokens, tokens_per_round_iid(grid, longest), grid))

    def throughputs(self, rows: Sequence[Row], told: Told) -> Floats:
        """Return the tokens a second of all clients of each row in closed form, [*samples, rows]."""
        parts = []
        for key in dict.fromkeys(map(key_of, rows)):
            at = [i for i, row in enumerate(rows) if key_of(row) == key]
            # What a round costs besides may be samples, as factors may.
            each_s = told.profile.round_overhead_s
            own = replace(self.models[key], profile=told.profile, round_overhead_s=1.0, round_overhead_factors=each_s)
            clients = np.array([rows[i].sequences for i in at], np.float64)
            tau = np.array([tokens_a_round(rows[i], told.alpha) for i in at])
            parts.append((at, served(own, self.load, clients, rows[at[0]].draft_length or None, tau)))
        found = np.zeros((*np.broadcast_shapes(*(values.shape[:-1] for _, values in parts)), len(rows)))
        for at, values in parts:
            found[..., at] = values
        return found


def key_of(row: Row) -> Key:
    """Return what decides which models a row is of, and whether they draft."""
    return row.tp, row.draft_length


def tokens_a_round(row: Row, alpha: float | None) -> float:
    """Return what a round yields, by its row or by an alpha."""
    return row.tau if row.says_yield or alpha is None else replace(row, alpha=alpha).tau


def served(
    models: ModelPair, load: Load, clients: Floats, draft_length: int | None, tokens_per_round: Floats
) -> Floats:
    """Return the tokens a second of clients, shape [clients], as answers are counted that end within the window."""
    come_to = steady(
        models,
        clients,
        load.isl,
        load.osl,
        draft_length=np.full(len(clients), draft_length) if draft_length else None,
        tokens_per_round=tokens_per_round if draft_length else None,
        chunk=load.max_num_batched_tokens,
        most_running=load.max_num_seqs,
        mixed=load.scheduler == VLLM,
        alike=load.spread == 0,
    )
    rate = come_to.output_tokens_per_s
    if load.window_s is None:
        return np.asarray(rate)
    # Of answers that are cut, all but the one that ends it, as many tokens are lost as renewal theory has behind a time
    # at random.
    lost = (clients - 1) * load.osl * np.exp(load.spread**2) / 2 / load.window_s
    return np.asarray(np.maximum(rate - lost, rate / 1e3))
