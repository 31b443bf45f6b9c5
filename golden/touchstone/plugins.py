"""How is somebody's kernel run? As a program, a Python function or a C library, always in another process.

The process sees a folder with the inputs and an empty one for the outputs, never the answers, which may not even exist
yet. It has a time limit and a memory limit, and its whole process group is killed when either is passed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import require

NOT_IMPLEMENTED = 77
UNUSABLE = "unusable"  # what cannot be loaded answers no case: bad usage, not a wrong kernel
POLL = 0.02  # seconds between looks at a process' memory


@dataclass
class Ran:
    """What became of one run: "ran", "not implemented" or "failed", and why."""

    state: str
    sentence: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What a plug-in may use a run."""

    seconds: float = 60.0
    memory: int = 16 << 30  # resident bytes of all its processes


def _resident(group: int) -> int:
    """Bytes of memory that the processes of a group hold; 0 where the system does not tell."""
    total = 0
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[2]) == group:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            continue
    return total


class Watch:
    """How much memory a process and its group hold. The whole group is looked for every half a second only: that is a look
    at every process of the machine."""

    def __init__(self, process: int):
        self.process, self.next = process, 0.0

    def resident(self) -> int:
        """Bytes that the group was last seen to hold, or the process holds now."""
        if (now := time.monotonic()) >= self.next:
            total = _resident(self.process)
            self.next = time.monotonic() + max(0.5, 50 * (time.monotonic() - now))
            return total
        try:
            with open(f"/proc/{self.process}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0


def _kill(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


class Program:
    """A program called as PROGRAM OP IN_DIR OUT_DIR for each case."""

    def __init__(self, command: str | Path | list, limits: Limits = Limits()):
        self.command = [str(part) for part in (command if isinstance(command, list) else [command])]
        self.limits = limits
        path = Path(self.command[0])
        if path.exists():
            self.command[0] = str(path.resolve())
            require(path.is_file() and os.access(path, os.X_OK), f"the plug-in {path} must be an executable file: `chmod +x` it")
        else:
            require("/" not in self.command[0], f"the plug-in {path} does not exist: check the path")

    def run(self, op: str, in_dir: Path, out_dir: Path) -> Ran:
        """One run of one case."""
        begin = time.monotonic()
        log = out_dir.with_name(out_dir.name + ".log")
        try:
            with log.open("wb") as stream:
                process = subprocess.Popen([*self.command, op, str(in_dir), str(out_dir)], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True)  # fmt: skip
                stopped = self._wait(process, begin)
        except OSError as error:
            return Ran("failed", f"the plug-in could not be started: {error}")
        seconds = time.monotonic() - begin
        _kill(process)  # children that it left behind
        said = _last_line(log.read_text(errors="replace"))
        if stopped:
            return Ran("failed", stopped, seconds)
        if process.returncode == NOT_IMPLEMENTED:
            return Ran("not implemented", said, seconds)
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            return Ran("failed", f"it was stopped by {name}" + (f": {said}" if said else ""), seconds)
        if process.returncode:
            return Ran("failed", f"it exited with {process.returncode}" + (f": {said}" if said else ", and said nothing"), seconds)
        return Ran("ran", said, seconds)

    def _wait(self, process: subprocess.Popen, begin: float) -> str:
        """Waits for the end; kills it at a limit and says which."""
        watch = Watch(process.pid)
        while process.poll() is None:
            if time.monotonic() - begin > self.limits.seconds:
                _kill(process)
                return f"it took longer than the limit of {self.limits.seconds:g} s (--seconds)"
            if (resident := watch.resident()) > self.limits.memory:
                _kill(process)
                return f"it held {resident / 2**30:.1f} GiB, more than the limit of {self.limits.memory / 2**30:g} GiB (--memory)"
            time.sleep(POLL if time.monotonic() - begin > 0.1 else 0.002)
        return ""

    def close(self) -> None:
        """Nothing stays open."""


class Worker:
    """A Python function or a C library, called again and again by one process of ours (touchstone.worker)."""

    def __init__(self, kind: str, target: str, limits: Limits = Limits(), arrays: str = "numpy", device: str = "cpu"):
        self.arguments = [kind, target, arrays, device]
        self.limits = limits
        self.process: subprocess.Popen | None = None
        self.refusal = ""

    def _start(self) -> None:
        # The worker finds the user's modules where the user runs it, and ours wherever they are.
        paths = [os.getcwd(), str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        self.process = subprocess.Popen([sys.executable, "-m", "touchstone.worker", *self.arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment)  # fmt: skip

    def run(self, op: str, in_dir: Path, out_dir: Path) -> Ran:
        """One call for one case."""
        begin = time.monotonic()
        if self.process is None or self.process.poll() is not None:
            self._start()
        try:
            self.process.stdin.write(json.dumps({"op": op, "in": str(in_dir), "out": str(out_dir)}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer, stopped = self._answer(begin)
        seconds = time.monotonic() - begin
        if stopped:
            return Ran("failed", stopped, seconds)
        if not answer:
            code = self.process.wait()
            what = f"it was stopped by {signal.Signals(-code).name}" if code < 0 else f"its process exited with {code}"
            return Ran("failed", what + " in the middle of a call", seconds)
        reply = json.loads(answer)
        require(reply["state"] != UNUSABLE, reply["sentence"])
        if reply.get("ends"):  # its GPU is lost to it: the next call gets another process
            self.process.wait()
        return Ran(reply["state"], reply["sentence"], seconds)

    def _answer(self, begin: float):
        watch = Watch(self.process.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not selector.select(POLL * 5):
                if time.monotonic() - begin > self.limits.seconds:
                    _kill(self.process)
                    return "", f"it took longer than the limit of {self.limits.seconds:g} s (--seconds)"
                if (resident := watch.resident()) > self.limits.memory:
                    _kill(self.process)
                    return "", f"it held {resident / 2**30:.1f} GiB, more than the limit of {self.limits.memory / 2**30:g} GiB (--memory)"
        return self.process.stdout.readline(), ""

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            _kill(self.process)


def read_outputs(folder: Path, expected: dict[str, tuple]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The .npy files that a plug-in wrote. expected: name -> shape. -> arrays, complaints

    Nothing that a plug-in writes is executed: no pickles, no links, and no file larger than its tensor can be.
    """
    arrays, complaints = {}, []
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".npy")
        if path.is_symlink() or not path.is_file():
            complaints.append(f"{path.name} must be a plain file; it is a {'link' if path.is_symlink() else 'folder or device'}")
            continue
        if name not in expected or path.suffix != ".npy":
            continue
        if path.stat().st_size > 8 * int(np.prod(expected[name], dtype=np.int64)) + 65536:
            complaints.append(f"{path.name} has {path.stat().st_size} bytes, more than a tensor of shape {list(expected[name])} can have")
            continue
        try:
            arrays[name] = np.load(path, allow_pickle=False)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file is the plug-in's error
            complaints.append(f"{path.name} is not a readable .npy file: {_last_line(str(error))}")
    return arrays, complaints
