"""The whole chain on two cores: time the device, fit it, measure acceptance, forecast, and check against real decoding.

    python examples/03_timing_to_forecast.py --out out/chain

The bundled target is made as costly as a real one (`--inflate-target`); costs are fitted at two draft lengths, and the
others are forecast before they are looked at.
"""

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
BURNS = ("empty", "burn_flops", "burn_memory", "draft", "verify", "baseline")


def run(name: str, *words: object, allowed: tuple[int, ...] = (0,)) -> None:
    """Print a command and run it."""
    line = [name, *map(str, words)]
    print(f"\n$ {' '.join(line)}", flush=True)
    done = subprocess.run([SCRIPTS / name, *line[1:]], check=False)
    if done.returncode not in allowed:
        sys.exit(done.returncode)


def write_arms(path: Path, lengths: range) -> list[str]:
    """Write a preset with a speculative arm for each draft length; returns their names."""
    arms = [f'[methods.k{k}]\nmethod = "speculative"\nk = {k}\n' for k in lengths]
    path.write_text(
        "\n".join([*arms, f"[experiments.all]\nmethods = {[f'k{k}' for k in lengths]}\n".replace("'", '"')])
    )
    return [f"k{k}" for k in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/chain"), help="folder to write (default: out/chain)")
    parser.add_argument("--inflate", type=int, default=16, help="how many times as costly the target is")
    parser.add_argument("--longest", type=int, default=6, help="longest draft length")
    parser.add_argument("--max-prompts", type=int, default=8, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="tokens of an output")
    o = parser.parse_args()
    lengths = range(1, o.longest + 1)
    ours = {o.out / f"accept_hist_k{k}.json" for k in lengths}
    if others := sorted(set(o.out.glob("accept_hist_k*.json")) - ours):
        parser.exit(2, f"{parser.prog}: --out {o.out}: {others[0].name} is of another run, expected another folder\n")
    o.out.mkdir(parents=True, exist_ok=True)

    probes = [word for name in BURNS for word in ("--only", name)]
    run("probe-gpu", "--device", "cpu", *probes, "--out", o.out / "probe.json", "--force")
    run("calibrate", o.out / "probe.json", "--out", o.out / "device.json", "--force", allowed=(0, 3))

    text = ("--max-prompts", o.max_prompts, "--max-new-tokens", o.max_new_tokens, "--dtype", "bfloat16")
    run("measure-acceptance", "--k", f"1:{o.longest}", *text, "--batch-size", 1, "--out-dir", o.out, "--force")

    write_arms(o.out / "arms.toml", lengths)
    arms = ("--config", o.out / "arms.toml", "--experiment", "all", "--inflate-target", o.inflate)
    run("bench-decode", *arms, *text, "--device", "cpu", "--out", o.out / "decode.jsonl", "--force")
    fitted = f"1,{o.longest}"
    pair = o.out / "pair.json"
    run("calibrate", "--from-decode", o.out / "decode.jsonl", "--fit-k", fitted, "--out", pair, "--force", allowed=(0,))

    middle = ("--draftN", (1 + o.longest) // 2, "--total", o.max_new_tokens, "--why")
    run("simulate", "--profile", pair, "--hist", o.out, *middle)
    picture = ("--plot", o.out / "validation.png", "--force")
    run("validate", o.out / "decode.jsonl", "--profile", pair, "--hist", o.out, *picture, allowed=(0, 1))


if __name__ == "__main__":
    main()
