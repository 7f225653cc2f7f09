"""How the examples train: steps or minutes, rates that rise and fall, checkpoints that an interrupted run goes on from.

Helps train_tiny_pair.py and train_heads.py; does nothing by itself.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from simulator.ground.artefacts import UserError

CHECKPOINT_S, REPORT_S = 120.0, 60.0
# Steps that a stage by the clock is taken for until it knows better.
FIRST_GUESS = 100


class OneLine(click.Command):
    """A command that refuses in one line, with exit code 2, as those of specsim do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise refused(error.format_message()) from None

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise refused(str(error)) from None


def refused(reason: str) -> click.ClickException:
    error = click.ClickException(reason)
    error.exit_code = 2
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What one training stage is told: steps, or minutes in their place, sizes, rates and where it runs."""

    steps: int
    batch_size: int
    seq_len: int
    learning_rate: float
    device: str
    seed: int
    compile: bool
    minutes: float | None = None


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def optimizers(model: torch.nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms (Jordan et al. 2024)."""
    is_inner = {name: p.ndim == 2 and "embed_tokens" not in name for name, p in model.named_parameters()}
    inner = [p for name, p in model.named_parameters() if is_inner[name]]
    rest = [p for name, p in model.named_parameters() if not is_inner[name]]
    return [
        torch.optim.Muon(inner, lr=learning_rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_at(step: int, steps: int) -> float:
    """Warm up over 2 % of the steps, hold, then fall linearly to zero over the last 60 %."""
    warm = max(steps // 50, 1)
    return min((step + 1) / warm, 1.0, (steps - step) / max(0.6 * steps, 1))


def autocast(device: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


@dataclass(slots=True)
class Progress:
    """How far a training stage has come: steps, tokens and seconds, and the loss of every step."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    losses: list[float] = field(default_factory=list)

    def steps(self, recipe: Recipe) -> int:
        """Return all steps it will have: as told, or as many as go into the time there is at the rate so far."""
        if recipe.minutes is None:
            return recipe.steps
        if self.elapsed_s >= 60 * recipe.minutes:
            return self.step
        return max(self.step + 1, round(self.step * 60 * recipe.minutes / max(self.elapsed_s, 1.0)), FIRST_GUESS)


def train(
    model: torch.nn.Module,
    loss_of: Callable,
    windows: Iterator,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    keep: Callable[[dict], None] = lambda record: None,
) -> dict:
    """Run the recipe on the model in place; return steps, tokens seen, last losses and seconds.

    Args:
        model: What is trained.
        loss_of: Of the model and a window.
        windows: Without end, the same every time: what was seen of them before an interruption is skipped.
        recipe: What is told.
        checkpoint: File to go on from, written every few minutes; dropped at the end.
        keep: Told the record so far when the checkpoint is written.
    """
    model.to(recipe.device).train()
    run = torch.compile(model) if recipe.compile else model
    opts = optimizers(model, recipe.learning_rate)
    done = go_on_from(checkpoint, model, opts)
    began, kept, told_s = time.monotonic() - done.elapsed_s, time.monotonic(), done.elapsed_s
    windows = itertools.islice(windows, done.step, None)
    while done.step < (steps := done.steps(recipe)):
        window = next(windows)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = recipe.learning_rate * rate_at(done.step, steps)
        with autocast(recipe.device):
            loss = loss_of(run, window)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        done.losses.append(loss.item())
        rows, columns = getattr(window, "tokens", window).shape
        done.step, done.tokens = done.step + 1, done.tokens + rows * (columns - 1)
        done.elapsed_s = time.monotonic() - began
        if done.step % 50 == 0 or done.step == steps or done.elapsed_s - told_s > REPORT_S:
            report(done, recipe)
            told_s = done.elapsed_s
        if checkpoint and time.monotonic() - kept > CHECKPOINT_S:
            write_checkpoint(checkpoint, model, opts, done)
            keep(record_of(done, recipe))
            kept = time.monotonic()
    return record_of(done, recipe)


def record_of(done: Progress, recipe: Recipe) -> dict:
    return {
        "steps": done.step,
        "tokens_seen": done.tokens,
        "last_training_loss_nats": float(np.mean(done.losses[-50:])) if done.losses else None,
        "training_s": round(done.elapsed_s, 1),
        "recipe": asdict(recipe),
    }


def write_checkpoint(path: Path, model: torch.nn.Module, opts: list, done: Progress) -> None:
    """Write what a run needs to go on as if it had not been interrupted."""
    state = {"model": model.state_dict(), "optimizers": [opt.state_dict() for opt in opts], "done": asdict(done)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | {"random": torch.get_rng_state()}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def go_on_from(path: Path | None, model: torch.nn.Module, opts: list) -> Progress:
    """Put model and optimisers where a checkpoint left them, if there is one."""
    if path is None or not path.exists():
        return Progress()
    try:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, of_opt in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(of_opt)
        torch.set_rng_state(state["random"])
        return Progress(**state["done"])
    except Exception as error:  # whatever torch makes of sizes that differ, or of a file that is damaged
        reason = " ".join(str(error).split())[:80]
        expected = "expected the options that it was begun with, or another --out"
        raise UserError(f"{path}: cannot be gone on with ({reason}...), {expected}") from None


def report(done: Progress, recipe: Recipe) -> None:
    rate = done.tokens / done.elapsed_s
    steps = max(done.steps(recipe), done.step)
    left_s = done.elapsed_s / done.step * (steps - done.step)
    click.echo(
        f"  step {done.step}/{steps}  loss {np.mean(done.losses[-50:]):.3f}  {rate:,.0f} tokens/s  {left_s:.0f} s left",
        err=True,
    )
