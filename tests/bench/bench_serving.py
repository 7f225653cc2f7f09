"""How fast a server is simulated step for step: compiled, beside plain Python on the same source in the same run.

Prompts lognormal about 1,090 tokens, answers about 200, Poisson arrivals at four fifths of what the server takes,
prefix caching, three drafts a round; on one core. Seconds are those of the processor: neighbours count less.
The same with all that costs time: steps of a model on a device, sure and unsure drafts, vLLM's adaptive verification.
"""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
from timing import options, show

from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.ground.compiled import IS_COMPILED, PLAIN
from simulator.ground.policies import Verification
from simulator.serving.draw_tables import Laws, acceptance_of
from simulator.serving.draws import Acceptance
from simulator.serving.fleet import LEAST_LOADED, Replicas
from simulator.serving.pass_tables import linear_costs, step_costs
from simulator.serving.policies import Policy
from simulator.serving.policy_tables import adaptive_verification, fixed
from simulator.serving.run import run
from simulator.serving.settings import settings_of
from simulator.serving.step_costs import StepCosts
from simulator.workloads.requests import Requests, requests_of

K, CHANCE, SHARP, RATE = 3, 0.7, 0.9, 80.0
LONGEST, SEATS = 8192, 256


def load(size: int) -> Requests:
    """Return so many requests."""
    rng = np.random.default_rng(1)
    prompt, output = rng.lognormal(np.log(1090) - 0.5, 1, size), rng.lognormal(np.log(200) - 0.32, 0.8, size)
    lengths = np.clip(prompt, 1, LONGEST - 1200).astype(int), np.clip(output, 1, 1000).astype(int)
    return requests_of(*lengths, arrival_s=np.cumsum(rng.exponential(1 / RATE, size)))


def work_of(full: bool) -> tuple[Acceptance, StepCosts, Policy]:
    """Return what rounds accept, what steps take, and how drafts are verified."""
    survival = np.zeros((1, K + 1, K))
    for drafts in range(1, K + 1):
        survival[0, drafts, :drafts] = CHANCE ** np.arange(1, drafts + 1)
    if not full:
        return acceptance_of([Laws(survival)]), linear_costs(8e-3, 5e-6, tokens=8192), fixed(K)
    device = DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method="eagle3")
    models = load_pricing(device).models
    assert models is not None
    costs = step_costs(models, K, tokens=8192 + SEATS, sequences=SEATS)
    return acceptance_of([Laws(survival, sharp=SHARP)]), costs, adaptive_verification(Verification(k=K), costs, SEATS)


def timed(size: int, repeats: int = 1, full: bool = False, servers: int = 1) -> dict[str, float]:
    """Serve so many requests, each server its share; return what it took, and what they were like."""
    settings = settings_of(num_blocks=27_000, max_model_len=LONGEST, k=K, lookahead=K, drops_block=True)
    work = work_of(full)
    run(settings, load(50), *work)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    requests, taken, replicas = load(size), np.inf, Replicas(servers, LEAST_LOADED)
    requests = requests._replace(arrival_s=requests.arrival_s / servers)
    for _ in range(repeats):
        began = time.process_time()
        outcome = run(settings, requests, *work, replicas=replicas)
        taken = min(taken, time.process_time() - began)
    rows = int(outcome.rounds.sum()) + size
    return {
        "requests_s": size / taken,
        "tokens_s": int(requests.output.sum()) / taken,
        "row_ns": 1e9 * taken / rows,
        "running": outcome.running_s / outcome.end_of_run_s,
        "bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / size,
    }


def apart(size: int, plain: bool, full: bool = False, servers: int = 1) -> dict[str, float]:
    """Do the same in a process of its own, compiled or not."""
    env = {name: value for name, value in os.environ.items() if name != PLAIN} | ({PLAIN: "1"} if plain else {})
    words = [sys.executable, __file__, "--only", str(size), "--servers", str(servers), *["--full"] * full]
    done = subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print a table."""
    parser = options(__doc__)
    parser.add_argument("--only", type=int, help="serve so many requests, and tell in JSON")
    parser.add_argument("--full", action="store_true", help="these with all that costs time")
    parser.add_argument("--servers", type=int, default=1, help="so many of them side by side")
    parser.add_argument("--most", type=int, default=1_000_000, help="requests of the largest run")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(timed(args.only, 3 if args.only <= 20_000 else 1, args.full, args.servers)))
        return
    small, sizes = (200, [400]) if args.smoke else (1000, [20_000, 100_000, args.most])
    plain = apart(small, True)
    show("plain Python", f"{plain['requests_s']:,.0f} requests/s", f"{small:,} requests", "bar: 500")
    if not IS_COMPILED:
        return
    for size in sizes:
        ours = apart(size, False)
        value, ratio = f"{ours['requests_s']:,.0f} requests/s", ours["requests_s"] / plain["requests_s"]
        show(f"compiled, {size:,} requests", value, f"{ratio:,.0f} times plain Python", "bar: 100,000")
        told = f"{ours['row_ns']:.0f} ns a sequence and step, {ours['running']:.0f} run at once"
        show("  tokens of answers", f"{ours['tokens_s'] / 1e6:.1f} million/s", told, "bar: 20")
        show("  memory with the requests", f"{ours['bytes']:.0f} bytes each", "", "bar: 200")
    ours = apart(sizes[0], False, True)
    value, ratio = f"{ours['requests_s']:,.0f} requests/s", ours["requests_s"] / plain["requests_s"]
    show(f"all that costs time, {sizes[0]:,} requests", value, f"{ratio:,.0f} times plain Python", "floor: 20,000")
    one, four = (apart(sizes[0], False, servers=servers) for servers in (1, 4))
    ratio = one["requests_s"] / four["requests_s"]
    show("four servers behind a router", f"{four['requests_s']:,.0f} requests/s", f"{ratio:.2f} times as long as one")


if __name__ == "__main__":
    main()
