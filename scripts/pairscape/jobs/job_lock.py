"""One process at a time on a job: a lock file that says who holds it; a dead holder loses it.

It holds JSON: host, pid and start of the process, the Slurm job, when it was taken. Whether its holder
is alive is seen from its process where that can be seen; else (another host or container) from the
file's time stamp, which the holder moves every ``BEAT_S``. Clocks of two hosts are never compared.
"""

import atexit
import contextlib
import datetime
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pairscape.core.errors import InputError

BEAT_S = 20
DEAD_AFTER_S = 120  # a time stamp that stands still so long; NFS may show an old one for 60 s
LOOK_S = 1
TELL_S = 60

_held: dict[str, threading.Event] = {}  # what ends the heartbeat of each lock of this process


def take(path, say: Callable[[str], None], wait: bool = True) -> bool:
    """Take the lock ``path`` and return whether it was waited for.

    Nothing is done where this process holds it.

    The lock of a dead process is taken over. For that of a live one ``take`` waits.

    Parameters
    ----------
    say
        Takes a line for the user: whom it waits for (again every ``TELL_S``), whose lock it took over.
    wait
        Whether to wait for a live holder.
    """
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    me = _describe_process()
    seen = since = told = None
    beats = False
    while not _create(path, me):
        found = _look(path)
        if found is None:
            continue  # released since
        holder = found[0]
        if _is_same(holder, me):
            break
        now = time.monotonic()
        if found != seen:
            beats = seen is not None and holder == seen[0] != {}
            seen, since = found, now
        alive = _is_alive(holder)
        if alive is False or (alive is None and now - since >= DEAD_AFTER_S):
            _remove_dead(path, found, say)
            continue
        if not wait and (alive or beats):
            remedy = "wait until that has ended, or end it; then give the same command again"
            raise InputError(path, "lock", f"{_name(holder)} at work", remedy)
        if told is None or now - told >= TELL_S:
            told = now
            doubt = "" if alive or beats else f", or is seen to be dead for {DEAD_AFTER_S:g} s"
            say(f"waiting until {_name(holder)} releases {path}{doubt}")
        time.sleep(LOOK_S)
    if path not in _held:
        _held[path] = threading.Event()
        threading.Thread(target=_beat, args=(path, me, _held[path]), daemon=True).start()
    return told is not None


def release(path) -> None:
    """Release the lock ``path`` if this process holds it."""
    path = os.path.abspath(path)
    ends = _held.pop(path, None)
    if ends:
        ends.set()
    with contextlib.suppress(OSError):  # a lock that stays will be seen to be a dead one's
        found = _look(path)
        if found and _is_same(found[0], _describe_process()):
            os.unlink(path)


@atexit.register
def release_all() -> None:
    """Release what this process holds."""
    for path in list(_held):
        release(path)


def _create(path: str, me: Mapping) -> bool:
    """Make the lock file; False where there is one."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        try:
            os.write(handle, (json.dumps(me) + "\n").encode())
        finally:
            os.close(handle)  # NFS writes here
    except OSError as error:
        os.unlink(path)
        error.filename = path
        raise
    return True


def _look(path: str) -> tuple[dict, int] | None:
    """The holder ({} where it can't be read) and the time stamp; None where there is no lock."""
    try:
        with open(path, "rb") as handle:  # opening makes NFS ask the server
            text, stamp = handle.read(), os.fstat(handle.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(text)
    except ValueError:
        return {}, stamp
    return (holder if isinstance(holder, dict) and "pid" in holder else {}), stamp


def _remove_dead(path: str, found: tuple[dict, int], say: Callable[[str], None]) -> None:
    """Delete the lock if it still is the one found dead.

    Looking and deleting are two steps, between which another may take the dead one's place: only who
    holds a lock on the lock does them. Renaming it would not do: that might catch the new one.
    """
    guard = f"{path}.takeover"
    take(guard, lambda line: None)
    try:
        if _look(path) == found:
            os.unlink(path)
            say(f"taking over {path} from {_name(found[0])}, which is dead")
    finally:
        release(guard)


def _beat(path: str, me: Mapping, ends: threading.Event) -> None:
    while not ends.wait(BEAT_S):
        with contextlib.suppress(OSError):
            found = _look(path)
            if found and _is_same(found[0], me):
                os.utime(path)


def _describe_process() -> dict:
    return {
        "host": os.uname().nodename,
        "sees": _sees(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _sees() -> str:
    """What processes share that see each other: the boot and the container; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Ticks from the boot to a process's start; 0 for one that has ended, None for a hidden one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return 0
        except OSError:  # alive, another user's
            pass
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])


def _is_alive(holder: Mapping) -> bool | None:
    """Whether the holder's process is alive; None where it can't be seen from here."""
    if not holder or not holder.get("sees") or holder["sees"] != _sees():
        return None
    started = _started(holder["pid"])
    return None if started is None else started == holder.get("started")


def _is_same(one: Mapping, other: Mapping) -> bool:
    return all(one.get(name) == other.get(name, "") for name in ("host", "sees", "pid", "started"))


def _name(holder: Mapping) -> str:
    if not holder:
        return "a process that left no name"
    job = f", Slurm job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"pid {holder['pid']} on {holder.get('host')}{job} (since {holder.get('taken')})"
