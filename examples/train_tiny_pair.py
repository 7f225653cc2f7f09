"""Train the bundled draft/target pair: two small Llama models over one byte-level BPE.

Data are the Python standard library's own sources (PSF licence), split by file. The target is trained
on next-token loss, the draft is distilled from the target. Each stage is skipped when its folder
already holds weights, so an interrupted run is continued by running the same command again.

    python examples/train_tiny_pair.py --out acceptance/tiny_pair          # two cores, about an hour
    python examples/train_tiny_pair.py --out big --device cuda --compile \
        --target-shape 1024x16 --draft-shape 256x4 --vocab-size 8192 --batch-size 64

This script makes models; what they accept is measured by `measure-acceptance`.
"""

import contextlib
import hashlib
import json
import math
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from training import Recipe, count_parameters, train
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
# Code tables and reference texts: large, and nothing a prompt would come from.
LEFT_OUT = ("site-packages", "encodings", "pydoc_data", "__pycache__")
HELD_OUT_ONE_IN = 16


def is_held_out(relative_path: str) -> bool:
    """Say whether a source file belongs to the held-out split: a fixed hash of its path decides."""
    return int(hashlib.sha256(relative_path.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def read_texts(root: Path, pattern: str = "*") -> dict[str, str]:
    """Return {relative path: text} of every UTF-8 file below `root`, but for empty ones."""
    texts = {}
    for path in sorted(p for p in root.rglob(pattern) if p.is_file()):
        with contextlib.suppress(UnicodeDecodeError):
            texts[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    return {path: text for path, text in texts.items() if text.strip()}


def read_sources(root: Path) -> dict[str, str]:
    """Return {relative path: text} of every UTF-8 Python file below `root` that is worth learning."""
    texts = read_texts(root, "*.py")
    unfit = {path for path in texts for part in path.split("/") if part in LEFT_OUT or part.startswith("config-")}
    sources = {path: text for path, text in texts.items() if path not in unfit}
    if not sources:
        raise click.ClickException(f"--source {root}: no readable .py file below it")
    return sources


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE; every string can be encoded, and decoding gives it back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Join the texts into one stream of token ids, each followed by the end-of-text token."""
    eos = tokenizer.eos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    return torch.tensor([i for one in encoded for i in (*one.ids, eos)], dtype=torch.int64)


def llama(shape: str, vocab_size: int, max_len: int, head_dim: int) -> LlamaForCausalLM:
    """Build an untrained Llama from `HIDDENxLAYERS`, with tied embeddings and two query heads a KV head."""
    try:
        hidden, layers = (int(n) for n in shape.split("x"))
    except ValueError:
        raise click.ClickException(f"shape {shape!r}: expected HIDDENxLAYERS, such as 256x5") from None
    heads = max(hidden // head_dim, 1)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=math.ceil(hidden * 8 / 3 / 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 2, 1),
        head_dim=hidden // heads,
        max_position_embeddings=max_len,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def batches(stream: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Yield `[batch, seq_len + 1]` windows cut at random places of the token stream, without end."""
    rng = np.random.default_rng(recipe.seed)
    offsets = torch.arange(recipe.seq_len + 1)
    while True:
        starts = rng.integers(0, len(stream) - recipe.seq_len - 1, recipe.batch_size)
        yield stream[torch.from_numpy(starts)[:, None] + offsets].to(recipe.device)


def next_token_loss(model: LlamaForCausalLM, window: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each next token, nats."""
    logits = model(window[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


def distillation_loss(
    target: LlamaForCausalLM,
) -> Callable[[LlamaForCausalLM, torch.Tensor], torch.Tensor]:
    """KL(target || draft) over the vocabulary at every position, nats (Hinton et al. 2015, T = 1)."""

    def loss(draft: LlamaForCausalLM, window: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            log_p = target(window[:, :-1], use_cache=False).logits.float().log_softmax(-1).flatten(0, 1)
        log_q = draft(window[:, :-1], use_cache=False).logits.float().log_softmax(-1).flatten(0, 1)
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    return loss


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, stream: torch.Tensor, recipe: Recipe) -> float:
    """Mean next-token loss in nats over the held-out stream, in fp32, in windows of `seq_len`."""
    model.to(recipe.device).eval()
    usable = (len(stream) - 1) // recipe.seq_len * recipe.seq_len
    windows = stream[: usable + 1].unfold(0, recipe.seq_len + 1, recipe.seq_len).to(recipe.device)
    total = sum(next_token_loss(model, w).item() * len(w) for w in windows.split(recipe.batch_size))
    return total / len(windows)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, record: dict) -> None:
    """Write fp16 weights, tokenizer and the training record, weights last: they mark the stage as done."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    model.to("cpu", torch.float16).save_pretrained(out)


def load(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def cut_prompts(held_out: dict[str, str], count: int, seed: int) -> list[dict]:
    """Cut `count` prompts from held-out files: about 400 characters ending with a whole line, none twice."""
    rng = np.random.default_rng(seed)
    paths = [p for p in sorted(held_out) if len(held_out[p]) > 2000]
    chosen = rng.permutation(len(paths))[:count]
    prompts = []
    for path in sorted(paths[i] for i in chosen):
        lines = held_out[path].splitlines(keepends=True)
        first = int(rng.integers(0, max(len(lines) - 20, 1)))
        text, last = "", first
        while last < len(lines) and len(text) < 400:
            text += lines[last]
            last += 1
        prompts.append({"prompt": text, "source": f"{path}:{first + 1}-{last}"})
    return prompts


def describe_data(sources: dict[str, str], held_out: dict[str, str]) -> dict:
    digest = hashlib.sha256("".join(f"{p}\0{t}\0" for p, t in sorted(sources.items())).encode())
    return {
        "corpus": f"CPython {platform.python_version()} standard library sources (PSF licence)",
        "files_train": len(sources) - len(held_out),
        "files_held_out": len(held_out),
        "bytes": sum(len(t.encode()) for t in sources.values()),
        "sha256": digest.hexdigest(),
        "split": f"held out when sha256(relative path) mod {HELD_OUT_ONE_IN} == 0",
        "left_out": list(LEFT_OUT),
    }


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=sysconfig.get_path("stdlib"),
    help="Folder of Python sources to learn from.",
)
@click.option("--vocab-size", default=2048, help="Tokens in the BPE vocabulary.")
@click.option("--target-shape", default="256x5", help="Target as HIDDENxLAYERS.")
@click.option("--draft-shape", default="128x2", help="Draft as HIDDENxLAYERS.")
@click.option("--target-steps", default=2500, help="Training steps of the target.")
@click.option("--draft-steps", default=2000, help="Distillation steps of the draft.")
@click.option("--batch-size", default=16, help="Sequences a step.")
@click.option("--seq-len", default=512, help="Tokens a sequence.")
@click.option("--learning-rate", default=4e-3, help="Peak rate of both optimisers.")
@click.option("--prompts", default=48, help="Held-out prompts to cut.")
@click.option("--device", default="cpu", help="torch device, such as cpu or cuda:0.")
@click.option("--compile/--no-compile", default=False, help="Compile the models; worth it for long runs.")
@click.option("--seed", default=20, help="Seed of weights, batches and prompts.")
def main(out: Path, source: Path, target_steps: int, draft_steps: int, prompts: int, **options) -> None:
    """Train tokenizer, target and draft, and write them with held-out prompts below --out."""
    sources = read_sources(source)
    held_out = {p: t for p, t in sources.items() if is_held_out(p)}
    learned = [t for p, t in sources.items() if p not in held_out]
    recipe = Recipe(
        steps=target_steps,
        **{k: options[k] for k in ("batch_size", "seq_len", "learning_rate", "device", "seed", "compile")},
    )
    if (out / "target" / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "target")
    else:
        tokenizer = train_tokenizer(iter(learned), options["vocab_size"])
    stream, held_out_stream = encode(tokenizer, learned), encode(tokenizer, list(held_out.values()))
    data = describe_data(sources, held_out) | {
        "tokens_train": len(stream),
        "tokens_held_out": len(held_out_stream),
    }
    click.echo(json.dumps(data, indent=2), err=True)

    rows = []
    stages = (("target", options["target_shape"], 64), ("draft", options["draft_shape"], 32))
    for name, shape, head_dim in stages:
        folder = out / name
        if not (folder / "model.safetensors").exists():
            torch.manual_seed(recipe.seed)
            model = llama(shape, len(tokenizer), 2 * recipe.seq_len, head_dim)
            click.echo(f"{name}: {count_parameters(model):,} parameters", err=True)
            if name == "target":
                record = train(model, next_token_loss, batches(stream, recipe), recipe)
            else:
                teacher = load(out / "target").to(recipe.device).eval()
                recipe = Recipe(**asdict(recipe) | {"steps": draft_steps})
                record = train(model, distillation_loss(teacher), batches(stream, recipe), recipe)
            record |= {"data": data, "parameters": count_parameters(model), "torch": torch.__version__}
            record["held_out_loss_nats"] = held_out_loss(model, held_out_stream, recipe)
            save(model, tokenizer, folder, record)
        record = json.loads((folder / "training.json").read_text())
        rows.append((name, record["parameters"], record["steps"], record["held_out_loss_nats"], record["training_s"]))
    (out / "prompts.jsonl").write_text(
        "".join(json.dumps(p) + "\n" for p in cut_prompts(held_out, prompts, options["seed"]))
    )
    click.echo(f"{'model':8}{'parameters':>12}{'steps':>8}{'held-out nats/token':>22}{'seconds':>10}")
    for name, parameters, steps, loss, seconds in rows:
        click.echo(f"{name:8}{parameters:>12,}{steps:>8}{loss:>22.4f}{seconds:>10.0f}")


if __name__ == "__main__":
    main()
