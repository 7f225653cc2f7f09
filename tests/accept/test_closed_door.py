"""What comes with a model has no way in, what lies about has none out: pickles, templates, secrets, formulas."""

import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from acceptance.models import load
from acceptance.text import conversation
from acceptance.text.conversation import Framing, end_token, tokens_before
from simulator.ground.artefacts import UserError
from simulator.ground.tables import write_table

SECRET = "hunter2-5f0c"
# Names by which tokens, keys and passwords lie in environments.
PLANTED = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "OPENAI_API_KEY",
    "GITHUB_TOKEN",
    "PGPASSWORD",
)


@pytest.fixture
def pickled(random_pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """The random target with its weights in a pickle alone."""
    folder = tmp_path / "pickled"
    shutil.copytree(random_pair[0], folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickles_are_read_when_asked_for_alone(pickled: Path, random_pair: tuple[Path, Path]) -> None:
    both = {"target": str(pickled), "draft": str(random_pair[1]), "device": "cpu", "dtype": "float32"}
    with pytest.raises(
        UserError, match=r"^--target .*: cannot be loaded \(no weights in safetensors; .*--allow-pickle"
    ):
        load.load_pair(**both)
    there = load.load_pair(**both, allow_pickle=True).target.module.state_dict()
    safe = load_file(random_pair[0] / "model.safetensors")
    assert all(torch.equal(there[name], weights) for name, weights in safe.items())
    # Where there are both, safetensors are read.
    shutil.copy(random_pair[0] / "model.safetensors", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"no pickle")
    load.load_pair(**both)


def test_both_commands_say_how_a_pickle_is_asked_for(run, user_error, pickled: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "the cat"}\n')
    models = ("--target", pickled, "--draft", pickled, "--prompts", "p.jsonl", "--max-new-tokens", 4, "--device", "cpu")
    for command, own in (("measure-acceptance", ("--k", 2)), ("bench-decode", ("--method", "baseline"))):
        user_error(run(command, *models, *own), "--target", "--allow-pickle")
        assert run(command, *models, *own, "--allow-pickle").returncode == 0


def test_a_template_without_an_end_is_ended(random_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_pair[0])
    framing = Framing(chat_template=True)
    loops = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    monkeypatch.setattr(conversation, "TEMPLATE_S", 0.1)
    tokenizer.chat_template = loops
    for frame in (
        lambda: tokens_before(tokenizer, framing, ["the cat"], []),
        lambda: end_token(tokenizer, framing, [0, 1]),
    ):
        with pytest.raises(
            UserError, match=r"the template refuses these messages \(it has not come to an end in 0.1 s\)"
        ):
            frame()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert tokens_before(tokenizer, framing, ["the cat"], []) == tokenizer("the cat").input_ids


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no limits of memory here")
@pytest.mark.parametrize(
    "greedy", ["{{ 'a' * 2000000000 }}", "{% set n = namespace(x='a' * 9999) %}" + "{% set n.x = n.x * 99 %}" * 3]
)
def test_a_template_that_takes_much_memory_is_ended(random_pair: tuple[Path, Path], greedy: str) -> None:
    tokenizer, before = AutoTokenizer.from_pretrained(random_pair[0]), resource.getrlimit(resource.RLIMIT_AS)
    tokenizer.chat_template = greedy
    with pytest.raises(UserError, match=r"the template refuses these messages \(it takes more than 256 MiB\)$"):
        tokens_before(tokenizer, Framing(chat_template=True), ["the cat"], [])
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    tokenizer.chat_template = "{{ ('a' * 20000000)[:3] }}"  # what is no more than that is let be
    assert tokens_before(tokenizer, Framing(chat_template=True), ["the cat"], []) == tokenizer("aaa").input_ids


def test_cells_of_text_are_no_formulas(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain", "a=1", None]
    write_table(tmp_path / "t.csv", {"name": texts, "x": [-1.5] * len(texts)})
    rows = (tmp_path / "t.csv").read_text().splitlines()[1:]
    assert rows[:4] == ["'=1+1,-1.5", "'+1,-1.5", "'-1,-1.5", "'@SUM(A1),-1.5"]
    assert rows[-3:] == ["plain,-1.5", "a=1,-1.5", ",-1.5"]
    assert not any(row.startswith(('"=', '"\t', '"\r')) for row in rows)


def test_no_secret_of_the_environment_gets_into_a_file(
    run, quick_probe: None, random_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "the cat"}\n{"prompt": "sat on"}\n')
    env = {name: f"{SECRET}-{name}" for name in PLANTED} | {"SPECSIM_DEBUG": "1"}
    pair = ("--target", random_pair[0], "--draft", random_pair[1], "--prompts", "p.jsonl", "--max-new-tokens", 6)
    calls = (
        ("measure-acceptance", *pair, "--k", 2, "--out-dir", "measured", "--json"),
        ("bench-decode", *pair, "--method", "baseline,speculative", "--k", 2, "--json"),
        ("probe-gpu", "--device", "cpu", "--only", "empty", "--csv", "probe.csv", "--json"),
        ("simulate", "--hist", "measured", "--draftN", 2, "--json", "--csv", "runs.csv", "--trace-out", "line.json"),
        ("sweep", "--alpha", "0.6,0.8", "--draftN", "1:2", "--out", "sweep.csv", "--json"),
    )
    for command, *words in calls:
        done = run(command, *words, **env)
        assert done.returncode == 0, done
        assert SECRET not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 9
    (tmp_path / "control").write_text(SECRET)
    assert [path.name for path in (*files, tmp_path / "control") if SECRET.encode() in path.read_bytes()] == ["control"]
