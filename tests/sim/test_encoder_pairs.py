"""Models with an encoder on the command line: which drafts they can have, their context, and what their files lack."""

import json
from pathlib import Path

import pytest

from simulator.costs.shapes import read_shape
from simulator.ground.artefacts import UserError

from .test_families import BART, T5, WHISPER

LONG = {"whisper": WHISPER | {"max_target_positions": 448}, "bart": BART | {"max_position_embeddings": 1024}, "t5": T5}
ON = ("--profile", "h100-sxm", "--alpha", "0.8")


def file_of(folder: Path, kind: str, name: str = "", **beside: object) -> str:
    path = folder / f"{name or kind}.json"
    path.write_text(json.dumps({"model_type": kind, **LONG[kind], **beside}))
    return str(path)


def answer(run, *args: str) -> tuple[int, str, str]:
    done = run(*args)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "rest"),
    [
        ("simulate", ()),
        ("simulate", ("--compare",)),
        ("sweep", ()),
        ("simulate-serving", ("--rate", "5")),
        ("advise", ("--rate", "5", "--engine", "vllm")),
    ],
)
def test_a_draft_of_another_kind_is_refused_everywhere_in_one_line(command: str, rest, run, tmp_path: Path) -> None:
    whisper = file_of(tmp_path, "whisper")
    told = ("--target-model", "llama-3.1-8b", "--draft-model", whisper, "--profile", "h100-sxm")
    code, out, said = answer(run, command, *told, *rest)
    assert (code, out) == (2, "")
    assert said == (
        f"{command}: --draft-model {whisper}: an encoder-decoder (whisper), but --target-model llama-3.1-8b "
        "is a decoder alone, expected two of a kind\n"
    )


def test_only_drafts_of_the_same_kind_stand_beside_an_encoder(run, tmp_path: Path) -> None:
    whisper, bart, t5 = (file_of(tmp_path, kind) for kind in LONG)
    for target, draft, words in (
        (whisper, "llama-3.2-1b", "a decoder alone, but"),
        (bart, t5, "an encoder-decoder (t5), but"),
        (t5, whisper, "is an encoder-decoder (t5), expected two of a kind"),
    ):
        code, _, said = answer(run, "simulate", "--target-model", target, "--draft-model", draft, *ON)
        assert code == 2, draft
        assert words in said
    # A kin by another name is one of them.
    kin = tmp_path / "kin.json"
    kin.write_text(json.dumps({"model_type": "mt5", **T5}))
    assert read_shape(kin).kind == read_shape(t5).kind
    assert answer(run, "simulate", "--target-model", t5, "--draft-model", str(kin), *ON)[0] == 0


@pytest.mark.parametrize("method", ["eagle3", "dflash", "medusa", "mtp", "lookahead", "pard"])
def test_a_method_for_decoders_alone_is_refused_of_a_target_with_an_encoder(method: str, run, tmp_path: Path) -> None:
    code, _, said = answer(run, "simulate", "--target-model", file_of(tmp_path, "whisper"), "--method", method, *ON)
    assert code == 2
    others = "expected a --draft-model that has one as well, or ngram, ngram_gpu, suffix"
    assert said == f"simulate: --method {method}: whisper has an encoder, {others}\n"


def test_a_comparison_has_what_can_draft_beside_an_encoder_and_says_the_rest_once(run, tmp_path: Path) -> None:
    told = ("--target-model", file_of(tmp_path, "whisper"), "--compare", *ON)
    code, out, said = answer(run, "simulate", *told, "--json")
    assert code == 0, said
    found = json.loads(out)
    assert {m["method"] for m in found["methods"]} == {"ngram", "ngram_gpu", "suffix"}
    assert found["not_compared"]["eagle3"] == found["not_compared"]["mtp"] == "whisper has an encoder"
    assert found["parameters"]["context"] == 448 - 16
    assert "beyond" not in answer(run, "simulate", *told)[1]
    draft = file_of(tmp_path, "whisper", "small", decoder_layers=1)
    out = answer(run, "simulate", *told, "--draft-model", draft, "--json")[1]
    assert {m["method"] for m in json.loads(out)["methods"]} == {"draft_model", "ngram", "ngram_gpu", "suffix"}
    # Under a load the decoder begins with one token, as in `simulate` of one method.
    assert "clients with 1 tokens in and 256 out" in answer(run, "simulate", *told, "--concurrency", "2")[1]


def test_a_stated_context_beyond_the_model_is_said_once_in_a_comparison(run) -> None:
    out = answer(run, "simulate", "--target-model", "qwen3-8b", "--compare", "--context", "90000", *ON)[1]
    assert " ".join(out.split()).count("is beyond the 40,960 tokens") == 1


def test_the_context_where_nobody_states_one_is_within_the_decoders_positions(run, tmp_path: Path) -> None:
    for kind, usual, longer in (("whisper", 448 - 16, 448 - 20), ("bart", 1024 - 16, 1024 - 20), ("t5", 1024, 1024)):
        target = file_of(tmp_path, kind)
        draft = file_of(tmp_path, kind, "draft", decoder_layers=1, num_decoder_layers=1)
        told = ("simulate", "--target-model", target, "--draft-model", draft, *ON)
        for more, context in (((), usual), (("--draftN", "20"), longer)):
            code, out, said = answer(run, *told, *more, "--json")
            assert code == 0, said
            assert json.loads(out)["parameters"]["context"] == context
    whisper = ("--target-model", str(tmp_path / "whisper.json"), "--method", "ngram", *ON)
    assert "context 500 is beyond the 448 tokens" in answer(run, "simulate", *whisper, "--context", "500")[1]
    assert "beyond the 448" not in answer(run, "sweep", *whisper, "--draftN", "2,20")[1]


@pytest.mark.parametrize(
    ("kind", "key"), [("whisper", "encoder_layers"), ("bart", "encoder_ffn_dim"), ("t5", "num_layers")]
)
def test_a_file_has_to_state_its_encoder(kind: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind} | {k: v for k, v in LONG[kind].items() if k != key}))
    with pytest.raises(UserError, match=f"{key} is missing, expected a whole number from 1 to"):
        read_shape(path)


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    alone = file_of(tmp_path, "t5", architectures=["T5EncoderModel"])
    with pytest.raises(UserError, match=r"architectures is \['T5EncoderModel'\], expected one that decodes"):
        read_shape(alone)
    assert read_shape(file_of(tmp_path, "t5", architectures=["T5ForConditionalGeneration"])).encoder


def test_an_encoder_that_both_use_lies_in_memory_once(run, tmp_path: Path) -> None:
    target = file_of(tmp_path, "whisper")
    held = []
    for name, beside in (("same", {}), ("other", {"encoder_ffn_dim": 45})):
        draft = file_of(tmp_path, "whisper", name, decoder_layers=1, **beside)
        told = ("simulate", "--target-model", target, "--draft-model", draft, *ON, "--json")
        held.append(json.loads(answer(run, *told)[1])["models"]["memory"]["bytes_per_device"])
    encoder = read_shape(target).encoder
    crossing = sum(m.weights for m in encoder.matrices if m.parts[0][0].startswith("encoder_attn."))
    # Each of 3 layers of the other has a row more of either matrix, and of a bias.
    assert held[1] - held[0] == 2 * (encoder.parameters - crossing + 3 * (2 * 48 + 1))
