"""From a file of times to the fits that they allow, and to the profile that these make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.sources.decode import load_decode
from calibration.sources.passes import load_passes
from cuda_probe.probe.report import load_probe
from simulator.costs.profile import Profile
from simulator.ground.artefacts import UserError

from .diagnostics import CheckedFit
from .from_decode import PAIR, check_pair, fit_pair, pair_profile
from .from_passes import fit_passes, pass_profile
from .from_probe import fit_probe, probe_profile

# Of the command: no fit passes its checks, and no profile is written.
EXIT_FAILED_CHECKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a file of times gave. fits: by what a profile calls them. profile: None where no fit passes its checks."""

    fits: Mapping[str, CheckedFit]
    profile: Profile | None


def calibrate_probe(path: Path, name: str) -> Calibration:
    """Fit what probe-gpu timed: burn units, and products by number format.

    Args:
        path: A probe.json.
        name: What to call the profile.

    Raises:
        UserError: The file is of another kind, or timed nothing that can be fitted.
    """
    results = load_probe(path, raw=False)
    fits = fit_probe(results)
    if not fits:
        raise UserError(f"{path}: timed neither burn kernels nor products, expected some of either")
    passed = any(fit.passed for fit in fits.values())
    return Calibration(fits=fits, profile=probe_profile(name, results, fits) if passed else None)


def calibrate_decode(path: Path, name: str, lengths: Sequence[int] | None = None) -> Calibration:
    """Fit the costs of a pair that bench-decode timed.

    Args:
        path: Its results.
        name: What to call the profile.
        lengths: Draft lengths to fit; None: all.

    Raises:
        UserError: The file is of another kind, lacks a length, or has fewer than two.
    """
    log = load_decode(path)
    pair = fit_pair(log, lengths)
    checked = check_pair(pair)
    return Calibration(fits={PAIR: checked}, profile=pair_profile(name, log, pair) if checked.passed else None)


def calibrate_passes(path: Path, name: str, lengths: Sequence[int] | None = None) -> Calibration:
    """Fit the passes of two models that `bench-decode time-passes` timed.

    Args:
        path: A passes.json.
        name: What to call the profile.
        lengths: Draft lengths whose verification is fitted; None: all.

    Raises:
        UserError: The file is of another kind, or lacks a length.
    """
    times = load_passes(path)
    checked = fit_passes(times, lengths)
    profile = pass_profile(name, times, checked, lengths) if checked.passed else None
    return Calibration(fits={times.dtype: checked}, profile=profile)
