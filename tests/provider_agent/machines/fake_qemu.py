"""A stand-in for QEMU: takes its descriptors, speaks its monitor protocol, obeys a file.

It is run as a program by the real starter. `BEHAVIOUR` beside it (JSON) is read again at each turn:

    exit: int            end at once, before the greeting
    say: str             on standard error, at the start
    mute: [command]      no answer to these; "greeting" is one
    answers: {command: value}     instead of what follows
    open: [label]        ports that the guest has open once it runs
    console: str         written to the console once the guest runs
    event: str           emit SHUTDOWN with this reason, and end
    linger: seconds      after that event: monitor closed, and the process still there
    ignore_quit: bool
"""

import contextlib
import json
import os
import select
import socket
import sys
import time
from pathlib import Path

VERSION = {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "fake"}


class FakeQemu:
    def __init__(self, here: Path) -> None:
        self.path = here / "behaviour"
        self.behaviour = self.read()
        self.running = False
        self.client: socket.socket | None = None
        self.pending = b""
        self.listeners = {fd: socket.socket(fileno=fd) for fd in self.given()}
        self.others: list[socket.socket] = []

    @staticmethod
    def given() -> list[int]:
        found = []
        for fd in range(3, 7):
            with contextlib.suppress(OSError):
                os.fstat(fd)
                found.append(fd)
        return found

    def read(self) -> dict:
        with contextlib.suppress(OSError, ValueError):
            self.behaviour = json.loads(self.path.read_text())
        return getattr(self, "behaviour", {})

    def run(self) -> int:
        sys.stderr.write(self.behaviour.get("say", ""))
        sys.stderr.flush()
        if "exit" in self.behaviour:
            return self.behaviour["exit"]
        for listener in self.listeners.values():
            listener.listen()
            listener.setblocking(False)
        while True:
            behaviour = self.read()
            if "event" in behaviour and self.running:
                self.say(
                    {"event": "SHUTDOWN", "data": {"guest": True, "reason": behaviour["event"]}}
                )
                if self.client is not None and "linger" in behaviour:
                    for each in (self.client, *self.listeners.values()):
                        each.close()
                    time.sleep(behaviour["linger"])
                return 0
            self.turn()

    def turn(self) -> None:
        wanted = [fd for fd in self.listeners if fd != 3 or self.client is None]
        wanted += [self.client.fileno()] if self.client else []
        readable, _, _ = select.select(wanted, [], [], 0.02)
        for fd in readable:
            if fd in self.listeners:
                self.accept(fd)
            else:
                self.hear()

    def accept(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            channel, _ = self.listeners[fd].accept()
            if fd == 3:
                self.client, self.pending = channel, b""
                if "greeting" not in self.behaviour.get("mute", ()):
                    self.say({"QMP": {"version": VERSION, "capabilities": ["oob"]}})
            else:
                self.others.append(channel)
                if fd == 4 and self.running:
                    self.write_console()

    def write_console(self) -> None:
        for channel in self.others[:1]:
            with contextlib.suppress(OSError):
                channel.sendall(self.behaviour.get("console", "").encode())

    def hear(self) -> None:
        assert self.client is not None
        part = b""
        with contextlib.suppress(ConnectionError):
            part = self.client.recv(1 << 16)
        if not part:
            self.client.close()
            self.client = None
            return
        self.pending += part
        text = self.pending.decode()
        while text := text.lstrip():  # messages come with or without a line break between them
            try:
                message, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break  # the rest is on its way
            text = text[end:]
            self.obey(message)
        self.pending = text.encode()

    def obey(self, message: dict) -> None:
        command = message.get("execute") or message.get("exec-oob")
        if command in self.behaviour.get("mute", ()):
            return
        if command == "quit" and self.behaviour.get("ignore_quit"):
            return
        answer = self.behaviour.get("answers", {}).get(command, self.answer(command))
        if isinstance(answer, dict) and "error" in answer:
            self.say({"error": answer["error"], "id": message.get("id")})
        else:
            self.say({"return": answer, "id": message.get("id")})
        if command == "quit":
            self.say({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}})
            os._exit(0)
        if command == "cont":
            self.running = True
            self.write_console()

    def answer(self, command: str) -> object:
        match command:
            case "query-version":
                return VERSION
            case "query-status":
                state = "running" if self.running else "prelaunch"
                return {"status": state, "running": self.running}
            case "query-kvm":
                return {"enabled": False, "present": False}
            case "query-chardev":
                opened = self.behaviour.get("open", ()) if self.running else ()
                labels = ("monitor", "console", "frames", "blobs")
                return [
                    {"label": label, "filename": "unix:", "frontend-open": label in opened}
                    for label in labels
                ]
        return {}

    def say(self, message: dict) -> None:
        message = {k: v for k, v in message.items() if v is not None}
        message |= (
            {"timestamp": {"seconds": int(time.time()), "microseconds": 0}}
            if ("event" in message)
            else {}
        )
        if self.client is not None:
            with contextlib.suppress(OSError):
                self.client.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(FakeQemu(Path(sys.argv[0]).resolve().parent).run())
