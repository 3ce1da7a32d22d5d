"""What systemd does with descriptors, sd_notify(3) and sd_listen_fds(3). Node can neither receive them nor exec.

    service-manager.py hold FOLDER              holds what comes to FOLDER/notify, until its standard input ends
    service-manager.py start FOLDER COMMAND...  becomes the command, which gets what is held
"""
import os
import select
import socket
import sys

mode, folder = sys.argv[1:3]


def hold():
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(f"{folder}/notify")
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(f"{folder}/door")
    door.listen()
    held = []
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([notify, door, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        if notify in ready:
            words, fds, _, _ = socket.recv_fds(notify, 65536, 8)
            fields = dict(line.split("=", 1) for line in words.decode().splitlines() if "=" in line)
            name = fields.get("FDNAME", "stored")
            if fields.get("FDSTORE") == "1":
                held += [(name, fd) for fd in fds]
            elif fds:
                raise SystemExit("descriptors that are not to be stored")
            if fields.get("FDSTOREREMOVE") == "1":
                for one in [one for one in held if one[0] == name]:
                    os.close(one[1])
                    held.remove(one)
        if door in ready and notify not in ready:
            caller, _ = door.accept()
            names = ":".join(name for name, _ in held)
            socket.send_fds(caller, [names.encode() or b"-"], [fd for _, fd in held])
            caller.close()


def start():
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.connect(f"{folder}/door")
    names, fds, _, _ = socket.recv_fds(door, 65536, 64)
    # Above all that is needed below.
    fds = [os.dup2(fd, 500 + at, inheritable=True) for at, fd in enumerate(fds)]
    for at, fd in enumerate(fds):
        os.dup2(fd, 3 + at, inheritable=True)
    environment = {**os.environ, "NOTIFY_SOCKET": f"{folder}/notify"}
    if fds:
        environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names.decode()}
    for fd in fds:
        os.close(fd)
    os.execvpe(sys.argv[3], sys.argv[3:], environment)


hold() if mode == "hold" else start()
