#!/bin/sh
# The GPU in one command, from the bare checkout: nothing is installed. All that it takes: first_light.py --help.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd) || exit 1
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" "$root/tests/gpu/first_light.py" "$@"
