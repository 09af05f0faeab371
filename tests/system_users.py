"""System users, groups and folders with rights, made for a test and removed after it."""

import contextlib
import grp
import itertools
import os
import pwd
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(name) is None for name in ("useradd", "setfacl")),
    reason="NOT TESTED: who may see what. It needs root, useradd and setfacl: real system users "
    "are made, and the kernel is asked as each of them",
)

NAMES = ("ada", "bob", "cleo", "dan", "eve", "fay")
_numbers = itertools.count()


class Users:
    """Six users; `ada` and `bob` are in the group that `group` names, `fay` in another."""

    def __init__(self):
        tag = f"{os.getpid() % 100000}x{next(_numbers)}"
        self.group, self.other_group = f"g1p{tag}", f"g2p{tag}"
        self.names = {name: f"{name}p{tag}" for name in NAMES}

    def __getitem__(self, name):
        return self.names[name]

    def make(self):
        for group in (self.group, self.other_group):
            command("groupadd", group)
        groups = {"ada": self.group, "bob": self.group, "fay": self.other_group}
        for name, system_name in self.names.items():
            more = ["-G", groups[name]] if name in groups else []
            command("useradd", "-M", "-N", "-s", "/bin/sh", "-g", "nogroup", *more, system_name)

    def remove(self):
        there = {entry.pw_name for entry in pwd.getpwall()}  # a test may have removed some
        for system_name in there.intersection(self.names.values()):
            command("userdel", system_name)
        for group in (self.group, self.other_group):
            command("groupdel", group)


@contextlib.contextmanager
def system_users():
    users = Users()
    try:
        users.make()
        yield users
    finally:
        users.remove()


@contextlib.contextmanager
def open_directory():
    """Yield a directory that everybody may enter (pytest's are root's alone)."""
    path = Path(tempfile.mkdtemp(prefix="p06bs-rights-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def command(*words):
    for _ in range(20):
        done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
        if "cannot lock" not in done.stderr:  # another test of the machine makes users, too
            break
    assert done.returncode == 0, (words, done.stderr)


def kernel_says(user, folder):
    """Return whether the user may list and enter the folder: the oracle, a shell of theirs."""
    done = subprocess.run(
        ["runuser", "-u", user, "--", "sh", "-c", 'cd -- "$1" && ls -- . >/dev/null', "sh", folder],
        check=False,
        capture_output=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        cwd="/",
    )
    return done.returncode == 0


def random_tree(seed, top, users):
    """Make a tree of directories and links with random owners, modes and ACLs; return paths."""
    draw = random.Random(seed)
    owners = [0, *map(_uid, users.names.values())]
    groups = [0, *map(_gid, (users.group, users.other_group, "nogroup"))]
    paths = [top]
    for number in range(draw.randint(8, 16)):
        parent = draw.choice(paths)
        if not Path(os.path.realpath(parent)).is_relative_to(top):
            continue  # a link that leads out: nothing is made there
        path = parent / f"n{number}"
        if draw.random() < 0.25 and len(paths) > 1:
            target = draw.choice([
                draw.choice(paths), os.path.relpath(draw.choice(paths), parent), "..", "missing",
                f"../{path.parent.name}/.", path,
            ])  # fmt: skip
        else:
            target = None
        try:
            path.mkdir() if target is None else path.symlink_to(target)
        except OSError:
            continue  # below a link that leads nowhere
        if target is not None:
            os.lchown(path, draw.choice(owners), 0)
        paths.append(path)  # further paths go on through links, too
    for path in reversed(paths[1:]):
        if not path.is_symlink() and path.is_dir():
            os.chown(path, draw.choice(owners), draw.choice(groups))
            often = draw.choice([0o755, 0o750, 0o711, 0o770, 0o1777, draw.randrange(0o1000)])
            path.chmod(often)
            if draw.random() < 0.5:
                _random_acl(draw, path, users)
    return [str(path) for path in paths]


def _random_acl(draw, path, users):
    bits = ["---", "--x", "r--", "r-x", "rwx"]
    entries = [f"u:{name}:{draw.choice(bits)}" for name in users.names.values()]
    entries += [f"g:{name}:{draw.choice(bits)}" for name in (users.group, users.other_group)]
    chosen = draw.sample(entries, draw.randint(1, 4))
    if draw.random() < 0.5:
        chosen.append(f"m::{draw.choice(bits)}")
    chosen.append(f"g::{draw.choice(bits)}")
    command("setfacl", "-m", ",".join(chosen), path)


def _uid(name):
    return pwd.getpwnam(name).pw_uid


def _gid(name):
    return grp.getgrnam(name).gr_gid
