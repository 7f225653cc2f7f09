"""Hold real decoding of the real pair against `generate` of transformers: token for token, in float32.

    python -m tests.speech.equal FOLDER [UTTERANCES]

reads FOLDER/base, FOLDER/tiny (real_whisper.py) and FOLDER/audio (spoken.py), and exits with 1 where anything differs.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from acceptance.decoders import baseline
from acceptance.decoders.batch import Task
from acceptance.decoders.decoder import run
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.rule import SamplingRule
from acceptance.models.sound import hearing
from acceptance.models.source import Begun
from acceptance.text.speech import load_speech

DRAFT_LENGTHS = range(1, 9)
BUDGET = 96
GREEDY = SamplingRule(temperature=0.0)


def remember(encoder: Any) -> None:
    """Have an encoder give again what it gave, where it reads the same once more."""
    read, known = encoder.forward, {}

    def forward(input_features: torch.Tensor, **more: Any) -> Any:
        if not torch.equal(known.get("features", torch.empty(0)), input_features):
            known.update(features=input_features, states=read(input_features, **more))
        return known["states"]

    encoder.forward = forward


def differing(folder: Path, utterances: int | None) -> tuple[int, list[str]]:
    """Return how many outputs were compared, and which differ."""
    pair = load_pair(str(folder / "base"), str(folder / "tiny"), device="cpu", dtype="float32")
    pair = hearing(pair, str(folder / "base"), None, None)
    models = Models(target=pair.target, draft=pair.draft)
    for model in (pair.target, pair.draft):
        remember(model.module.get_encoder())
    spoken = [u for part in ("heard", "held") for u in load_speech(folder / "audio" / part).rows][:utterances]
    wrong = []
    for utterance in spoken:
        prompt = Begun(pair.target.first, pair.ear.features(utterance.sound.samples(pair.ear.rate)))
        with torch.inference_mode():
            expected = pair.target.module.generate(prompt.source[None], max_new_tokens=BUDGET)[0].tolist()
        task = Task(rule=GREEDY, max_new_tokens=BUDGET, rngs=streams(0, [0]))
        plain = baseline.decode(pair.target, [prompt], rule=GREEDY, max_new_tokens=BUDGET, rngs=streams(0, [0]))[0]
        if [t for t in plain if t not in pair.target.ends] != expected:
            wrong.append(f"{utterance.source}: plain")
        for k in DRAFT_LENGTHS:
            begin = METHODS["speculative"].begin(models, Options(draft_rule=GREEDY, k=k))
            if run(begin([prompt], task))[0].tokens != plain:
                wrong.append(f"{utterance.source}: K = {k}")
    return len(spoken) * (1 + len(DRAFT_LENGTHS)), wrong


if __name__ == "__main__":
    count, wrong = differing(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    said = f"{count - len(wrong)} of {count} outputs are those of generate, or of plain decoding"
    sys.stdout.write("\n".join([said, *wrong, ""]))
    sys.exit(bool(wrong))
