"""vLLM's own SpeculativeConfig takes what is written for it, and reads a schedule and an acceptance as we do.

Where vLLM is installed: PYTHON=/a/venv/bin/python make test-vllm.
"""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="asks vLLM itself, in an environment of its own: make test-vllm")

from vllm.config import ModelConfig, ParallelConfig, SpeculativeConfig
from vllm.config import speculative as module
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from simulator.costs.drafters.methods import methods
from simulator.costs.engines import vllm as ours
from simulator.costs.engines.settings import Recommended

ROWS = ((1, 8, 4), (9, 64, 2), (65, 256, 0))
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 4}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 128, "vocab_size": 256}
LLAMA |= {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16"}
BLOCK = {"model_type": "qwen3", "num_hidden_layers": 2, "block_size": 8}
BLOCK |= {"dflash_config": {"target_layer_ids": [1, 2], "mask_token_id": 5}}
EAGLE3 = {"architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1, "draft_vocab_size": 128}
# Of a drafter's config.json, what its target's has in another way. A method that is not here has no drafter.
DRAFTERS: dict[str, dict[str, Any]] = {
    "draft_model": {"num_hidden_layers": 2},
    "pard": {"num_hidden_layers": 2, "pard_token": 200},
    "eagle": {"num_hidden_layers": 1},
    "eagle3": EAGLE3,
    "peagle": EAGLE3 | {"num_hidden_layers": 4},
    "dflash": BLOCK | {"architectures": ["DFlashDraftModel"]},
    "dspark": BLOCK | {"architectures": ["DSparkDraftModel"], "markov_rank": 16},
    "dflash2": BLOCK | {"architectures": ["DFlash2DraftModel"]},
    "medusa": {"model_type": "medusa", "architectures": ["MedusaModel"], "num_heads": 4},
}
SPOKEN = [name for name, method in methods().items() if method.engines.vllm]


def model(folder: Path, **own: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | own))
    return str(folder)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, ModelConfig]:
    """A target without, and one with a module of its own that drafts."""
    folder = tmp_path_factory.mktemp("targets")
    own = {"architectures": ["MiMoForCausalLM"], "model_type": "qwen2", "num_nextn_predict_layers": 1}
    folders = {False: model(folder / "plain"), True: model(folder / "own", **own)}
    return {own: ModelConfig(model=name, skip_tokenizer_init=True) for own, name in folders.items()}


@pytest.mark.parametrize("name", SPOKEN)
def test_vllm_takes_what_is_written_for_it(name: str, targets, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "has_arctic_inference", lambda: True)
    method = methods()[name]
    assert method.engines.needs_model == (name in DRAFTERS)
    draft = model(tmp_path / "draft", **DRAFTERS[name]) if name in DRAFTERS else None
    said = Recommended(method=method, draft=draft, rows=ROWS, devices=2, draft_devices=1, draft_length=4)
    settings = ours.written(said).settings
    assert settings is not None
    target = targets[name == "mtp"]
    taken = SpeculativeConfig(**settings, target_model_config=target, target_parallel_config=ParallelConfig())
    assert (taken.method, taken.num_speculative_tokens) == (method.engines.vllm["method"], 4)
    assert taken.uses_dynamic_speculative_decoding()
    # The same settings, read by both: methods, and draft lengths at every batch size.
    read = ours.read(json.dumps(settings))
    assert methods()[str(read.options["method"].value)].engines.vllm == method.engines.vllm
    lookup = build_dynamic_sd_schedule_lookup(settings["num_speculative_tokens_per_batch_size"], 300, 4)
    assert lookup[1:] == [ours.at_batch(read.schedule, batch) for batch in range(1, 301)]
    with pytest.raises(ValueError, match="num_spec_tokens"):
        SpeculativeConfig(**settings | {"num_spec_tokens": 4}, target_model_config=target)


def test_gaps_of_a_schedule_are_read_as_vllm_reads_them() -> None:
    rows = [[40, 60, 9], [1, 8, 3], [20, 30, 0]]
    read = ours.read(json.dumps({"method": "eagle3", "num_speculative_tokens": 4} | {ours.OURS[3]: rows}))
    lookup = build_dynamic_sd_schedule_lookup(rows, 100, 4)
    assert lookup[1:] == [ours.at_batch(read.schedule, batch) for batch in range(1, 101)]


@pytest.mark.parametrize("law", [{"rates": [0.9, 0.5, 0.5]}, {"length": 1.0}, {"length": 3.25}, {"length": 4.0}])
def test_acceptance_is_read_as_vllm_reads_it(law: dict[str, Any], targets) -> None:
    settings = {"method": "ngram", "num_speculative_tokens": 3, "rejection_sample_method": "synthetic"}
    settings |= {f"synthetic_acceptance_{kind}": value for kind, value in law.items()}
    plain = {"target_model_config": targets[False], "target_parallel_config": ParallelConfig()}
    taken = SpeculativeConfig(**settings, **plain)
    read = ours.read(json.dumps(settings | {"method": "eagle3"}))
    assert list(read.survival) == pytest.approx(taken.synthetic_acceptance_rates)
