"""Run the steps of both Dockerfiles where no container engine runs, and say what that proves and what it does not.

    make docker-proof

As root, on Linux with debootstrap and the network, on a Debian release for a base: every instruction in order, each RUN
in a chroot, then commands in the finished images, as their user and as another. What pip is told on this machine (its
configuration, PIP_*, proxies) is lent to RUN lines. `--build-arg NAME=VALUE` is that of `docker build`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

from .dockerfile import ROOT, Instruction, read
from .image import LENT, Build, Host, Image, mounted, run

RELEASE = "bookworm"
INSIDE = "--inside"
STRANGER = 54321
# On a base of Python's, which lays its own below /usr/local, Debian's stands in.
PYTHON = "RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv"
LOAD = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b")
SERVED = ("--method", "eagle3", "--rate", "5", "--isl", "300", "--osl", "40", "--requests", "60")
# A command, its exit code, and what it has to say.
ASKED: tuple[tuple[tuple[str, ...], int, str], ...] = (
    ((), 0, "Commands:"),
    (("--version",), 0, "specsim, version"),
    (
        ("simulate", *LOAD, "--method", "eagle3", "--alpha", "0.7", "--draftN", "4", "--csv", "simulated.csv"),
        0,
        "as fast",
    ),
    (("advise", *LOAD, *SERVED, "--write", "flags.json"), 0, "--speculative-config"),
    (
        ("measure-acceptance", "--k", "1:2", "--max-prompts", "4", "--max-new-tokens", "8", "--out-dir", "measured"),
        0,
        "",
    ),
    (("bench-server", "http://127.0.0.1:9", "--concurrency", "2", "--requests", "8"), 2, "127.0.0.1:9"),
)
ON_A_GPU = (
    (("probe-gpu", "--device", "cuda:0"), 2, "cuda"),
    (("monitor-gpu", "--help"), 0, "Usage"),
)
IMPORTS = "import torch, transformers, aiohttp; print('torch', torch.__version__)"
CUPY = "import cupy; from cupy.cuda import nvrtc; print('cupy', cupy.__version__, 'nvrtc', nvrtc.getVersion())"


def host() -> Host:
    """Return what pip is told here, and the files that this names."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    rows = (line.partition("=") for line in said.stdout.splitlines())
    told = {f"PIP_{name.split('.')[-1].replace('-', '_').upper()}": value.strip("'\"") for name, _, value in rows}
    told |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    # The files of an index may lie beside it.
    words = [word for value in told.values() for word in value.split()]
    named = {Path(word[7:]).parent if word.startswith("file://") else Path(word) for word in words}
    return Host(variables=told, lent=tuple(path for path in sorted(named) if path.is_absolute() and path.exists()))


def bases(place: Path, lent: Host) -> dict[str, Image]:
    """Return images that stand in for those of the registries: Debian's least root, and Python on it."""
    root = place / RELEASE
    if not (root / "etc/passwd").exists():
        words = ["debootstrap", "--variant=minbase", "--include=ca-certificates", RELEASE, str(root)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    bare = Image(layers=[root])
    python = Build({"bare": bare}, {}, lent, place)
    python.note(Instruction("FROM", "bare AS python"))
    python.layer(next(read(PYTHON)))
    python.image.sizes.clear()
    return {"python": python.image, "nvidia/cuda": bare}


def begun(path: Path, found: dict[str, Image]) -> dict[str, Image]:
    """Return the stand-ins under the names that a Dockerfile has for its bases."""
    names = [step.text.split(" AS ")[0] for step in read(path.read_text()) if step.word == "FROM" and ":" in step.text]
    return {name: found[name.split(":")[0]] for name in names}


def tried(image: Image, place: Path, asked: Sequence[tuple[tuple[str, ...], int, str]], user: str) -> Iterator[str]:
    """Yield what commands did in one container, and what they left; raises where one did not as it has to."""
    mine = Path(mkdtemp(dir=place))
    os.chown(mine, *[int(user)] * 2)
    with mounted(image, place / f"container-{user}", tuple(map(Path, LENT))) as root:
        subprocess.run(["mount", "--bind", mine, root / "work"], check=True)
        for words, code, says in asked:
            done = run(root, image, [*image.entry, *(words or image.usual)], Host(), user)
            if done.returncode != code or says not in done.stdout + done.stderr or "Traceback" in done.stderr:
                raise SystemExit(
                    f"{' '.join(words)}: {done.returncode}, expected {code} and {says!r}\n{done.stdout}{done.stderr}"
                )
            yield f"{' '.join([*image.entry, *(words or image.usual)])[:90]}  -> {code}"
        owners = {path.stat().st_uid for path in mine.rglob("*")}
        found = run(root, image, ["find", "/", "-xdev", "-writable", "!", "-type", "l", "-print"], Host(), user)
        if owners - {mine.stat().st_uid} or others(found.stdout):
            raise SystemExit(f"files of {owners}; writable: {others(found.stdout)}")
        yield "files in /work are that user's, who may write there and in /tmp alone"


def others(said: str) -> list[str]:
    """Return what is writable besides what may be."""
    return [
        line for line in said.splitlines() if not line.startswith(("/tmp", "/work", *LENT, "/var/tmp", "/run/lock"))
    ]


def proved(path: Path, found: dict[str, Image], given: dict[str, str], lent: Host, place: Path) -> Iterator[str]:
    """Yield lines of the report on one Dockerfile."""
    image = Build(begun(path, found), given, lent, place.parent).of(path)
    yield f"{path.name}: every instruction ran; layers of the image on its base, by du:"
    for what, size in image.sizes:
        yield f"  {size / 1e6:8.1f} MB  {what[:80]}"
    yield f"  {sum(size for _, size in image.sizes) / 1e6:8.1f} MB  in all"
    is_gpu = path.suffix == ".gpu"
    for user in (image.user, str(STRANGER)):
        yield f"as user {user}:"
        yield from (f"  {line}" for line in tried(image, place, (*ASKED, *(ON_A_GPU if is_gpu else ())), user))
    with mounted(image, place / "imports", tuple(map(Path, LENT))) as root:
        for line in (IMPORTS, *([CUPY] if is_gpu else [])):
            done = run(root, image, ["python3", "-c", line], Host())
            if done.returncode:
                raise SystemExit(f"{line}\n{done.stderr}")
            yield f"imported: {done.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("--folder", type=Path, default=ROOT / "build/docker")
    parser.add_argument("files", nargs="*", default=["Dockerfile", "Dockerfile.gpu"])
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.docker.proof", INSIDE]
        os.execvp(words[0], [*words, *sys.argv[1:]])
    args.folder.mkdir(parents=True, exist_ok=True)
    lent, given = host(), dict(pair.split("=", 1) for pair in args.build_arg)
    found = bases(args.folder, lent)
    for name in args.files:
        for line in proved(ROOT / name, found, given, lent, Path(mkdtemp(dir=args.folder, prefix=name))):
            print(line, flush=True)
    print(f"not proved: the bases themselves (Debian {RELEASE} stood in), an engine's own layers and volumes, a GPU")


if __name__ == "__main__":
    main()
