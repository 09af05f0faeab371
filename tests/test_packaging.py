"""What is shipped: sdist, wheel of the sdist, an environment of its own that imports everything."""

import importlib.metadata
import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LINKED = ("callbacks", "plans", "services")

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import p06bs
names = [m.name for m in pkgutil.walk_packages(p06bs.__path__, "p06bs.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([p06bs.__file__, names]))
"""


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def sources() -> set[str]:
    """Return the modules that the working tree has, by file."""
    folders = [REPOSITORY / "p06bs", *(REPOSITORY / name for name in LINKED)]
    files = {f for folder in folders for f in folder.rglob("*.py") if "__pycache__" not in f.parts}
    found = {f.relative_to(REPOSITORY) for f in files}
    return {
        str(f if f.parts[0] == "p06bs" else Path("p06bs") / f)
        for f in found
        if len(f.parts) < 2 or f.parts[0] != "p06bs" or f.parts[1] not in LINKED
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build from a copy of the tree, so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree / name)
    for name in ("p06bs", *LINKED):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, tree / name, symlinks=True, ignore=ignore)
    # Where the build backend is installed nothing is fetched from an index.
    there = int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    options = ["--no-isolation"] if there else []
    run(sys.executable, "-m", "build", *options, "--outdir", folder / "dist", tree)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel; its dependencies come from this environment, p06bs does not."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", built[1])
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # A plain path: the .pth files in it, such as that of an editable install, are not read.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder


def test_wheel_and_sdist_hold_each_module_once(built):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {n for n in names if n.endswith(".py")}
    assert modules == sources()
    assert {"p06bs/py.typed", "p06bs/services/sim.toml"} <= set(names)
    assert not [n for n in names if n.split("/")[0] in (*LINKED, "tests")]
    with tarfile.open(sdist) as archive:
        inside = {n.partition("/")[2] for n in archive.getnames()}
    assert modules <= inside


def test_a_fresh_environment_imports_everything(environment, tmp_path):
    python = environment / "bin" / "python"
    file, names = json.loads(run(python, "-I", "-W", "error", "-c", IMPORT_ALL, cwd=tmp_path))
    assert Path(file).is_relative_to(environment)
    expected = {
        n.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for n in sources()
    }
    assert set(names) | {"p06bs"} == expected


def test_the_command_and_its_entry_points_resolve(environment, tmp_path):
    command = environment / "bin" / "p06bs"
    found = json.loads(run(command, "modalities", "--json", cwd=tmp_path))
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"]["p06bs.modalities"]
    assert found == declared
    checked = json.loads(run(command, "check", "counters", "--json", cwd=tmp_path))
    assert set(checked["findings"].values()) == {""}


@pytest.mark.parametrize("name", LINKED)
def test_the_folders_are_reached_through_committed_relative_links(name):
    link = REPOSITORY / "p06bs" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    if (REPOSITORY / ".git").exists():
        entry = run("git", "ls-files", "--stage", f"p06bs/{name}", cwd=REPOSITORY)
        assert entry.startswith("120000 "), "git holds it as something else than a link"


@pytest.mark.parametrize("name", LINKED)
def test_the_folders_refuse_to_be_imported_under_their_own_names(name):
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: import p06bs.{name}, not {name}:")
