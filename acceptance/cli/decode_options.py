"""The options of `bench-decode` on the command line, in groups; their defaults are those of `DecodeOptions`."""

from typing import Any

import click

from acceptance.bench.options import DecodeOptions
from acceptance.results.settings import KNOBS, Knob, option_of
from acceptance.text.prompts import DATASETS
from simulator.ground.command import FILE, Decorator, stacked

from .options import GGUF_OPTIONS, SPEECH_OPTIONS

USUAL = DecodeOptions()
RECORD_HOST = click.option("--record-host", is_flag=True, help="Keep the machine's name in --out.")


def option(flag: str, name: str = "", **settings: Any) -> Decorator:
    """Return an option whose default is that of `DecodeOptions`."""
    name = name or flag.removeprefix("--").replace("-", "_")
    return click.option(flag, name, default=getattr(USUAL, name), **settings)


def knob_option(name: str, knob: Knob) -> Decorator:
    """Return the option of a knob; not given, it is None and the method takes its default."""
    kind = click.IntRange(int(knob.low), int(knob.high)) if knob.whole else click.FloatRange(knob.low, knob.high)
    default = "as trained" if knob.default is None else f"{knob.default:g}"
    return click.option(option_of(name), type=kind, help=knob.about, show_default=default)


WHAT_OPTIONS = stacked(
    option("--method", metavar="NAME[,NAME...]|all", help="Methods to compare; the baseline always runs."),
    option("--target", help="Folder or hub id, with @REVISION if not the newest."),
    option("--draft", help="Folder or hub id, with @REVISION if not the newest."),
    GGUF_OPTIONS,
    option("--medusa", type=FILE, show_default="the bundled target's", help="Folder of Medusa heads."),
    option("--eagle", type=FILE, show_default="the bundled target's", help="Folder of an EAGLE head."),
    option("--judge", type=FILE, show_default="the bundled pair's", help="Folder of a trained judge."),
    option(
        "--ngram-texts",
        type=FILE,
        help='Texts that n-gram stores know before they begin: JSONL of {"prompt", "output"} or of token ids.',
    ),
    option("--prompts", "dataset", help="File of prompts, in any format of --format, packed or not."),
    option(
        "--format",
        "dataset_format",
        type=click.Choice(DATASETS),
        help="Format of --prompts; auto: what the file holds, which is said.",
    ),
    option("--column", show_default="the usual ones", help="Column or key of --prompts that holds the prompt."),
    option(
        "--task",
        help='In place of --prompts: JSONL of {"prompt", "reference"}, or "bundled"; counts next tokens that are the '
        "reference's, up to the first that is not. Or summarize: --prompts are texts with references; tells ROUGE. Or "
        "asr: they are a folder of sound, or a manifest that names it; tells word error rates.",
    ),
    option(
        "--reference-column",
        show_default="the usual ones",
        help="With --task summarize or asr: column of the references, or of what is said.",
    ),
    SPEECH_OPTIONS,
    option(
        "--template",
        show_default="'{text}\\n\\nSummary:', or a chat's request",
        help="With --task summarize: what is said to the model; {text} stands for the text.",
    ),
    option("--max-prompts", type=click.IntRange(1), help="Only the first so many.", show_default="all"),
    option("--use-chat-template", is_flag=True, help="Frame prompts with the tokenizer's chat template."),
    option("--system-prompt", help="What the chat template's system role says."),
    option("--config", type=FILE, show_default="bundled presets", help="TOML file of presets."),
    option("--experiment", help="Take what the file of presets says under this name; other options win over it."),
)
RUN_OPTIONS = stacked(
    option("--max-new-tokens", type=click.IntRange(1), help="Budget of each output."),
    option("--runs", type=click.IntRange(1, 10_000), help="Repeats of everything."),
    option(
        "--time-parts",
        is_flag=True,
        help="Time passes and host work of rounds by themselves too, between decodings, for validate --methods.",
    ),
    option("--batch-size", type=click.IntRange(1), help="Prompts at a time."),
    option("--temperature", help="0.01 to 100; 0: greedy."),
    option("--top-k", help="Sample from the k largest logits, in both models; 0: off."),
    option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        help="Sample from the fewest tokens that reach p, in both models; 1: off.",
    ),
    option("--draft-temperature", type=float, show_default="--temperature", help="The draft's own; 0: greedy."),
    option(
        "--sampler",
        metavar="NAME[,NAME...]",
        help="Who decides on drafts, each in arms of its own: loop, by its own draws; exact or sigmoid (lossy), the "
        "kernels; transformers, as its generation does; or one of yours (entry points specsim.samplers).",
    ),
    option("--seed", type=click.IntRange(0, 2**31), help="Of sampling, turns and intervals."),
)
KNOB_OPTIONS = stacked(*(knob_option(name, knob) for name, knob in KNOBS.items()))
MACHINE_OPTIONS = stacked(
    option("--device", help="torch device, such as cpu or cuda:0."),
    option("--dtype", type=click.Choice(("auto", "float32", "float16", "bfloat16")), help="Weights."),
    option("--quantization", type=click.Choice(("8bit", "4bit")), help="Through bitsandbytes, on a CUDA device."),
    option("--allow-pickle", is_flag=True, help="Take weights in a .bin, which can hold any program, if you trust it."),
    option("--placement", metavar="same|separate|ratio A:B|auto", help="Over several GPUs."),
    option("--target-device", show_default="by --placement", help="torch device of the target."),
    option("--draft-device", show_default="by --placement", help="torch device of the draft."),
    option("--inflate-target", help="Same logits with so many times the weights in a pass."),
    option(
        "--processor-time",
        is_flag=True,
        help="Time the processor's work for this process, by one thread, in place of the clock: for a busy machine.",
    ),
    option("--cuda-graphs", is_flag=True, help="Replay passes of single sequences as CUDA graphs."),
    option("--draft-stream", is_flag=True, help="Let the draft model work on a CUDA stream of its own."),
    option(
        "--deterministic",
        is_flag=True,
        help="Refuse whatever would not repeat bit for bit; CUDA tokens are then drawn with sums on the CPU.",
    ),
    RECORD_HOST,
    option("--require-headless", is_flag=True, help="Refuse a machine with a desktop, or a GPU others use."),
)
OUTPUT_OPTIONS = stacked(
    option("--out", type=FILE, help="Records, JSONL; one that is there goes on."),
    option(
        "--answers",
        type=FILE,
        metavar="DIR",
        help="Save what each arm answers in DIR/model_answer as MT-Bench's judges read it, and what that is scored "
        "beside in DIR/reference_answer; later turns are not timed.",
    ),
    option("--dry-run", is_flag=True, help="Time one short warm-up a method, say what the run would take, end."),
    option("--plot", type=FILE, help="Picture, .png or .svg: speedup, rounds against their cost, latency."),
    option(
        "--trace-out",
        "profile",
        type=FILE,
        help="Chrome trace of the first prompts, one track a decoding. Where all is done they are decoded again, "
        "unless the file is there: it is kept.",
    ),
    option(
        "--torch-trace",
        type=FILE,
        help="PyTorch's own profile, a Chrome trace: every operator and kernel of the first prompt's first tokens, "
        "decoded once more by each method. A file that is there is kept.",
    ),
    option("--json", "as_json", is_flag=True, help="Print header and summaries as JSON."),
    option("--force", is_flag=True, help="Overwrite files that exist; start --out anew."),
)
