"""Images without a container engine: each instruction's changes are a layer of an overlay, RUN lines run in a chroot.

For a process that has a mount namespace of its own, as root: what it mounts ends with it.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from .dockerfile import IGNORED, ROOT, Instruction, copied, is_sent, read

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What the kernel and the machine lend to a container.
LENT = ("/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What RUN lines need of this machine and a Dockerfile does not say: variables, and files at the same place."""

    variables: Mapping[str, str] = field(default_factory=dict)
    lent: tuple[Path, ...] = ()


@dataclass(slots=True, kw_only=True)
class Image:
    """Layers, the lowest first, and what containers of them begin with."""

    layers: list[Path]
    sizes: list[tuple[str, int]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "root"
    entry: list[str] = field(default_factory=list)
    usual: list[str] = field(default_factory=list)

    def child(self) -> "Image":
        """Return an image that begins as this one is."""
        parts = {"layers": self.layers, "sizes": self.sizes, "env": self.env, "labels": self.labels}
        return replace(self, **{name: type(value)(value) for name, value in parts.items()})


@contextmanager
def mounted(image: Image, upper: Path, lent: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield the root of a container of an image, with what is lent to it; what it writes is left in `upper`."""
    work, root = upper.with_suffix(".work"), upper.with_suffix(".root")
    for folder in (upper, work, root):
        folder.mkdir(parents=True, exist_ok=True)
    lower = ":".join(str(layer) for layer in reversed(image.layers))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    try:
        lend(root, [path for path in lent if path.exists()])
        yield root
    finally:
        subprocess.run(["umount", "--recursive", root], check=True)
        shutil.rmtree(work)


def lend(root: Path, paths: Sequence[Path]) -> None:
    """Show what lies at a path of this machine at the same path of a container."""
    for path in paths:
        place = root / path.relative_to("/")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir() if path.is_dir() else place.touch()
        subprocess.run(["mount", "--rbind", path, place], check=True)


def run(
    root: Path, image: Image, words: Sequence[str], host: Host, user: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of a container, as the image's user or another, a name or a number."""
    names = {line.split(":")[0]: line.split(":")[2:4] for line in (root / "etc/passwd").read_text().splitlines()}
    as_user = ":".join(names.get(user or image.user, [user or image.user] * 2))
    env = {"PATH": PATH} | dict(host.variables) | image.env
    given = [f"{name}={value}" for name, value in env.items()]
    inside = ["/usr/bin/env", "-i", f"--chdir={image.folder}", *given, *words]
    whole = ["chroot", f"--userspec={as_user}", "--groups=", str(root), *inside]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=3600)


def size_of(layer: Path) -> int:
    """Return the bytes of a layer."""
    said = subprocess.run(["du", "-s", "-B1", layer], capture_output=True, text=True, check=True).stdout
    return int(said.split()[0])


def sent() -> list[str]:
    """Return the files of the working tree that a build is sent; of a folder that is not, none."""
    ignored, found = IGNORED.read_text(), list[str]()
    for folder, folders, names in os.walk(ROOT):
        inner = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if is_sent(str(inner / name), ignored)]
        found += [str(inner / name) for name in names if is_sent(str(inner / name), ignored)]
    return found


class Build:
    """A Dockerfile, instruction for instruction, on images that stand in for the bases that it names."""

    def __init__(self, bases: Mapping[str, Image], arguments: Mapping[str, str], host: Host, place: Path) -> None:
        self.stages, self.arguments, self.host, self.place = dict(bases), arguments, host, place
        self.image, self.variables = Image(layers=[]), dict[str, str]()

    def of(self, path: Path) -> Image:
        """Return the last stage's image."""
        for step in read(path.read_text()):
            if step.word in ("COPY", "RUN"):
                self.layer(step)
            else:
                self.note(step)
        return self.image

    def note(self, step: Instruction) -> None:
        """Follow what changes no file."""
        image, known = self.image, {"PATH": PATH} | self.variables | self.image.env
        match step.word:
            case "FROM":
                base, _, name = step.text.partition(" AS ")
                self.image, self.variables = self.stages[base].child(), {}
                self.stages[name] = self.image
            case "ARG":
                self.variables |= {name: self.arguments.get(name, v) for name, v in step.pairs(known).items()}
            case "ENV":
                image.env |= step.pairs(known)
            case "LABEL":
                image.labels |= step.pairs(known)
            case "WORKDIR":
                image.folder = str(Path(image.folder, step.text))
            case "USER":
                image.user = step.text
            case "ENTRYPOINT":
                image.entry = step.words()
            case "CMD":
                image.usual = step.words()

    def layer(self, step: Instruction) -> None:
        """Run what changes files, and keep the changes as the next layer; one that is there is taken as it is."""
        upper = self.place / self.name(step)
        done = upper.with_suffix(".done")
        lent = (*map(Path, LENT), *self.host.lent) if step.word == "RUN" else ()
        if not done.exists():
            shutil.rmtree(upper, ignore_errors=True)
            with mounted(self.image, upper, lent) as root:
                (root / self.image.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
                self.copy(step, root, upper) if step.word == "COPY" else self.run(step, root)
            done.touch()
        self.image.layers.append(upper)
        self.image.sizes.append((f"{step.word} {step.text}", size_of(upper)))

    def name(self, step: Instruction) -> str:
        """Return a layer's name: of all that makes it what it is."""
        found = hashlib.sha256(repr((self.image.layers, step, self.variables, self.image.env)).encode())
        if step.word == "COPY":
            stage, sources, _ = copied(step)
            found.update(repr(self.stages[stage].layers if stage else "").encode())
            for name in () if stage else sent():
                if name.partition("/")[0] in sources:
                    found.update((ROOT / name).read_bytes())
        return found.hexdigest()[:16]

    def run(self, step: Instruction, root: Path) -> None:
        """Run a line of the shell."""
        host = replace(self.host, variables={**self.host.variables, **self.variables})
        done = run(root, self.image, ["/bin/sh", "-c", step.text], host)
        if done.returncode:
            raise SystemExit(f"RUN {step.text}\nended with {done.returncode}:\n{done.stderr[-3000:]}")

    def copy(self, step: Instruction, root: Path, upper: Path) -> None:
        """Copy from a stage, or from the files that the build is sent."""
        stage, sources, place = copied(step)
        target = root / str(Path(self.image.folder, place)).lstrip("/")
        if stage:
            with mounted(self.stages[stage], upper.with_name(f"{upper.name}-{stage}")) as other:
                shutil.copytree(other / sources[0].lstrip("/"), target, symlinks=True)
            return
        for name in sent():
            for source in sources:
                if name == source or name.startswith(f"{source}/"):
                    inner = Path(name).relative_to(source) if name != source else Path(name).name
                    (target / inner).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, target / inner)
