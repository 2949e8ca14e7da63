"""The data folder of `hubwire up`: one instance at a time, its keys, its store, how others find it.

    lock           held (flock) by the supervisor and its nats-server for as long as one of them lives
    keys.json      the access keys, mode 0600, made on the first start
    endpoint.json  while it runs, mode 0600: pid, endpoint, connection string, NATS credentials
    nats.conf      mode 0600, written at each start
    nats/          the JetStream store; in memory mode `memory/`, which is removed

In memory mode nothing stays: keys are new each time, unless keys.json is there from before.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hubwire.model.errors import Conflict, InvalidRequest
from hubwire.model.settings import AccessKeys
from hubwire.runtime.parsers import access_key

DEFAULT_FOLDER = ".hubwire"
_LOCK_PATIENCE_SECONDS = 2.0
_KEY_NAMES = {"primary": "primaryKey", "secondary": "secondaryKey", "salt": "salt"}


class DataFolder:
    """An open data folder. Made by `open_data_folder`, ended by `close`."""

    def __init__(self, path: Path, lock_fd: int, *, memory: bool, made: bool) -> None:
        self.path = path
        self.lock_fd = lock_fd
        self.memory = memory
        self._made = made
        if memory:
            shutil.rmtree(self.store, ignore_errors=True)  # of one that was killed

    @property
    def store(self) -> Path:
        return self.path / ("memory" if self.memory else "nats")

    def prepare_store(self) -> None:
        """Make the folder of the store, and see that it can be written: one that another user has made, with
        sudo for example, cannot. Raises InvalidRequest."""
        trial = self.store / f".writable.{os.getpid()}"
        try:
            self.store.mkdir(exist_ok=True, mode=0o700)
            trial.touch(mode=0o600)
            trial.unlink()
        except OSError as fault:
            raise unwritable(self.store, fault) from fault

    @property
    def nats_config(self) -> Path:
        return self.path / "nats.conf"

    @property
    def keys_file(self) -> Path:
        return self.path / "keys.json"

    def keep_keys(
        self, make: Callable[[], AccessKeys], *, primary: str = "", secondary: str = ""
    ) -> AccessKeys:
        """The keys in keys.json; on the first start new ones, which are then kept there. `primary` and
        `secondary`, when given, take the place of those.

        Raises InvalidRequest when the file is there and cannot be used: making new keys in its place
        would lock everybody out without a word.
        """
        kept = read_keys(self.keys_file) if self.keys_file.exists() else None
        keys = kept or make()
        keys = AccessKeys(primary or keys.primary, secondary or keys.secondary, keys.salt)
        if keys != kept and not self.memory:
            write_keys(self.keys_file, keys)
        return keys

    def announce(self, facts: Mapping[str, object]) -> None:
        """Tell other commands of this machine's user where we are."""
        write_private(self.path / "endpoint.json", json.dumps({"pid": os.getpid(), **facts}, indent=2) + "\n")

    def close(self) -> None:
        """Take back what says that we run, and all of memory mode. Children must be gone."""
        for name in ("endpoint.json", "nats.conf"):
            (self.path / name).unlink(missing_ok=True)
        if self.memory:
            shutil.rmtree(self.store, ignore_errors=True)
        if self._made and not self.keys_file.exists():
            (self.path / "lock").unlink(missing_ok=True)
            try:
                self.path.rmdir()
            except OSError:
                pass  # somebody put something there
        os.close(self.lock_fd)


def open_data_folder(path: Path, *, memory: bool) -> DataFolder:
    """Make the folder if need be and lock it.

    Raises Conflict when another instance has it, InvalidRequest when it cannot be written.
    """
    path = path.absolute()
    made = not path.exists()
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as fault:
            raise unwritable(path, fault) from fault
        try:
            ours = _lock(path, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise
        if ours:
            return DataFolder(path, lock_fd, memory=memory, made=made)
        os.close(lock_fd)


def unwritable(path: Path, fault: OSError) -> InvalidRequest:
    return InvalidRequest(
        f"The data folder {path} cannot be written ({_why(fault)}); "
        "make it writable, or choose another with --data DIR."
    )


def _lock(path: Path, lock_fd: int) -> bool:
    """False: locked a file that an instance in memory mode removed as it ended; open it anew."""
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(lock_fd), os.stat(path / "lock"))
        except FileNotFoundError:
            return False
        except BlockingIOError:
            owner = running_instance(path)
            # Held, and nobody answers for it: one that is just starting or ending. If its supervisor was
            # killed, its nats-server still writes; give it the moment that takes.
            if owner is not None or time.monotonic() > deadline:
                whose = f"hubwire (process {owner['pid']})" if owner else "hubwire"
                raise Conflict(
                    f"Another {whose} runs on the data folder {path}; stop it, or choose another folder "
                    "with --data DIR."
                ) from None
            time.sleep(0.05)
        except OSError as fault:
            raise InvalidRequest(
                f"The data folder {path} cannot be locked ({fault.strerror}); choose one on a local disk "
                "with --data DIR."
            ) from fault


def running_instance(path: Path) -> dict[str, Any] | None:
    """What a running instance on this folder announced, or None when there is none."""
    try:
        facts = json.loads((path / "endpoint.json").read_text())
        os.kill(int(facts["pid"]), 0)
    except PermissionError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return dict(facts)


def is_closed_to_us(path: Path) -> bool:
    """Whether something may run on this folder that is not ours to know of: it is another user's."""
    try:
        (path / "endpoint.json").open().close()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def read_keys(path: Path) -> AccessKeys:
    """Raises InvalidRequest when the file cannot be used."""
    try:
        raw = json.loads(path.read_text())
        keys = {name: _key(name, raw[json_name]) for name, json_name in _KEY_NAMES.items()}
        return AccessKeys(**keys)
    except (OSError, ValueError, TypeError, KeyError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is not what hubwire wrote"
        raise InvalidRequest(
            f"The access keys in {path} cannot be read ({why}); restore the file, or remove it to have new "
            "keys made."
        ) from fault


def _key(name: str, value: object) -> str:
    """The same rules as for --access-key: whoever holds a key is let in, so what was not meant as one must
    never become one (a null is not the key "None"). Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("a key must be text")
    if not value and name != "primary":
        return value  # none: an empty key verifies nothing
    return access_key(value)


def write_keys(path: Path, keys: AccessKeys) -> None:
    """Replace keys.json in one step, readable by its owner alone."""
    text = {json_name: getattr(keys, name) for name, json_name in _KEY_NAMES.items()}
    write_private(path, json.dumps(text, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _why(fault: OSError) -> str | None:
    """Whoever makes a folder where a file is hears only that something is there."""
    return "a file is in its place" if isinstance(fault, FileExistsError) else fault.strerror
