"""An ssh server on the loopback, of the system's OpenSSH, with keys and settings of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
NAME = "board"
"""Name of the server for ssh, where the folder that ``ssh_server`` returns is first on the path."""

_START_S = 10.0


def lacking() -> str | None:
    """Reason why no ssh server can be started here; None if one can."""
    for program in (SSHD, "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            return f"{Path(program).name} is not installed (Debian: openssh-server)"
    return None


@contextmanager
def ssh_server(folder: Path) -> Iterator[Path]:
    """Run a server; yields a folder whose ``ssh`` knows it by ``NAME``."""
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(command, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = _free_port()
    (folder / "sshd.conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/authorized\nPidFile none\nStrictModes no\n"
        "PasswordAuthentication no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 100\n"
        "AcceptEnv PYTHONPATH\n"
    )
    (folder / "ssh.conf").write_text(
        f"Host {NAME}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  LogLevel ERROR\n"
        f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking accept-new\n"
    )
    programs = folder / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh.conf "$@"\n')
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd.conf")], stderr=log)
        try:
            _wait_for(port, server, folder / "log")
            yield programs
        finally:
            server.terminate()
            server.wait()


def _free_port() -> int:
    with closing(socket.socket()) as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.poll() is None:
        with closing(socket.socket()) as made:
            if made.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not start: {log.read_text()}")
