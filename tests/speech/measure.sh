# What docs/validation.md says of speech: sh tests/speech/measure.sh FOLDER, with nothing else at work for 15 minutes.
# FOLDER gets models (real_whisper.py) and sound (spoken.py), unless they are there, and what is measured of them.
set -e
tests=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$tests/../.." && pwd)
export PATH="$root/.venv/bin:$PATH" PYTHONPATH="$root"
mkdir -p "$1"
cd "$1"
pair="--task asr --target base --draft tiny --max-new-tokens 96"
arms="--config $tests/whisper.toml --experiment lengths --dtype float32"

[ -d tiny ] || python -m tests.speech.real_whisper .
[ -d audio ] || python -m tests.speech.spoken audio
[ -d accepted ] || measure-acceptance $pair --prompts audio/heard --k 1:8 --out-dir accepted
bench-decode $pair $arms --prompts audio/heard --max-prompts 12 --out fit.jsonl
calibrate --from-decode fit.jsonl --name whisper --out pair.json
bench-decode $pair $arms --prompts audio/held --runs 2 --out held.jsonl
validate held.jsonl --profile pair.json --hist accepted --out speech.json
