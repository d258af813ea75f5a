"""Starting a program that refuses to run as root, without adding a user or opening a directory.

As anybody else nothing is needed. As root there are two ways, tried in this order:

* a user namespace of its own: the program sees itself as ``nobody`` while every file
  stays root's, so that it works below a directory that only root may enter;
* where that is forbidden (most container runtimes), setuid to ``nobody``; the caller
  then hands over the data and sees to it that ``nobody`` can reach it.
"""

import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, assert_never

_ENTER_NAMESPACE = """
import ctypes, os, sys
uid, gid, directory, *command = sys.argv[1:]
outside = os.geteuid(), os.getegid()
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000):  # CLONE_NEWUSER
    sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
maps = {"setgroups": "deny", "uid_map": f"{uid} {outside[0]} 1", "gid_map": f"{gid} {outside[1]} 1"}
for name, text in maps.items():
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
os.chdir(directory)
os.execv(command[0], command)
"""


@dataclass(frozen=True, slots=True)
class AsIs:
    """The program runs as who we are."""


@dataclass(frozen=True, slots=True)
class OwnNamespace:
    """The program runs as root that believes to be user ``uid``."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class OtherUser:
    """The program runs as user ``uid``."""

    uid: int
    gid: int


Isolation = AsIs | OwnNamespace | OtherUser


def choose_isolation(directory: Path, program: Path, *, owner: int | None) -> Isolation:
    """How ``program`` can be run on data in ``directory``, which belongs to ``owner`` if there is any."""
    if os.geteuid() != 0:
        return AsIs()
    if owner:
        entry = _entry(owner)
        return OtherUser(owner, entry.pw_gid if entry else owner)
    nobody = _nobody()
    namespace = OwnNamespace(nobody.pw_uid, nobody.pw_gid)
    return namespace if _permitted(namespace, directory, program) else OtherUser(nobody.pw_uid, nobody.pw_gid)


def spawn(
    command: Sequence[str | Path],
    isolation: Isolation,
    *,
    directory: Path,
    env: Mapping[str, str],
    output: IO[bytes] | int,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """The command runs in a session of its own, as a direct child, with the descriptors ``keep``.

    A session of its own: Ctrl-C signals the whole foreground group, and PostgreSQL takes
    SIGINT for a fast shutdown, so the hub would lose its store before it has drained.
    """
    words = [str(word) for word in command]
    uid = gid = groups = None
    match isolation:
        case OwnNamespace():
            # Not a preexec_fn: Python code between fork and exec can deadlock in a process with threads.
            place = [str(isolation.uid), str(isolation.gid), str(directory)]
            words = [sys.executable, "-I", "-S", "-c", _ENTER_NAMESPACE, *place, *words]
        case OtherUser():
            uid, gid, groups = isolation.uid, isolation.gid, list[int]()
        case AsIs():
            pass
        case _:
            assert_never(isolation)
    return subprocess.Popen(
        words,
        cwd=directory,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=keep,
        start_new_session=True,
        user=uid,
        group=gid,
        extra_groups=groups,
    )


def _permitted(namespace: OwnNamespace, directory: Path, program: Path) -> bool:
    """Tried in a child that is thrown away: seccomp, a limit of 0 or an owner who is not mapped forbid it."""
    if not sys.platform.startswith("linux"):
        return False
    attempt = spawn([program, "--version"], namespace, directory=directory, env=os.environ, output=subprocess.DEVNULL)
    try:
        return attempt.wait(timeout=10) == 0
    except subprocess.TimeoutExpired:
        attempt.kill()
        attempt.wait()
        return False


def _nobody() -> pwd.struct_passwd:
    # initdb looks its user up, so the number alone would not do.
    for entry in pwd.getpwall():
        if entry.pw_name == "nobody":
            return entry
    return next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)


def _entry(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None
