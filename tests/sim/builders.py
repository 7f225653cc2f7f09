"""What several tests of the simulator build alike: costs, profiles, pairs of models, grids, and a forecast as JSON."""

import json
from pathlib import Path
from typing import Any

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import PARAMETERS
from simulator.costs.profile import MEASURED, BurnUnits, Curve, PassCost, Profile, constant
from simulator.costs.profile_file import save_profile
from simulator.costs.shapes import read_shape
from simulator.ground.ranges import parse_values
from simulator.rounds.grid import Grid


def pass_cost(flop: float | Curve, mem: float | Curve, **more: Any) -> PassCost:
    """The cost of a pass by its seconds a FLOP and a byte, constant where a number is given."""
    flop, mem = (x if isinstance(x, Curve) else constant(x) for x in (flop, mem))
    return PassCost(flop_scale=flop, mem_scale=mem, **more)


def device(passes: dict[str, PassCost] | None = None, **more: Any) -> Profile:
    return Profile(**{"name": "one", "device": "A device", "status": MEASURED, "passes": passes or {}} | more)


def burnt(mem: float | Curve = 4e-11) -> Profile:
    """A device of which the costs of burn units alone are known."""
    cost = pass_cost(2e-12, mem, launch_s=5e-6, fixed_s=1e-6, overlap_exponent=3.0)
    units = BurnUnits(workflops_flop=600, workmem_bytes=8000, cost=cost)
    return device(name="burnt", units=units, round_overhead_s=2e-4)


def written(path: Path, profile: Profile) -> Path:
    save_profile(path, profile, {})
    return path


def model_pair(profile: Profile, target: str, draft: str, **more: Any) -> ModelPair:
    shapes = {"target": read_shape(target), "draft": read_shape(draft)}
    return ModelPair(profile=profile, dtype="bfloat16", draft_dtype="bfloat16", **shapes, **more)


def grid(**values: str) -> Grid:
    texts = {p.name: f"{p.default:g}" for p in PARAMETERS} | values
    return Grid(values={name: parse_values(name, text) for name, text in texts.items()})


def result(run, *arguments: object) -> dict[str, Any]:
    """What `simulate --json` answers."""
    done = run("simulate", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


# A config.json of a small target with three modules that predict further tokens.
GLM = {"architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "hidden_size": 64, "intermediate_size": 96}
GLM |= {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 500}
GLM |= {"first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GLM |= {"n_shared_experts": 1, "num_nextn_predict_layers": 3}
