"""What a real vLLM 0.32 left of two runs of `vllm bench serve`: /metrics, its log and the client's result agree.

Recorded by `python -m tests.server.live --keep FOLDER`, with the names of models replaced and other metrics left out.
"""

from pathlib import Path

import pytest

from acceptance.importers.formats import import_histogram

HERE = Path(__file__).with_name("recorded")
