"""Encoders: their pass before the first token, against transformers on the meta device, by hand, and in forecasts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.costs.source import source_passes, sourced
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError
from simulator.serving.pass_tables import step_costs
from simulator.serving.steady import steady
from simulator.serving.step_costs import add, no_totals, seconds

from .test_families import BART, T5, WHISPER

FILES = {
    "t5": T5,
    "t5-gated": T5 | {"feed_forward_proj": "gated-gelu"},
    "bart": BART,
    "whisper": WHISPER,
}


def shape_of(folder: Path, kind: str, **beside: object) -> ModelShape:
    folder.mkdir(exist_ok=True)
    values = {"model_type": kind.partition("-")[0], **FILES[kind], **beside}
    (folder / "config.json").write_text(json.dumps(values))
    return read_shape(folder)


def placed(shape: ModelShape) -> Placed:
    return Placed(shape=shape, dtype="bfloat16", kv_dtype=None, devices=1, profile=load_profile("h100-sxm"))


@pytest.mark.parametrize("kind", FILES)
def test_an_encoders_flops_and_weights_are_those_that_transformers_multiplies(kind: str, tmp_path: Path) -> None:
    import torch
    import transformers as hf
    from torch.utils.flop_counter import FlopCounterMode

    shape = shape_of(tmp_path, kind)
    source = 15 if kind == "whisper" else 11
    shape = shape.with_source(source)
    config = hf.AutoConfig.for_model(kind.partition("-")[0], **FILES[kind], attn_implementation="eager")
    with torch.device("meta"):
        maker = hf.WhisperForConditionalGeneration if kind == "whisper" else hf.AutoModelForSeq2SeqLM.from_config
        encoder = maker(config).eval().get_encoder()
        read = torch.zeros((1, 20, 30)) if kind == "whisper" else torch.zeros((1, source), dtype=torch.long)
        with torch.inference_mode(), FlopCounterMode(display=False) as counted:
            encoder(read)
    layers, inner = 4, 60 if kind.startswith("t5") else 48
    crossing = layers * 2 * 48 * inner
    assert shape.encoder.flops(1, source, 0, 0) == counted.get_total_flops() + 2 * source * crossing
    tables = {
        id(t) for m in encoder.modules() for t in m.parameters(recurse=False) if isinstance(m, torch.nn.Embedding)
    }
    own = sum(p.numel() for p in encoder.parameters() if id(p) not in tables)
    buckets = 32 * 6 if kind.startswith("t5") else 0
    assert shape.encoder.parameters == own + buckets + crossing


def test_a_pass_reads_the_encoder_once_and_leaves_keys_and_values_of_cross_attention(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, "t5").with_source(40)
    encoder = shape.encoder
    moved = encoder.bytes_moved(1, 40, 0, "bfloat16", None, 1, 0)
    activations = 40 * (encoder.row_bytes(placed(shape).storage) + 2 * encoder.activation_size)
    # Four layers, keys and values of 6 heads of 10.
    assert moved == 2 * encoder.parameters + activations + 40 * 4 * 2 * 60 * 2
    # Every later pass reads them all.
    longer = shape.with_source(140)
    assert longer.bytes_moved(3, 1, 7, "bfloat16") - shape.bytes_moved(3, 1, 7, "bfloat16") == 3 * 100 * 4 * 2 * 60 * 2
    assert longer.flops(3, 2, 7) - shape.flops(3, 2, 7) == 3 * 2 * 100 * 4 * 6 * 2 * 2 * 10


def pair_of(target: ModelShape, draft: ModelShape) -> ModelPair:
    return ModelPair(
        profile=load_profile("h100-sxm"), target=target, draft=draft, dtype="bfloat16", draft_dtype="bfloat16"
    )


def test_an_encoder_of_the_same_sizes_runs_once_and_the_draft_makes_keys_and_values_of_its_own(tmp_path: Path) -> None:
    target = shape_of(tmp_path / "a", "whisper")
    same, other = shape_of(tmp_path / "b", "whisper", decoder_layers=2), shape_of(tmp_path / "c", "whisper", d_model=96)
    first, second = source_passes(pair_of(target, same))
    assert (first.is_shared, second.is_shared, second.source) == (False, True, 15)
    assert second.placed.shape.parameters == 2 * 2 * 48 * 48
    assert second.placed.shape.flops(1, 15, 0, 0) == 2 * 15 * 2 * 2 * 48 * 48
    _, apart = source_passes(pair_of(target, other))
    assert not apart.is_shared
    assert apart.placed.shape == other.encoder


@pytest.mark.parametrize("kind", ["t5", "whisper"])
def test_the_first_token_of_a_load_waits_for_the_encoder_and_steps_take_it_as_well(kind: str, tmp_path: Path) -> None:
    shape = shape_of(tmp_path, kind)
    whole, without = placed(shape), placed(replace(shape, encoder=None))
    (one,) = source_passes(whole)
    each = float(one.seconds(np.ones(())))
    assert each == pytest.approx(float(one.parts.total_s))
    loads = [steady(p, 1, 1, 20) for p in (whole, without)]
    again = 1 + whole.engine.first_passes
    assert float(loads[0].ttft_s - loads[1].ttft_s) == pytest.approx(each * again)
    assert float(loads[0].tpot_s) == pytest.approx(float(loads[1].tpot_s))
    steps = [step_costs(p, 0, tokens=64, sequences=8) for p in (whole, without)]
    took = []
    for costs in steps:
        totals = no_totals(costs)
        add(costs, totals, 1, 9, 0, False, True)
        decoding = seconds(costs, totals, -1)
        for _ in range(2):
            add(costs, totals, 1, 0, 0, True, True)
        took.append((decoding, seconds(costs, totals, -1)))
    assert took[0][0] == took[1][0]
    assert took[0][1] - took[1][1] == pytest.approx(2 * each)


def test_a_source_is_stated_within_what_the_encoder_reads_and_of_a_model_that_has_one(tmp_path: Path) -> None:
    whisper, t5 = shape_of(tmp_path / "w", "whisper"), shape_of(tmp_path / "t", "t5")
    assert sourced(whisper, None, "--target-model") == whisper
    assert "taken as 512 tokens" in sourced(t5, None, "--target-model").assumed
    stated = sourced(t5, 512, "--target-model")
    assert (stated.source, stated.assumed) == (512, "")
    with pytest.raises(UserError, match="--source: 16, but the encoder of w reads 15 at most"):
        sourced(whisper, 16, "--target-model")
    with pytest.raises(UserError, match=r"--source: 9, but --target-model .* has no encoder"):
        sourced(read_shape("llama-3.1-8b"), 9, "--target-model")


def test_simulate_tells_the_encoders_time_apart(run, tmp_path: Path) -> None:
    target, draft = (tmp_path / name for name in ("target", "draft"))
    shape_of(target, "t5")
    shape_of(draft, "t5", num_decoder_layers=1, num_layers=1)
    told = ("--target-model", target, "--draft-model", draft, "--profile", "h100-sxm", "--context", 20, "--source", 300)
    done = run("simulate", *map(str, told), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    encoder = found["models"]["encoder"]
    assert {name: (e["source"], e["is_shared"]) for name, e in encoder.items()} == {
        "target": (300, False),
        "draft": (300, False),
    }
    assert found["parameters"]["source"] == 300
    text = run("simulate", *map(str, told)).stdout
    assert f"the encoder reads 300 tokens in {encoder['target']['total_ms']:.3g} ms" in text
