"""Rights as the file system answers: asked of the kernel as real users, or evaluated here."""

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.server.access.kernel_rights import SCRIPT, KernelRights
from p06bs.server.access.mode_bits import ModeBits, may_follow
from p06bs.server.access.posix_acl import ENTER, READ, Inode, parse, permits
from p06bs.server.access.rights import rights_of
from p06bs.server.access.roots import PATH_MAX, Roots, parts_of, within
from p06bs.server.access.users import SystemUser
from tests.system_users import (
    command,
    kernel_says,
    needs_root,
    open_directory,
    random_tree,
    system_users,
)


@pytest.fixture(scope="module")
def users():
    with system_users() as users:
        yield users


@pytest.fixture
def top():
    with open_directory() as path:
        yield path


def folder(path, mode=0o755, owner="root", group="root"):
    path.mkdir(parents=True)
    command("chown", f"{owner}:{group}", path)
    path.chmod(mode)
    return path


def both(top):
    return [KernelRights(Roots([top])), ModeBits(Roots([top]))]


def seen_by(rights, users, *folders):
    """Return who of the users sees which folder, by the names that the tests have for them."""
    asked = [str(folder) for folder in folders]
    return {
        name: sorted(asked.index(folder) for folder in rights.visible(users[name], asked))
        for name in users.names
    }


# Roots and paths


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/data", True), ("/data/", True), ("//data/./a//b/", True), ("/data/a", True),
        ("/database", False), ("/", False), ("", False), ("data", False), ("./data", False),
        ("/data/..", False), ("/data/../data", False), ("/data/a/..", False), ("/data/..a", True),
        ("/data/a\0b", False), ("/data/\ud800", False), ("/data/\udcff", True), ("/dat", False),
        ("/data/" + "a" * PATH_MAX, False), ("/data/" + "é" * 2048, False), ("/other/x", True),
    ],
)  # fmt: skip
def test_folders_are_named_within_the_roots(path, named):
    assert Roots(["/data", "/other/x/"]).name(path) == named


def test_roots_are_absolute_and_none_denies_everything():
    for bad in ("data", "/data/../etc", "~/data"):
        with pytest.raises(ValueError, match="cannot be a root"):
            Roots([bad])
    assert not Roots([]).name("/data")
    assert "everything is denied" in rights_of("mode-bits", []).describe()


@given(st.lists(st.sampled_from(["", ".", "..", "a", "b"])), st.booleans())
def test_a_path_to_be_followed_stays_below_each_of_its_beginnings(names, absolute):
    path = ("/" if absolute else "") + "/".join(names)
    parts = parts_of(path)
    if parts is None:
        assert ".." in names or not path.startswith("/")
    else:
        assert os.path.normpath("/" + "/".join(parts)) == "/" + "/".join(parts)
        assert Roots([path]).name(path)


def test_real_paths_are_within_whole_names():
    assert within(b"/data", [b"/data"])
    assert within(b"/data/a", [b"/x", b"/data"])
    assert within(b"/anything", [b"/"])
    assert not within(b"/database", [b"/data"])
    assert not within(b"", [b"/data"])
    assert not within(b"(unreachable)/data", [b"/data"])
    assert not within(b"/data", [])


# Mode bits and ACLs


def test_acl_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version 2"):
        parse(b"\x01\0\0\0")
    with pytest.raises(ValueError, match="version 2"):
        parse(b"")
    with pytest.raises(ValueError, match="version 2"):
        parse(b"\x02\0\0\0\1\0")


def test_the_first_class_that_fits_decides():
    ada = SystemUser(1001, 2001, frozenset({2001, 2002}))
    assert not permits(Inode(1001, 2001, 0o077), ada, READ)
    assert not permits(Inode(0, 2002, 0o707), ada, ENTER)
    assert permits(Inode(0, 0, 0o001), ada, ENTER)
    assert not permits(Inode(0, 0, 0o001), ada, READ)


@pytest.mark.parametrize("protected", [True, False])
def test_links_in_shared_directories_are_followed_as_linux_protects_them(protected):
    shared, plain = Inode(7, 0, 0o1777), Inode(7, 0, 0o755)
    assert may_follow(plain, 8, 9, protected)
    assert may_follow(shared, 9, 9, protected)  # the user's own
    assert may_follow(shared, 7, 9, protected)  # the directory owner's
    assert may_follow(shared, 8, 9, protected) == (not protected)


# With real users


@needs_root
def test_classes_of_users_as_the_kernel_has_them(users, top):
    own = folder(top / "own", 0o500, users["ada"])
    group = folder(top / "group", 0o050, "root", users.group)
    other = folder(top / "other", 0o705, "root", users.group)
    list_only = folder(top / "list", 0o444)
    enter_only = folder(top / "enter", 0o111)
    below = folder(top / "shut/below")
    (top / "shut").chmod(0o700)
    above = folder(top / "enter/below")
    folders = own, group, other, list_only, enter_only, below, above
    want = {
        "ada": [0, 1, 6], "bob": [1, 6], "cleo": [2, 6], "dan": [2, 6], "eve": [2, 6],
        "fay": [2, 6],
    }  # fmt: skip
    for rights in both(top):
        assert seen_by(rights, users, *folders) == want
        assert rights.visible("root", map(str, folders)) == frozenset(map(str, folders))


@needs_root
def test_acls_and_their_masks(users, top):
    user, group = folder(top / "user", 0o700), folder(top / "group", 0o700)
    masked, emptied = folder(top / "masked", 0o705), folder(top / "emptied", 0o705)
    owned = folder(top / "owned", 0o700, users["eve"])
    command("setfacl", "-m", f"u:{users['cleo']}:rx", user)
    command("setfacl", "-m", f"g:{users.group}:rx", group)
    command("setfacl", "-m", f"u:{users['cleo']}:rwx,m::r", masked)
    # Linux, other than acl(5), takes an ACL with an empty mask for none.
    command("setfacl", "-m", f"u:{users['cleo']}:rwx,m::-", emptied)
    command("setfacl", "-m", f"u:{users['eve']}:-", owned)
    folders = user, group, masked, emptied, owned
    for rights in both(top):
        seen = seen_by(rights, users, *folders)
        assert seen["cleo"] == [0, 3]
        assert seen["ada"] == seen["bob"] == [1, 2, 3]
        assert seen["dan"] == seen["fay"] == [2, 3]
        assert seen["eve"] == [2, 3, 4]


@needs_root
def test_links_lead_within_the_roots_or_nowhere(users, top):
    root, outside = folder(top / "root"), folder(top / "outside/data")
    inside = folder(root / "inside/data")
    hidden = folder(root / "hidden/data")
    (root / "hidden").chmod(0o700)
    (root / "in").symlink_to("inside")
    (root / "in2").symlink_to(root / "in" / "data")
    (root / "out").symlink_to("../outside")
    (root / "out2").symlink_to(outside)
    (root / "round").symlink_to(f"../outside/../{root.name}/inside/data")
    (root / "loop").symlink_to("loop")
    (root / "peek").symlink_to("hidden/data")
    (root / "dangling").symlink_to("missing")
    (root / "file").write_text("")
    (top / "other").symlink_to(root)
    good = [root, inside, root / "in/data", root / "in2", root / "in2/.", root / "round"]
    bad = [
        root / "out", root / "out/data", root / "out2", root / "loop", root / "peek", hidden,
        root / "dangling", root / "missing", root / "file", root / "file/x", outside, top,
        top / "other/inside", f"{root}/in/../inside", f"{root}/inside/data/..", "inside", "",
        f"{root}/in\0", f"{root}/" + "a" * 300, f"{root}/" + "a/" * 2000,
    ]  # fmt: skip
    asked = [str(path) for path in (*good, *bad)]
    for rights in both(root):
        assert rights.visible(users["ada"], asked) == frozenset(map(str, good))
    # A root may be a link: what it leads to is the root.
    for rights in both(top / "other"):
        asked = [f"{top}/other/inside", f"{top}/other/out", str(inside)]
        assert rights.visible(users["ada"], asked) == {f"{top}/other/inside"}


@needs_root
def test_forty_links_are_followed_and_no_more(users, top):
    folder(top / "l0")
    for number in range(1, 43):
        (top / f"l{number}").symlink_to(f"l{number - 1}")
    asked = [str(top / f"l{number}") for number in (39, 40, 41)]
    for rights in both(top):
        assert rights.visible(users["ada"], asked) == frozenset(asked[:2])


@needs_root
def test_users_and_roots_that_are_not_there(users, top):
    data = str(folder(top / "data"))
    for rights in both(top):
        for nobody in ("no-such-user", "", "a\0b", "\ud800", "0", users["ada"] + " ", "-u"):
            assert rights.visible(nobody, [data]) == frozenset()
        assert rights.visible(users["ada"], []) == frozenset()
    for rights in both(top / "missing"):
        assert rights.visible(users["ada"], [f"{top}/missing/x", data]) == frozenset()
    assert ModeBits(Roots([top, top / "missing"])).visible(users["ada"], [data]) == {data}
    assert KernelRights(Roots([top, top / "missing"])).visible(users["ada"], [data]) == {data}
    assert KernelRights(Roots([])).visible(users["ada"], [data]) == frozenset()


@needs_root
def test_rights_count_when_they_are_asked(users, top):
    data = folder(top / "data", 0o750, "root", users.group)
    for rights in both(top):
        assert rights.visible(users["ada"], [str(data)])
        command("gpasswd", "-d", users["ada"], users.group)
        assert not rights.visible(users["ada"], [str(data)])
        assert rights.visible(users["bob"], [str(data)])
        command("gpasswd", "-a", users["ada"], users.group)
        assert rights.visible(users["ada"], [str(data)])


@needs_root
@pytest.mark.parametrize("seed", range(8))
def test_both_ways_equal_the_kernel_on_random_trees(users, top, seed):
    folders = random_tree(seed, top / "", users)
    kernel, evaluated = both(top)
    assert evaluated._roots.paths == kernel._roots.paths
    chosen = random.Random(seed).sample(sorted(users.names), 2)
    for name in (*users.names.values(), "root"):
        seen = kernel.visible(name, folders)
        assert evaluated.visible(name, folders) == seen, name
        if name in {users[name] for name in chosen}:
            inside = [f for f in folders if within(os.path.realpath(f).encode(), [bytes(top)])]
            assert {f for f in inside if kernel_says(name, f)} == seen


@needs_root
def test_what_is_outside_of_a_users_reach_is_not_told_apart_by_the_answer(users, top):
    """A link swapped while it is followed shows where it led, not where it had led."""
    inside, outside = folder(top / "root/inside"), folder(top / "outside")
    link = top / "root/link"
    rights = KernelRights(Roots([top / "root"]))
    stop = threading.Event()

    def swap():
        turn = 0
        while not stop.is_set():
            new = top / "root/new"
            new.symlink_to((inside, outside)[turn := 1 - turn])
            new.rename(link)

    thread = threading.Thread(target=swap)
    link.symlink_to(inside)
    thread.start()
    try:
        names = [str(link) + "/" * number for number in range(2000)]
        until = time.monotonic() + 60
        # Until both are met: then the answer is made of what was opened each time.
        while not 0 < len(rights.visible(users["ada"], names)) < len(names):
            assert time.monotonic() < until
    finally:
        stop.set()
        thread.join()


@needs_root
def test_who_asks_as_a_user_cannot_be_spied_out_by_the_user(users, top):
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), users["ada"], "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        # Not all at once: it reads to the end, so it lives until we close.
        process.stdin.write(bytes(top) + b"\0")
        process.stdin.flush()
        uid = int(subprocess.check_output(["id", "-u", users["ada"]]))
        until(lambda: set(psutil.Process(process.pid).uids()) == {uid})
        status = psutil.Process(process.pid)
        groups = subprocess.check_output(["id", "-G", users["ada"]]).split()
        with open(f"/proc/{status.pid}/status") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file)
        assert sorted(fields["Groups"].split()) == sorted(g.decode() for g in groups)
        assert {int(fields[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Inh", "Amb")} == {0}
        # Readable by others of the same user is what may be traced, and made to lie.
        for name in ("environ", "mem", "fd/0"):
            done = subprocess.run(
                ["runuser", "-u", users["ada"], "--", "cat", f"/proc/{process.pid}/{name}"],
                check=False, capture_output=True,
            )  # fmt: skip
            assert b"denied" in done.stderr, name
        out, _ = process.communicate(timeout=30)
        assert out == bytes(top) + b"\0"
    finally:
        process.kill()
        process.wait()


def until(condition):
    for _ in range(200):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come")


@contextlib.contextmanager
def hanging(path):
    """Mount a file system of which each question waits for an answer that never comes."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hangs", bytes(path), b"fuse", 0, options) != 0:
        os.close(device)
        pytest.skip(f"NOT TESTED: a file system that hangs ({os.strerror(ctypes.get_errno())})")
    try:
        yield
    finally:
        os.close(device)
        libc.umount2(bytes(path), 2)


needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.W_OK), reason="NOT TESTED: a file system that hangs: no /dev/fuse"
)


@needs_root
@needs_fuse
def test_a_file_system_that_hangs_costs_its_own_folders_only(users, top, caplog):
    good = [str(folder(top / name)) for name in ("a", "c", "z")]
    sick = folder(top / "b")
    rights = KernelRights(Roots([top]), patience=0.8)
    with hanging(sick):
        asked = [*good, str(sick), f"{sick}/x"]
        assert rights.visible(users["ada"], asked) == frozenset(good)
        said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert [text.split()[0] for text in said] == [str(sick), f"{sick}/x"]
        # What hung is asked last, so that it delays the rest no more.
        many = [f"{sick}/{number}" for number in range(10)]
        assert rights.visible(users["ada"], [*many, good[2]]) == frozenset()
        assert "too much hangs" in caplog.text
        assert rights.visible(users["ada"], [*many[:3], good[2]]) == {good[2]}
    assert rights.visible(users["ada"], [*good, str(sick)]) == {*good, str(sick)}


@needs_root
@needs_fuse
def test_a_root_that_hangs_is_denied(users, top, caplog):
    rights = KernelRights(Roots([top / "root"]), patience=2.0)
    data = folder(top / "root/data")
    with hanging(top / "root"):
        assert rights.visible(users["ada"], [str(data)]) == frozenset()
        assert "a root hangs" in caplog.text
    assert rights.visible(users["ada"], [str(data)]) == {str(data)}


@needs_root
@pytest.mark.logs_errors
def test_who_kills_the_asking_process_sees_nothing_of_what_is_left(users, top, caplog):
    data = str(folder(top / "data"))
    rights = KernelRights(Roots([top]))
    me, done = psutil.Process(), threading.Event()

    def kill():
        while not done.is_set():
            for child in me.children():
                with contextlib.suppress(psutil.Error):
                    child.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert rights.visible(users["ada"], [data]) == frozenset()
    finally:
        done.set()
        thread.join()
    assert "ended with -9" in caplog.text
    assert rights.visible(users["ada"], [data]) == {data}


def test_without_root_the_kernel_is_not_asked(tmp_path):
    """In a process that is no longer root's, as in one that never was."""
    code = (
        "import os, sys\n"
        "from p06bs.server.access.rights import rights_of\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "print(rights_of('mode-bits', [sys.argv[1]]).describe())\n"
        "try: rights_of('kernel', [sys.argv[1]])\n"
        "except PermissionError as error: print(error)\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code, "/data"], text=True, cwd="/")
    assert "mode bits and POSIX ACLs only, within /data" in out
    assert 'rights = "mode-bits" in [server.access]' in out
