"""Runs a command in a terminal of its own: terminal.py COLUMNS ROWS SCRIPT COMMAND...

SCRIPT is a JSON list of steps, done in order:
  ["wait", TEXT]     until the output since the step before holds TEXT (UTF-8)
  ["type", TEXT]     send keys
  ["size", C, R]     change the size
  ["kill", SIGNAL]   send a signal to the process
  ["kill-other", PID]  SIGKILL to another one
  ["pause", MS]      let time pass
Prints one JSON object: the output, how the process ended, and the terminal's modes before and after.
Everything ends after 100 seconds.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

columns, rows, script = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
command = sys.argv[4:]
main, side = pty.openpty()


def set_size(columns, rows):
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def modes():
    return repr(termios.tcgetattr(side)[:4])


set_size(columns, rows)
before = modes()
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(side, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(side, fd)
    os.closerange(3, 256)
    os.execvp(command[0], command)

end = time.monotonic() + 100
output = b""
seen = 0
status = None


def pump(seconds):
    global output
    if select.select([main], [], [], seconds)[0]:
        try:
            output += os.read(main, 65536)
        except OSError:
            pass


def alive():
    global status
    if status is None:
        pid, result = os.waitpid(child, os.WNOHANG)
        if pid == child:
            status = result
    return status is None


failed = None
for step in script:
    if step[0] == "wait":
        wanted = step[1].encode()
        while wanted not in output[seen:]:
            if time.monotonic() > end or not alive():
                failed = "never said " + step[1]
                break
            pump(0.05)
        seen = max(seen, output.find(wanted, seen) + len(wanted)) if failed is None else seen
    elif step[0] == "type":
        seen = len(output)
        os.write(main, step[1].encode())
    elif step[0] == "size":
        seen = len(output)
        set_size(step[1], step[2])
    elif step[0] == "kill":
        os.kill(child, step[1])
    elif step[0] == "kill-other":
        os.kill(step[1], 9)
    elif step[0] == "pause":
        until = time.monotonic() + step[1] / 1000
        while time.monotonic() < until:
            pump(0.02)
    if failed:
        break

until = min(end, time.monotonic() + 20)
while alive() and time.monotonic() < until:
    pump(0.05)
killed = alive()
if killed:
    os.kill(child, 9)
    os.waitpid(child, 0)
for _ in range(20):
    pump(0.01)
after = modes()
print(
    json.dumps(
        {
            "output": output.decode("utf8", "replace"),
            "failed": failed,
            "killed": killed,
            "exit": None if status is None else os.waitstatus_to_exitcode(status),
            "restored": before == after,
        }
    )
)
