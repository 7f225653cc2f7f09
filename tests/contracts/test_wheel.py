"""The distribution: what a wheel holds, and that the base install is light."""

import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"simulator", "cuda_probe", "acceptance", "calibration"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel built from the tracked files alone."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, folder / "source"], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_a_wheel_holds_our_packages_and_nothing_else_at_its_root(names: list[str]) -> None:
    roots = {name.partition("/")[0] for name in names}
    assert {r for r in roots if not r.endswith(".dist-info")} == PACKAGES


def test_a_wheel_holds_the_bundled_pair_types_and_licences(names: list[str]) -> None:
    pair = "acceptance/tiny_pair"
    for name in ("target/model.safetensors", "draft/model.safetensors", "target/tokenizer.json", "prompts.jsonl"):
        assert f"{pair}/{name}" in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {"calibration/published/cases.schema.json", "calibration/published/tables/leviathan.json"} <= set(names)
    assert "calibration/pages/page.css" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("PSF-LICENSE.txt") and ".dist-info" in name for name in names)


def test_the_packages_belong_to_this_distribution_alone() -> None:
    owners = packages_distributions()
    for package in PACKAGES:
        assert set(owners[package]) == {"specsim"}


def test_the_base_install_needs_light_libraries_alone() -> None:
    base = {r.split(">")[0].strip() for r in requires("specsim") or [] if "extra ==" not in r}
    light = {"filelock", "jsonschema", "lazy-loader", "prometheus-client", "psutil", "rich", "threadpoolctl"}
    assert base == {"numpy", "scipy", "pandas", "matplotlib", "click"} | light
