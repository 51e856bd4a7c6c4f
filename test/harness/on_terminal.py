"""Runs a command on a terminal of its own and types at it; prints one JSON document of what it looked like.

on_terminal.py SCRIPT SIZE -- COMMAND ...      SCRIPT: JSON, a list of [text to wait for, text to type]; SIZE: COLUMNSxROWS
"""
from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

LIMIT_S = 120


def main() -> int:
    script = json.loads(sys.argv[1])
    columns, rows = map(int, sys.argv[2].split("x"))
    command = sys.argv[4:]
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execvp(command[0], command)
    shown = b""
    seen = 0
    echo_while_asked = []
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if ready:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # the other side is closed
                break
            if not chunk:
                break
            shown += chunk
        if script and script[0][0].encode() in shown[seen:]:
            seen = len(shown)
            time.sleep(0.1)
            echo_while_asked.append(bool(termios.tcgetattr(terminal)[3] & termios.ECHO))
            os.write(terminal, script.pop(0)[1].encode())
    else:
        os.kill(pid, 9)
    echo_after = None
    try:
        echo_after = bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
    except termios.error:
        pass
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "shown": shown.decode(errors="replace"),
                      "typed": not script, "echo_while_asked": echo_while_asked, "echo_after": echo_after}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
