"""Tells nats-server that its certificate is another one, so that it uses it without a restart.

    python reload.py FOLDER PIDFILE SECONDS

FOLDER is the mounted Secret; it is looked at every SECONDS. The server is told once at the beginning too,
since what changed while nobody looked is not known. Ends on SIGTERM.
"""

import contextlib
import hashlib
import os
import signal
import sys
import threading
from pathlib import Path


def state(folder: Path) -> str:
    """Of the files, by content: kubelet changes them all at once."""
    parts = [path.name.encode() + path.read_bytes() for path in sorted(folder.glob("*.*")) if path.is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def server(pid_file: Path) -> int:
    """Its process id. The file outlives a server that was killed, and may name another process then."""
    pid = int(pid_file.read_text())
    if Path(f"/proc/{pid}/comm").read_text().strip() != "nats-server":
        raise ProcessLookupError(pid)
    return pid


def main(folder: Path, pid_file: Path, seconds: float) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    told = ""
    while not stop.wait(seconds):
        # No file or no such process: the server is not up yet, or comes again. It is told next time.
        with contextlib.suppress(OSError, ValueError):
            found = state(folder)
            if found != told:
                os.kill(server(pid_file), signal.SIGHUP)
                print("nats-server was told to read its certificate", flush=True)
                told = found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
