"""Writing and scoring with real transformers models: positions, padding, ends, temperatures."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from acceptance import models
from acceptance.measure import batch_seed, measure
from acceptance.prompts import Prompt
from simulator.artefacts import UserError

PROMPTS = ["w1 w2 w3", "w9", "w4 w4 w7 w8 w12 w30 w2", "w21 w22"]


@pytest.fixture(scope="module")
def pair(random_pair: tuple[Path, Path]) -> models.Pair:
    target, draft = random_pair
    return models.load_pair(str(target), str(draft), device="cpu", dtype="float32")


def write(pair: models.Pair, temperature: float = 0.0, prompts: list[str] = PROMPTS, n: int = 12, seed: int = 0):
    return models.write(pair, prompts, temperature=temperature, max_new_tokens=n, seed=seed)


def rows_of(pair: models.Pair, written: models.Written) -> list[tuple[list[int], list[int]]]:
    """Return (prompt ids, output ids) of each row, without padding."""
    rows = []
    for ids, mask in zip(written.ids, written.mask, strict=True):
        kept = ids[mask.bool()].tolist()
        prompt = int(mask[: written.prompt_columns].sum())
        rows.append((kept[:prompt], kept[prompt:]))
    return rows


@torch.inference_mode()
def step_by_step(model, prompt: list[int], output: list[int], temperature: float) -> tuple[list[float], list[int]]:
    """Score an output one prefix at a time, unpadded: the plain meaning of q(x_t | x_<t)."""
    logs, firsts = [], []
    for t, token in enumerate(output):
        logits = model(torch.tensor([prompt + output[:t]])).logits[0, -1].double()
        logs.append((logits / temperature).log_softmax(0)[token].item())
        firsts.append(int(logits.argmax()))
    return logs, firsts


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_scores_are_those_of_the_unpadded_prefixes(pair: models.Pair, temperature: float) -> None:
    written = write(pair, temperature)
    log_q, is_first = models.log_probabilities(pair.draft, written, temperature)
    for row, (prompt, output) in enumerate(rows_of(pair, written)):
        logs, firsts = step_by_step(pair.draft, prompt, output, temperature or 1.0)
        assert log_q[row].tolist() == pytest.approx(logs, abs=1e-4)
        assert is_first[row].tolist() == [f == x for f, x in zip(firsts, output, strict=True)]


def test_models_with_absolute_positions_are_scored_right_in_a_padded_batch(pair: models.Pair) -> None:
    torch.manual_seed(4)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    ends = {"bos_token_id": None, "eos_token_id": None}
    absolute = GPT2LMHeadModel(GPT2Config(vocab_size=len(pair.tokenizer), **shape, **ends)).eval()
    written = write(pair)
    log_q, _ = models.log_probabilities(absolute, written, 0.0)
    for row, (prompt, output) in enumerate(rows_of(pair, written)):
        assert log_q[row].tolist() == pytest.approx(step_by_step(absolute, prompt, output, 1.0)[0], abs=1e-4)


def test_greedy_text_is_the_targets_first_choice_everywhere(pair: models.Pair) -> None:
    for prompt, output in rows_of(pair, write(pair)):
        assert step_by_step(pair.target, prompt, output, 1.0)[1] == output


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_accepts_all_of_its_own_text_unless_logits_are_read_one_position_late(
    pair: models.Pair, temperature: float
) -> None:
    """The fault of the system this replaces: logits at a token's own column predict the next token."""
    own = dataclasses.replace(pair, draft=pair.target)
    written = write(own, temperature, n=24)
    assert models.acceptance_probabilities(own, written, temperature) == pytest.approx(1, abs=1e-5)

    with torch.inference_mode():
        logits = pair.target(input_ids=written.ids, attention_mask=written.mask).logits
    late = logits[:, written.prompt_columns :].argmax(-1) == written.ids[:, written.prompt_columns :]
    assert late.float().mean() < 0.5


def test_sampling_acceptance_is_the_ratio_of_the_models_probabilities(pair: models.Pair) -> None:
    written = write(pair, 1.0)
    accept = models.acceptance_probabilities(pair, written, 1.0)
    for row, (prompt, output) in enumerate(rows_of(pair, written)):
        q, p = (np.array(step_by_step(m, prompt, output, 1.0)[0]) for m in (pair.draft, pair.target))
        assert accept[row] == pytest.approx(np.minimum(1, np.exp(q - p)), abs=1e-4)


@pytest.mark.statistical
def test_mean_acceptance_of_sampled_text_is_the_overlap_of_both_distributions(pair: models.Pair) -> None:
    """E over x ~ p of min(1, q/p) is sum min(p, q), for the first token after one prompt."""
    trials = 4000
    written = write(pair, 1.0, ["w5 w6"] * trials, n=1)
    accept = models.acceptance_probabilities(pair, written, 1.0)[:, 0]
    ids = torch.tensor([pair.tokenizer("w5 w6").input_ids])
    with torch.inference_mode():
        p, q = (m(ids).logits[0, -1].double().softmax(0) for m in (pair.target, pair.draft))
    overlap = torch.minimum(p, q).sum().item()
    error = accept.std(ddof=1) / np.sqrt(trials)
    assert abs(accept.mean() - overlap) <= 4 * error
    # Negative control: the acceptance of a greedy draft, p(argmax q), is another number.
    assert abs(accept.mean() - p[q.argmax()].item()) > 4 * error


def test_a_prompt_measures_the_same_alone_and_in_a_ragged_batch(pair: models.Pair) -> None:
    settings = {"temperature": 0.0, "max_new_tokens": 10, "seed": 0, "progress": lambda _: None}
    prompts = [Prompt(text=t, source="") for t in PROMPTS]
    together = measure(pair, prompts, **settings)
    for i, prompt in enumerate(prompts):
        alone = measure(pair, [prompt], **settings)
        mine = together.prompt == i
        assert together.token[mine].tolist() == alone.token.tolist()
        assert together.accept[mine].tolist() == alone.accept.tolist()
        assert together.context_length[mine].tolist() == alone.context_length.tolist()
        assert together.position[mine].tolist() == list(range(10))


def test_outputs_end_with_their_end_token_and_nothing_behind_it_is_measured(pair: models.Pair) -> None:
    plain = rows_of(pair, write(pair, n=20))
    end = plain[0][1][4]
    before = pair.target.generation_config.eos_token_id
    pair.target.generation_config.eos_token_id = [end]
    try:
        written = write(pair, n=20)
    finally:
        pair.target.generation_config.eos_token_id = before
    trace = models.trace_of(pair, written, 0.0, 0)
    for i, (_, output) in enumerate(plain):
        expected = output[: output.index(end) + 1] if end in output else output
        assert trace.token[trace.prompt == i].tolist() == expected
    assert written.lengths[0] == plain[0][1].index(end) + 1


def test_output_lengths_include_the_first_end() -> None:
    outputs = torch.tensor([[5, 9, 9, 9], [9, 1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 8]])
    assert models.output_lengths(outputs, [9, 8]).tolist() == [2, 1, 4, 4]
    assert models.output_lengths(outputs, []).tolist() == [4, 4, 4, 4]


def test_the_models_own_sampling_habits_do_not_change_the_law(pair: models.Pair) -> None:
    expected = write(pair, 1.0).ids
    habits = pair.target.generation_config
    original = {k: getattr(habits, k) for k in ("top_k", "top_p", "repetition_penalty", "temperature")}
    habits.update(top_k=1, top_p=0.1, repetition_penalty=5.0, temperature=0.01)
    try:
        assert (write(pair, 1.0).ids == expected).all()
        assert habits is pair.target.generation_config
    finally:
        habits.update(**original)


def test_sampling_follows_its_seed_and_leaves_the_callers_random_state(pair: models.Pair) -> None:
    state = torch.get_rng_state()
    first, again, other = (write(pair, 1.0, seed=s).ids for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (torch.get_rng_state() == state).all()


def test_half_precision_weights_are_scored_in_fp32(random_pair: tuple[Path, Path]) -> None:
    target, draft = random_pair
    half = models.load_pair(str(target), str(draft), device="cpu", dtype="bfloat16")
    assert half.target.dtype is torch.bfloat16
    log_q, _ = models.log_probabilities(half.draft, write(half), 0.0)
    assert log_q.dtype is torch.float32
    # Computed in fp32, not rounded to it: values off the grid of bfloat16.
    assert (log_q != log_q.bfloat16().float()).float().mean() > 0.5


def test_different_vocabularies_are_one_clear_error(random_pair: tuple[Path, Path], other_vocabulary: Path) -> None:
    with pytest.raises(UserError) as error:
        models.load_pair(str(random_pair[0]), str(other_vocabulary), device="cpu", dtype="float32")
    for text in ("--draft", str(other_vocabulary), "vocabulary differs", "'w0' is 2 and 1", "expected the same"):
        assert text in str(error.value)


def test_a_prompt_beyond_the_context_or_without_tokens_is_refused(pair: models.Pair) -> None:
    prompts = [Prompt(text="w1 w2", source="p:1"), Prompt(text="w1 w2 w3", source="p:2")]
    models.check_prompts(pair, prompts, 125)
    with pytest.raises(UserError, match=r"the prompt of p:2 has 3 tokens, expected 1 to 2"):
        models.check_prompts(pair, prompts, 126)
    with pytest.raises(UserError, match=r"--max-new-tokens: 128 leaves no room .* expected at most 127"):
        models.check_prompts(pair, prompts, 128)
    with pytest.raises(UserError, match="the prompt of p:3 has 0 tokens"):
        models.check_prompts(pair, [*prompts, Prompt(text=" ", source="p:3")], 8)


def test_no_batch_of_one_seed_repeats_a_batch_of_another() -> None:
    assert len({batch_seed(seed, batch) for seed in range(50) for batch in range(50)}) == 2500


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(random_pair: tuple[Path, Path], name: str) -> None:
    with pytest.raises(UserError, match=f"--target {name}: no such folder"):
        models.load_pair(name, str(random_pair[1]), device="cpu", dtype="float32")


def test_a_folder_without_a_model_is_one_line(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"--draft .*: cannot be loaded") as error:
        models.load_pair(str(random_pair[0]), str(tmp_path), device="cpu", dtype="float32")
    assert "\n" not in str(error.value)


def test_a_truncated_weight_file_is_one_line(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    broken = shutil.copytree(random_pair[1], tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"--draft .*: cannot be loaded") as error:
        models.load_pair(str(random_pair[0]), str(broken), device="cpu", dtype="float32")
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers_are_not_measured(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    broken = shutil.copytree(random_pair[1], tmp_path / "nan")
    model = LlamaForCausalLM.from_pretrained(broken)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(broken)
    with pytest.raises(UserError, match=r"--draft .*: cannot be loaded \(its weights hold NaN or infinity\)"):
        models.load_pair(str(random_pair[0]), str(broken), device="cpu", dtype="float32")


def test_any_cpu_is_a_cpu() -> None:
    assert models.pick_dtype("auto", "cpu:0") == "float32"
    assert models.pick_dtype("auto", "cuda:0") == "bfloat16"


def test_an_absent_device_is_named() -> None:
    with pytest.raises(UserError, match="'meta' is not here"):
        models.pick_device("meta")
    with pytest.raises(UserError, match=r"--device: 'cuda:7' is not here, expected auto or one of cpu"):
        models.pick_device("cuda:7")
    with pytest.raises(UserError, match="'toaster' is not here"):
        models.pick_device("toaster")
