"""Train Medusa heads and an EAGLE head for a target: small modules that draft from its own hidden states.

Both are distilled: at every position of the text the target's law is what they learn. The target stays as it is. By
default they are trained for the bundled target, on the files that it learned from itself.

    python examples/train_heads.py --out acceptance/tiny_pair/heads            # two cores, about 25 minutes
    python examples/train_heads.py --target FOLDER --text FOLDER --out heads --device cuda

    python examples/train_heads.py --target FOLDER --text answers.jsonl --kind eagle --draft-vocabulary 8192 \
        --minutes 60 --out heads

Text is cut into the target's own tokens; of a folder every UTF-8 file counts. Best is what the target wrote itself, see
own_answers.py. A file is held out when the SHA-256 of its path is divisible by 16, an answer by its prompt's. A kind
whose folder already holds weights is skipped; one that was interrupted goes on. What the heads accept is measured by
`bench-decode`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import click
import heads_text
import numpy as np
import torch
import torch.nn.functional as F
from heads_text import Learned, Window
from training import OneLine, Recipe, count_parameters, train
from transformers import AutoModelForCausalLM, AutoTokenizer

import acceptance
from acceptance.decoders import heads
from acceptance.decoders.medusa import choose_tree
from acceptance.models.load import load_part
from acceptance.models.model import Model, end_tokens, vocabulary_of
from simulator.ground.artefacts import UserError

TARGET = Path(acceptance.__file__).parent / "tiny_pair" / "target"
# EAGLE §4: noise on the features, here as a share of their spread; smooth L1 beside the cross entropy.
FEATURE_NOISE, FEATURE_WEIGHT = 0.1, 1.0
# Steps of its own features fed back in training (HASS, arXiv 2408.15766; EAGLE-3, arXiv 2503.01840).
STEPS_FED_BACK = 3
MEASURED_DEPTH = 4
TREE_NODES, TREE_RANKS = 64, 10
MEASURED_WINDOWS = 256
# Positions at a time of which the target's whole laws are looked at.
FEW = 128
# The target's features that are kept of what it wrote itself, in bfloat16: 10 million tokens' where they are 512 long.
KEPT_BYTES = 10 << 30
CHECKPOINT = "checkpoint.pt"
# What an EAGLE head begins from: positions at least, and the penalty beside inputs of size 1.
LINEAR_TOKENS, RIDGE = 16_384, 0.05

Loss = Callable[[torch.nn.Module, Window], torch.Tensor]


def load_target(folder: Path, device: str, dtype: torch.dtype = torch.float32) -> Model:
    """Load a target, frozen."""
    found = load_part("--target", str(folder), partial(AutoModelForCausalLM.from_pretrained, dtype=dtype))
    module = found.to(device).eval().requires_grad_(False)
    return Model(module=module, vocabulary=vocabulary_of(module), ends=tuple(end_tokens(module)))


def weights_sha256(folder: Path) -> str:
    """Return the hash of the target's weights, of one file or several."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cross_entropy(logits: torch.Tensor, laws: torch.Tensor) -> torch.Tensor:
    """Of the target's laws and a head's, [positions, tokens that it says]; nats."""
    return F.cross_entropy(logits.float(), laws)


def law_of(voice: heads.Voice, hidden: torch.Tensor) -> torch.Tensor:
    """Return the target's laws of the next token among those that a head says, from its hidden states, [..., d]."""
    with torch.no_grad():
        return voice.logits(hidden).float().softmax(-1)


def medusa_loss(reading: heads_text.Reading, voice: heads.Voice) -> Loss:
    """Head i at t learns the target's law at t + i; nearer heads count more (Medusa §2.2: 0.8^i)."""

    def loss(medusa: torch.nn.Module, window: Window) -> torch.Tensor:
        hidden = reading(window)
        found, total = medusa(hidden, len(medusa.heads)), torch.zeros((), device=hidden.device)
        for i in range(1, found.shape[2] + 1):
            counts = window.counts[:, i:]
            if not counts.any():  # texts that are too short for this head
                total = total + 0 * found.sum()
                continue
            laws = law_of(voice, hidden[:, i:][counts])
            total = total + 0.8**i * cross_entropy(voice.logits(found[:, :-i, i - 1][counts]), laws)
        return total

    return loss


def eagle_loss(reading: heads_text.Reading, voice: heads.Voice) -> Loss:
    """At every step the head learns the target's next feature, as a share of their spread, and its law."""

    def loss(eagle: torch.nn.Module, window: Window) -> torch.Tensor:
        hidden = reading(window)
        spread, total = hidden[window.counts].std(), torch.zeros((), device=hidden.device)
        noise = (torch.rand_like(hidden) * 2 - 1) * FEATURE_NOISE * spread
        for step, features in enumerate(unroll(eagle, reading.target, window.tokens, hidden + noise, STEPS_FED_BACK)):
            counts = window.counts[:, 1 + step :]
            if not counts.any():  # texts that are too short for this step
                total = total + 0 * features.sum()
                continue
            said, right = features[:, step:][counts], hidden[:, 1 + step :][counts]
            near = F.smooth_l1_loss(said.float() / spread, right.float() / spread)
            total = total + FEATURE_WEIGHT * near + cross_entropy(voice.logits(said), law_of(voice, right))
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


def first_choices(target: Model, hidden: torch.Tensor) -> torch.Tensor:
    """Return the target's first choices behind hidden states, [positions, d]; of few at a time, as tokens are many."""
    return torch.cat([heads.token_logits(target, part).argmax(-1) for part in hidden.split(FEW)])


@torch.inference_mode()
def medusa_hits(medusa: torch.nn.Module, reading: heads_text.Reading, windows: Iterator[Window]) -> np.ndarray:
    """Return how often the target's first choice is a head's r-th, [heads, ranks]."""
    voice, count = heads.Voice(reading.target, medusa), len(medusa.heads)
    ranks = min(TREE_RANKS, voice.size)
    hits, seen = torch.zeros(count, ranks), 0
    for window in windows:
        hidden, counts = reading(window), window.counts[:, count:]
        ranked = voice.said(voice.logits(medusa(hidden, count)).topk(ranks).indices)
        n = counts.shape[1]
        for i in range(count):
            first = first_choices(reading.target, hidden[:, i + 1 : i + 1 + n][counts])
            hits[i] += (ranked[:, :n, i][counts] == first[:, None]).sum(0).cpu()
        seen += int(counts.sum())
    return (hits / seen).numpy()


@torch.inference_mode()
def eagle_hits(eagle: torch.nn.Module, reading: heads_text.Reading, windows: Iterator[Window]) -> np.ndarray:
    """Return how often the head's first choice after 1, 2, ... steps is the target's, the text between being given."""
    voice, hits, seen = heads.Voice(reading.target, eagle), torch.zeros(MEASURED_DEPTH), 0
    for window in windows:
        hidden, counts = reading(window), window.counts[:, MEASURED_DEPTH:]
        if not counts.any():
            continue
        n = counts.shape[1]
        first = first_choices(reading.target, hidden[:, -n:][counts])
        for step, features in enumerate(unroll(eagle, reading.target, window.tokens, hidden, MEASURED_DEPTH)):
            hits[step] += (voice.said(voice.logits(features[:, -n:][counts]).argmax(-1)) == first).sum().cpu()
        seen += int(counts.sum())
    return (hits / seen).numpy()


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option(
    "--target", type=click.Path(exists=True, file_okay=False, path_type=Path), default=TARGET, help="Target's folder."
)
@click.option(
    "--text",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of texts, or JSONL that own_answers.py wrote; the standard library's sources if not given.",
)
@click.option("--kind", type=click.Choice(["medusa", "eagle"]), multiple=True, default=["medusa", "eagle"])
@click.option("--steps", type=click.IntRange(0), default=700, help="Training steps of each kind.")
@click.option("--minutes", type=float, help="Train each kind so long, in place of --steps.")
@click.option("--batch-size", type=click.IntRange(1), default=8, help="Sequences a step.")
@click.option("--seq-len", type=click.IntRange(8), default=512, help="Tokens a sequence.")
@click.option("--learning-rate", default=4e-3, help="Peak rate of both optimisers.")
@click.option(
    "--draft-vocabulary",
    type=click.IntRange(1),
    help="Say only so many tokens, the target's most frequent.  [default: (all)]",
)
@click.option("--medusa-heads", type=click.IntRange(1), default=4, help="Tokens that Medusa drafts at most.")
@click.option("--medusa-blocks", type=click.IntRange(1), default=2, help="Residual blocks of a Medusa head.")
@click.option("--device", default="cpu", help="torch device, such as cpu or cuda:0.")
@click.option("--seed", default=21, help="Seed of weights and batches.")
def main(out: Path, target: Path, text: Path | None, kind: tuple[str, ...], **options) -> None:
    """Train heads for a target and write them to --out/medusa and --out/eagle."""
    # Under autocast a norm's weight keeps its precision, as it should.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    fields = ("steps", "batch_size", "seq_len", "learning_rate", "device", "seed", "minutes")
    recipe = Recipe(**{name: options[name] for name in fields}, compile=False)
    model = load_target(target, recipe.device)
    data = heads_text.read(
        text, cache(lambda: load_part("--target", str(target), AutoTokenizer.from_pretrained)), recipe.seq_len
    )
    for name in kind:
        folder = out / name
        if not (folder / heads.CONFIG).exists() or (folder / CHECKPOINT).exists():
            train_kind(name, folder, model, weights_sha256(target), data, recipe, options)
        else:
            check_same(folder, recipe, shape_of(name, model, options), data)
        record = json.loads((folder / heads.TRAINING).read_text())
        depths = "  ".join(f"{i}: {hits:.3f}" for i, hits in enumerate(record["held_out_accuracy_by_depth"], 1))
        size = f"{record['parameters']:>12,} parameters {record['training_s']:>8.0f} s"
        click.echo(f"{name:8}{size}  held-out accuracy by depth  {depths}")


def check_same(folder: Path, recipe: Recipe, shape: dict, data: Learned) -> None:
    """Refuse a head that is there already, where another is asked for."""
    record, config = (json.loads((folder / name).read_text()) for name in (heads.TRAINING, heads.CONFIG))
    told = asdict(recipe) | {"shape": shape, "text": data.about["sha256"]}
    there = record["recipe"] | {"shape": config["shape"], "text": record["data"].get("sha256")}
    for name in told.keys() & there.keys() - {"device", "compile"}:
        if told[name] != there[name]:
            found = "another" if name == "text" else there[name]
            raise UserError(
                f"--out {folder}: its head was trained with {name} {found}, expected that or another folder"
            )


def train_kind(
    kind: str, folder: Path, target: Model, sha256: str, data: Learned, recipe: Recipe, options: dict
) -> None:
    """Train one kind and write it; on the way too, so that it can be tried and an interrupted run goes on."""
    torch.manual_seed(recipe.seed)
    shape = shape_of(kind, target, options)
    module = heads.KINDS[kind](hidden_size=heads.hidden_size_of(target), **shape).to(recipe.device)
    reading, about = heads_text.Reading(target, KEPT_BYTES), {"data": data.about, "torch": torch.__version__}
    if module.d2t is not None:
        tokens = data.common_tokens(len(module.d2t), target.vocabulary)
        module.say(tokens)
        about["held_out_share_of_draft_vocabulary"] = round(data.share_of(tokens), 4)
    checkpoint = folder / CHECKPOINT
    if kind == "eagle" and not checkpoint.exists():
        begin_linear(module, reading, data.windows(recipe))
    about["parameters"] = count_parameters(module)
    click.echo(f"{kind}: {about['parameters']:,} parameters", err=True)

    def save(record: dict, more: dict) -> None:
        whole = {"target": target, "weights_sha256": sha256, "shape": shape, "more": more}
        heads.save(folder, kind, module, training=record | about, **whole)

    loss = LOSSES[kind](reading, heads.Voice(target, module))

    def keep(record: dict) -> None:
        if kind == "eagle":  # Medusa's tree is chosen once it has learned
            save(record, {})

    record = train(module, loss, data.windows(recipe), recipe, checkpoint=checkpoint, keep=keep)
    more, by_depth = measure(kind, module.eval(), reading, data, recipe)
    save(record | {"held_out_accuracy_by_depth": by_depth}, more)
    checkpoint.unlink(missing_ok=True)


@torch.no_grad()
def begin_linear(eagle: torch.nn.Module, reading: heads_text.Reading, windows: Iterator[Window]) -> None:
    """Have a head begin as the linear map from what it reads to what it is to say that fits best (ridge regression).

    Its layer adds nothing to that yet. Features of some targets are large, and each in its own measure.
    """
    embed = reading.target.module.get_input_embeddings()
    read, said = list[torch.Tensor](), list[torch.Tensor]()
    while sum(map(len, said)) < LINEAR_TOKENS:
        window = next(windows)
        hidden, counts = reading(window).float(), window.counts[:, 1:]
        embeddings = eagle.embedding_norm(embed(window.tokens[:, 1:]).float())
        read.append(torch.cat((embeddings, eagle.feature_norm(hidden[:, :-1])), dim=-1)[counts])
        said.append(hidden[:, 1:][counts])
    x, y = torch.cat(read), torch.cat(said)
    scale = y.square().mean(0).sqrt().clamp(min=1e-6)
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], device=x.device)
    eagle.join.weight.copy_(torch.linalg.solve(gram, x.T @ (y / scale)).T)
    eagle.norm.weight.copy_(scale)
    for last in (eagle.out, eagle.down):
        torch.nn.init.zeros_(last.weight)


def shape_of(kind: str, target: Model, options: dict) -> dict:
    """Return the sizes of a module: EAGLE's layer is as wide as the target's own."""
    size = options["draft_vocabulary"]
    said = {} if size is None or size >= target.vocabulary else {"draft_vocabulary": size}
    if kind == "medusa":
        return {"heads": options["medusa_heads"], "blocks": options["medusa_blocks"]} | said
    config = target.module.config.get_text_config()
    count = config.num_attention_heads
    return {
        "heads": count,
        "kv_heads": getattr(config, "num_key_value_heads", count),
        "mlp_size": getattr(config, "intermediate_size", 4 * config.hidden_size),
        "rope_theta": 10_000.0,
    } | said


def measure(
    kind: str, module: torch.nn.Module, reading: heads_text.Reading, data: Learned, recipe: Recipe
) -> tuple[dict, list[float]]:
    """Return Medusa's tree, chosen on the text it learned from, and the accuracy by depth on held-out text."""
    held_out = data.measured(recipe, MEASURED_WINDOWS)
    if kind == "eagle":
        return {}, [round(float(h), 4) for h in eagle_hits(module, reading, held_out)]
    learned = medusa_hits(module, reading, data.measured(recipe, MEASURED_WINDOWS, learned=True))
    hits = medusa_hits(module, reading, held_out)[:, 0]
    return {"tree": choose_tree(learned, TREE_NODES)}, [round(float(h), 4) for h in hits]


if __name__ == "__main__":
    main()
