"""Train Medusa heads and an EAGLE head for a target: small modules that draft from its own hidden states.

Both are distilled: at every position of the text the target's law is what they learn. The target stays as it is. By
default they are trained for the bundled target, on the files that it learned from itself.

    python examples/train_heads.py --out acceptance/tiny_pair/heads            # two cores, about 25 minutes
    python examples/train_heads.py --target FOLDER --text FOLDER --out heads --device cuda

Text is cut into the target's own tokens; of `--text` every UTF-8 file counts. A file is held out when the SHA-256 of
its path is divisible by 16. A kind whose folder already holds weights is skipped. What the heads accept is measured by
`bench-decode`.
"""

import hashlib
import json
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from train_tiny_pair import (
    Recipe,
    count_parameters,
    describe_data,
    encode,
    is_held_out,
    read_sources,
    read_texts,
    train,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

import acceptance
from acceptance.decoders import heads
from acceptance.decoders.medusa import choose_tree
from acceptance.models.model import Model, end_tokens, vocabulary_of

TARGET = Path(acceptance.__file__).parent / "tiny_pair" / "target"
# EAGLE §4: noise on the features, here as a share of their spread; smooth L1 beside the cross entropy.
FEATURE_NOISE, FEATURE_WEIGHT = 0.1, 1.0
# Steps of its own features fed back in training (HASS, arXiv 2408.15766; EAGLE-3, arXiv 2503.01840).
STEPS_FED_BACK = 3
MEASURED_DEPTH = 4
TREE_NODES, TREE_RANKS = 64, 10
MEASURED_WINDOWS = 256

Loss = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


def load_target(folder: Path, device: str) -> Model:
    """Load a target in fp32, frozen."""
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval().requires_grad_(False)
    return Model(module=module, vocabulary=vocabulary_of(module), ends=tuple(end_tokens(module)))


def weights_sha256(folder: Path) -> str:
    """Return the hash of the target's weights, of one file or several."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@torch.no_grad()
def read(target: Model, window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target's hidden states and its laws of the next token at every position of a window."""
    hidden = target.module(window, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states[-1]
    return hidden, heads.token_logits(target, hidden).float().softmax(-1)


def cross_entropy(target: Model, features: torch.Tensor, laws: torch.Tensor) -> torch.Tensor:
    """Of the target's laws, read from features in place of its own; nats."""
    return F.cross_entropy(heads.token_logits(target, features).float().flatten(0, 1), laws.flatten(0, 1))


def medusa_loss(target: Model) -> Loss:
    """Head i at t learns the target's law at t + i; nearer heads count more (Medusa §2.2: 0.8^i)."""

    def loss(medusa: torch.nn.Module, window: torch.Tensor) -> torch.Tensor:
        hidden, laws = read(target, window)
        found = medusa(hidden, len(medusa.heads))
        parts = [
            0.8**i * cross_entropy(target, found[:, :-i, i - 1], laws[:, i:]) for i in range(1, found.shape[2] + 1)
        ]
        return sum(parts)

    return loss


def eagle_loss(target: Model) -> Loss:
    """At every step the head learns the target's next feature and law."""

    def loss(eagle: torch.nn.Module, window: torch.Tensor) -> torch.Tensor:
        hidden, laws = read(target, window)
        noise = (torch.rand_like(hidden) * 2 - 1) * FEATURE_NOISE * hidden.std()
        total = torch.zeros((), device=window.device)
        for step, features in enumerate(unroll(eagle, target, window, hidden + noise, STEPS_FED_BACK)):
            right, law = hidden[:, 1 + step :], laws[:, 1 + step :]
            near = F.smooth_l1_loss(features[:, step:].float(), right.float())
            total = total + FEATURE_WEIGHT * near + cross_entropy(target, features[:, step:], law)
        return total / STEPS_FED_BACK

    return loss


LOSSES = {"medusa": medusa_loss, "eagle": eagle_loss}


def unroll(
    eagle: torch.nn.Module, target: Model, window: torch.Tensor, hidden: torch.Tensor, steps: int
) -> Iterator[torch.Tensor]:
    """Yield the head's features after 1, 2, ... steps of its own, [rows, n - 1, d]: at t they stand for f_(t + 1).

    As in drafting: after j steps a position sees the target's features up to j positions before it, and of its own
    steps the j last.
    """
    embeddings = target.module.get_input_embeddings()(window[:, 1:])
    positions = torch.arange(embeddings.shape[1], device=window.device).expand(embeddings.shape[:2])
    features, seen = hidden[:, :-1], []
    for step in range(steps):
        state, queries, keys, values = eagle.project(embeddings, features, positions)
        seen.append((keys, values))
        features = eagle.finish(state, attend_steps(queries, seen) if step else heads.attend(queries, keys, values))
        yield features
        features = late(features, 1)


def late(states: torch.Tensor, by: int) -> torch.Tensor:
    """Put at t what stood at t - by; nothing, zeros, where there is none."""
    return F.pad(states, (0,) * 2 * (states.ndim - 2) + (by, 0))[:, : states.shape[1]]


def attend_steps(queries: torch.Tensor, seen: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Attend to the first step's keys up to `last` positions before, and to one of each later step."""
    last, groups = len(seen) - 1, queries.shape[2] // seen[0][0].shape[2]
    seen = [tuple(part.repeat_interleave(groups, 2) for part in step) for step in seen]
    n, scale = queries.shape[1], queries.shape[-1] ** -0.5
    there = torch.ones(n, n, dtype=torch.bool, device=queries.device).tril(-last)
    scores = torch.einsum("rqhd,rkhd->rhqk", queries, seen[0][0]).masked_fill(~there, -1e9)
    recent = [(late(k, last - i), late(v, last - i)) for i, (k, v) in enumerate(seen) if i]
    own = torch.stack([(queries * k).sum(-1).transpose(1, 2) for k, _ in recent], dim=-1)
    weights = (torch.cat((scores, own), dim=-1).float() * scale).softmax(-1).to(queries.dtype)
    found = torch.einsum("rhqk,rkhd->rqhd", weights[..., :n], seen[0][1])
    for i, (_, value) in enumerate(recent):
        found = found + weights[..., n + i].transpose(1, 2)[..., None] * value
    return found


def windows_of(stream: torch.Tensor, recipe: Recipe, most: int) -> Iterator[torch.Tensor]:
    """Yield batches of neighbouring windows from all over a stream, at most so many windows."""
    usable = stream[: len(stream) // recipe.seq_len * recipe.seq_len].view(-1, recipe.seq_len)
    chosen = np.unique(np.linspace(0, len(usable) - 1, most).astype(int))
    yield from usable[torch.from_numpy(chosen)].to(recipe.device).split(recipe.batch_size)


@torch.inference_mode()
def medusa_hits(medusa: torch.nn.Module, target: Model, windows: Iterator[torch.Tensor]) -> np.ndarray:
    """Return how often the target's first choice is a head's r-th, [heads, ranks]."""
    count = len(medusa.heads)
    ranks = min(TREE_RANKS, target.vocabulary)
    hits, seen = torch.zeros(count, ranks), 0
    for window in windows:
        hidden, laws = read(target, window)
        ranked = heads.token_logits(target, medusa(hidden, count)).topk(ranks).indices
        first = laws.argmax(-1)
        n = window.shape[1] - count
        for i in range(count):
            hits[i] += (ranked[:, :n, i] == first[:, i + 1 : i + 1 + n, None]).sum((0, 1)).cpu()
        seen += n * len(window)
    return (hits / seen).numpy()


@torch.inference_mode()
def eagle_hits(eagle: torch.nn.Module, target: Model, windows: Iterator[torch.Tensor]) -> np.ndarray:
    """Return how often the head's first choice after 1, 2, ... steps is the target's, the text between being given."""
    hits, seen = torch.zeros(MEASURED_DEPTH), 0
    for window in windows:
        hidden, laws = read(target, window)
        first = laws.argmax(-1)
        n = window.shape[1] - MEASURED_DEPTH
        for step, features in enumerate(unroll(eagle, target, window, hidden, MEASURED_DEPTH)):
            found = heads.token_logits(target, features[:, -n:]).argmax(-1)
            hits[step] += (found == first[:, -n:]).sum().cpu()
        seen += n * len(window)
    return (hits / seen).numpy()


def read_streams(text: Path | None, tokenizer, seq_len: int) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Return the tokens to learn from and those held out, and what they are."""
    sources = read_texts(text) if text else read_sources(Path(sysconfig.get_path("stdlib")))
    held_out = {p: t for p, t in sources.items() if is_held_out(p)}
    learned = [t for p, t in sources.items() if p not in held_out]
    if not learned or not held_out:
        raise click.ClickException(f"--text {text}: {len(sources)} files are too few, some have to be held out")
    streams = encode(tokenizer, learned), encode(tokenizer, list(held_out.values()))
    if min(map(len, streams)) < seq_len + 2:
        least = min(map(len, streams))
        raise click.ClickException(f"--text {text}: {least} tokens are too few, expected more than --seq-len {seq_len}")
    data = describe_data(sources, held_out) | {"tokens_train": len(streams[0]), "tokens_held_out": len(streams[1])}
    if text:
        data |= {"corpus": text.name, "left_out": []}
    return *streams, data


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option(
    "--target", type=click.Path(exists=True, file_okay=False, path_type=Path), default=TARGET, help="Target's folder."
)
@click.option(
    "--text",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of texts; the standard library's sources if not given.",
)
@click.option("--kind", type=click.Choice(["medusa", "eagle"]), multiple=True, default=["medusa", "eagle"])
@click.option("--steps", default=700, help="Training steps of each kind.")
@click.option("--batch-size", default=8, help="Sequences a step.")
@click.option("--seq-len", default=512, help="Tokens a sequence.")
@click.option("--learning-rate", default=4e-3, help="Peak rate of both optimisers.")
@click.option("--medusa-heads", default=4, help="Tokens that Medusa drafts at most.")
@click.option("--medusa-blocks", default=2, help="Residual blocks of a Medusa head.")
@click.option("--device", default="cpu", help="torch device, such as cpu or cuda:0.")
@click.option("--seed", default=21, help="Seed of weights and batches.")
def main(out: Path, target: Path, text: Path | None, kind: tuple[str, ...], **options) -> None:
    """Train heads for a target and write them to --out/medusa and --out/eagle."""
    # Under autocast a norm's weight keeps its precision, as it should.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    fields = ("steps", "batch_size", "seq_len", "learning_rate", "device", "seed")
    recipe = Recipe(**{name: options[name] for name in fields}, compile=False)
    tokenizer, model = AutoTokenizer.from_pretrained(target), load_target(target, recipe.device)
    stream, held_out, data = read_streams(text, tokenizer, recipe.seq_len)
    for name in kind:
        folder = out / name
        if not (folder / heads.CONFIG).exists():
            torch.manual_seed(recipe.seed)
            shape = shape_of(name, model, options)
            module = heads.KINDS[name](hidden_size=heads.hidden_size_of(model), **shape)
            click.echo(f"{name}: {count_parameters(module):,} parameters", err=True)
            record = train(module, LOSSES[name](model), stream, recipe)
            record |= {"data": data, "torch": torch.__version__}
            more, by_depth = measure(name, module.eval(), model, stream, held_out, recipe)
            record |= {"parameters": count_parameters(module), "held_out_accuracy_by_depth": by_depth}
            of_target = {"target": model, "weights_sha256": weights_sha256(target)}
            heads.save(folder, name, module, shape=shape, more=more, training=record, **of_target)
        record = json.loads((folder / heads.TRAINING).read_text())
        depths = "  ".join(f"{i}: {hits:.3f}" for i, hits in enumerate(record["held_out_accuracy_by_depth"], 1))
        size = f"{record['parameters']:>12,} parameters {record['training_s']:>8.0f} s"
        click.echo(f"{name:8}{size}  held-out accuracy by depth  {depths}")


def shape_of(kind: str, target: Model, options: dict) -> dict:
    """Return the sizes of a module: EAGLE's layer is as wide as the target's own."""
    if kind == "medusa":
        return {"heads": options["medusa_heads"], "blocks": options["medusa_blocks"]}
    config = target.module.config.get_text_config()
    count = config.num_attention_heads
    return {
        "heads": count,
        "kv_heads": getattr(config, "num_key_value_heads", count),
        "mlp_size": getattr(config, "intermediate_size", 4 * config.hidden_size),
        "rope_theta": 10_000.0,
    }


def measure(kind, module, target, stream, held_out, recipe) -> tuple[dict, list[float]]:
    """Return Medusa's tree, chosen on the text it learned from, and the accuracy by depth on held-out text."""
    windows = windows_of(held_out, recipe, MEASURED_WINDOWS)
    if kind == "eagle":
        return {}, [round(float(h), 4) for h in eagle_hits(module, target, windows)]
    learned = medusa_hits(module, target, windows_of(stream, recipe, MEASURED_WINDOWS))
    hits = medusa_hits(module, target, windows)[:, 0]
    return {"tree": choose_tree(learned, TREE_NODES)}, [round(float(h), 4) for h in hits]


if __name__ == "__main__":
    main()
