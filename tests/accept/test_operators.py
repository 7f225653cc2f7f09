"""PyTorch's profile of decoding, as `bench-decode --torch-trace` writes it."""

import json
from pathlib import Path


def test_the_profile_of_torch_has_every_arm_with_its_operators_and_leaves_the_records_alone(
    run, user_error, random_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "w1 w2 w3"}))
    target, draft = random_pair
    words = ("--target", target, "--draft", draft, "--prompts", prompts, "--max-new-tokens", 6, "--device", "cpu")

    def measure(*more: object):
        done = run("bench-decode", *words, "--method", "speculative", "--k", 2, *more)
        assert done.returncode == 0, done.stderr

    measure()
    kept = (tmp_path / "decode.jsonl").read_bytes()
    measure("--torch-trace", "torch.json")
    trace = tmp_path / "torch.json"
    spans = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("ph") == "X"]
    by_name = {name: [e for e in spans if e["name"] == name] for name in ("baseline", "speculative", "sample")}
    arm = by_name["speculative"][0]
    assert len(by_name["baseline"]) == 1
    # Drafts are decided on within the arm that has some alone, and operators are there as torch names them.
    assert by_name["sample"]
    assert all(arm["ts"] <= e["ts"] and e["ts"] + e["dur"] <= arm["ts"] + arm["dur"] for e in by_name["sample"])
    assert {"aten::mm", "aten::addmm"} & {e["name"] for e in spans}
    assert (tmp_path / "decode.jsonl").read_bytes() == kept
    # Nothing was left to measure: it stays. A run of its own does not write over it.
    before = trace.read_bytes()
    measure("--torch-trace", "torch.json")
    assert trace.read_bytes() == before
    user_error(
        run("bench-decode", *words, "--torch-trace", "torch.json", "--out", "b.jsonl"),
        "--torch-trace torch.json: exists already",
    )
