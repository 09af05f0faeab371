"""The documentation does what it says: its code runs, its commands parse, its links lead somewhere.

A block in a page says what it is: ``python``, ``ipython`` and ``toml`` are run
or loaded, ``text`` is only read, and those without a language are command lines.
"""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from p06bs import cli, config
from tests.markdown_pages import PAGES, REPOSITORY, Page, plain

LANGUAGES = {"", "python", "ipython", "toml", "text"}
OTHER_COMMANDS = {
    ".": "the shell's",
    "curl": "not ours",
    "ipython": "runs as a session, see below",
    "pip": "not ours",
    "rsync": "not ours",
}
"""What stands in blocks of command lines and is not checked here, and why."""
SHORTER = {"fly_map()": "fly_map(nx=4, ny=3)", "nx=81, ny=21, rate=100": "nx=3, ny=2, rate=100"}
"""Scans of IPython sessions that last longer than a test should."""


def pages_with(language: str) -> list[str]:
    return [path for path in PAGES if language in Page(path).languages()]


def scripts() -> list[Any]:
    found = [(path, b) for path in PAGES for b in Page(path).blocks("python") if b.is_script]
    return [pytest.param(path, block, id=f"{path}:{block.line}") for path, block in found]


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    """Return what runs Python in an empty directory, with a page's files importable."""

    def run(page: str, *arguments: str) -> str:
        for block in Page(page).blocks("python"):
            if block.file:
                (tmp_path / block.file).write_text(block.source)
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
                "P06BS_PROXY": f"ipc://{tmp_path}/in",
                "HOME": str(tmp_path),
            },
        )
        assert done.returncode == 0, f"{page}: {done.stderr[-3000:]}"
        return done.stdout

    return run


@pytest.mark.parametrize("path", PAGES)
def test_blocks_say_what_they_are(path):
    assert Page(path).languages() <= LANGUAGES


@pytest.mark.parametrize("path", pages_with("python"))
def test_code_of_a_page_runs_from_top_to_bottom(reader, path):
    reader(path, "-c", f"from tests.test_docs import run_page; run_page({path!r})")


@pytest.mark.parametrize(("path", "block"), scripts())
def test_a_script_runs(reader, tmp_path, path, block):
    (tmp_path / "script.py").write_text(block.source)
    assert reader(path, "script.py") == "success {'primary': 100}\n"


@pytest.mark.parametrize("path", pages_with("ipython"))
def test_an_ipython_session_runs(reader, path):
    out = reader(path, "-c", f"from tests.test_docs import run_session; run_session({path!r})")
    assert out.count("success: {") == 3


def run_page(path: str) -> None:
    """Run a page's code in the current directory, as its reader would."""
    from tests.page_contexts import CONTEXTS

    blocks = [b for b in Page(path).blocks("python") if not b.file and not b.is_script]
    with CONTEXTS.get(path, lambda: nullcontext(({}, {})))() as (names, replaced):
        text = "".join(block.source for block in blocks)
        missing = [old for old in replaced if old not in text]
        assert not missing, f"{path} no longer has {missing}, which its context replaces"
        for block in blocks:
            source = block.source
            for old, new in replaced.items():
                source = source.replace(old, new)
            exec(block.compiled(path, source), names)


def run_session(path: str) -> None:
    """Run what is typed at the prompt, after the profile's startup files."""
    names: dict[str, Any] = {}
    for file in sorted((REPOSITORY / "profile_collection" / "startup").glob("*.py")):
        exec(compile(file.read_text(), file, "exec"), names)
    (block,) = Page(path).blocks("ipython")
    missing = [long for long in SHORTER if long not in block.source]
    assert not missing, f"{path} no longer has {missing}, which the test makes shorter"
    for line in block.source.splitlines():
        typed = re.sub(r"^In \[\d+\]: ", "", line)
        for long, short in SHORTER.items():
            typed = typed.replace(long, short)
        exec(typed, names)


@pytest.mark.parametrize("path", pages_with("toml"))
def test_configurations_load(tmp_path, monkeypatch, path):
    monkeypatch.syspath_prepend(tmp_path)
    for block in Page(path).blocks("python"):
        if block.file:
            (tmp_path / block.file).write_text(block.source)
    for block in Page(path).blocks("toml"):
        file = tmp_path / "page.toml"
        file.write_text(block.source)
        if block.source.startswith("[project"):  # a pyproject.toml of the reader's
            assert config.tomllib.loads(block.source)["project"]["entry-points"][config.MODALITIES]
            continue
        for section in config.load(file).pipelines:
            section.make()


def command_line() -> Any:
    """Return the command line, with commands that do nothing when they are called."""
    group: Any = get_command(cli.app)
    waiting = [group]
    while waiting:
        command = waiting.pop()
        command.callback = lambda **_: None
        waiting += getattr(command, "commands", {}).values()
    return group


def parse(words: list[str], *, named_only: bool = False) -> None:
    """Parse the words after ``p06bs``; where a command is only named, arguments may be missing."""
    words = ["modalities" if word == "COMMAND" else word for word in words]
    try:
        command_line()(words, prog_name="p06bs", standalone_mode=False)
    except Exception as error:
        if not named_only or type(error).__name__ != "MissingParameter":
            raise AssertionError(f"p06bs {' '.join(words)}: {error}") from error


@cache
def options_of(module: str) -> set[str]:
    """Return the options that ``python -m module --help`` lists."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    return set(re.findall(r"--[\w-]+", done.stdout))


def check_command(words: list[str], *, named_only: bool = False) -> None:
    program, *rest = words
    if program == "p06bs":
        parse(rest, named_only=named_only)
    elif program == "make":
        target, *assigned = rest
        makefile = (REPOSITORY / "Makefile").read_text()
        assert re.search(rf"(?m)^{target}:", makefile), words
        for text in assigned:
            variable, _, value = text.partition("=")
            assert re.search(rf"(?m)^{variable} \?=", makefile), words
            if variable == "ARGS":
                assert target == "demo"
                parse(["demo", *plain(value)])
    elif words[:2] == ["python", "-m"]:
        unknown = {w for w in words if w.startswith("--")} - options_of(words[2])
        assert not unknown, f"{words[2]} has no {unknown}"
    else:
        assert program in OTHER_COMMANDS, f"{program} is no command that is known here"


@pytest.mark.parametrize("path", PAGES)
def test_command_lines_parse(path, capsys):
    for _, words in Page(path).commands():
        check_command(words)
    for _, words in Page(path).mentions():
        check_command(words, named_only=True)


def test_the_reference_lists_the_options_of_each_command():
    documented = {}
    for heading, tokens in Page("docs/reference/cli.md").sections().items():
        if heading.startswith("p06bs"):
            code = [c.content for t in tokens for c in t.children or () if c.type == "code_inline"]
            name = re.sub(r" \[?[A-Z-].*", "", heading).removeprefix("p06bs ")
            documented[name] = set(re.findall(r"--[a-z-]+", " ".join([heading, *code])))
    there = {}
    waiting = [("", command_line())]
    while waiting:
        name, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [(f"{name} {n}".strip(), c) for n, c in command.commands.items()]
        if not hasattr(command, "commands") or (name and command.invoke_without_command):
            there[name] = {o for p in command.params for o in p.opts if o.startswith("--")}
            there[name].discard("--help")
    assert documented == there


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path):
    for link in Page(path).links():
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (REPOSITORY / path).parent / target if target else REPOSITORY / path
        assert file.exists(), f"{path}: {link}"
        if anchor:
            page = str(file.resolve().relative_to(REPOSITORY))
            assert anchor in Page(page).anchors(), f"{path}: {link}"
