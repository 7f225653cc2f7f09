"""Published rows of servers, and fits to some of them that tests share."""

from functools import cache
from pathlib import Path

import numpy as np

from calibration.fit.from_serving import ServingCalibration, calibrate_serving
from calibration.fit.loads import Loads, Options, loads_of
from calibration.sources.serving_files import read_serving
from simulator.costs.profile import Profile
from simulator.costs.profile_file import load_profile

PUBLISHED = Path(__file__).parents[2] / "calibration" / "published" / "serving"
DENSE, EXPERTS = PUBLISHED / "llama-3.1-70b-h200-vllm.csv", PUBLISHED / "deepseek-v3-h200-sglang.csv"
SHEET = load_profile("h200")


def loads_in(path: Path, profile: Profile = SHEET, **given: str) -> Loads:
    return loads_of(read_serving(path).rows, profile, Options(**given))


@cache
def fitted(rows: int) -> ServingCalibration:
    """A fit to so many of the rows of a dense model."""
    return calibrate_serving(halves(loads_in(DENSE), rows)[0], SHEET, "engine")


def halves(loads: Loads, fitted: int = 10) -> tuple[Loads, Loads]:
    """Some rows by chance, and the rest."""
    kept = sorted(int(i) for i in np.random.default_rng(0).permutation(len(loads))[:fitted])
    return loads.select(kept), loads.select([i for i in range(len(loads)) if i not in kept])
