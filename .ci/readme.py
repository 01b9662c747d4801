#!/usr/bin/env python3
"""Runs every command of the documents, so that none of them is only believed.

Takes the fenced blocks marked `sh` of README.md and the files of docs/, in their order, and runs each document as one session of
bash with `set -e`, from a copy of the working directory's state: HOME, the data directory and the ports are the session's own
where the commands let them. A comment before a block says how it is run:

  <!-- run: background N -->  goes on while the rest runs; waited for until http://127.0.0.1:8090/readyz answers and N agents are connected
  <!-- run: terminal 3 -->    needs a terminal: gets one for 3 s, and has to live that long
  <!-- run: stop -->          ends what runs in the background, before the block
  <!-- run: again -->         ends what runs in the background, runs the block, and starts it again
  <!-- run: no, REASON -->    not run; the reason is printed

A block without a comment has to end with exit code 0. Prints one line for each block and `readme: N ran, N not run`.
"""

import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- run: (?P<how>[^\n]*?) -->\n+)?```sh\n(?P<commands>.*?)```", re.S)
SECONDS = 900


def blocks(path):
    for match in BLOCK.finditer(path.read_text("utf-8")):
        yield (match["how"] or "").strip(), match["commands"].strip()


def ready(agents):
    try:
        urllib.request.urlopen("http://127.0.0.1:8090/readyz", timeout=1).close()
        with urllib.request.urlopen("http://127.0.0.1:8090/metrics", timeout=1) as answer:
            found = re.search(r"^mindos_sessions (\d+)$", answer.read().decode("utf-8"), re.M)
            return found is not None and int(found[1]) >= agents
    except OSError:
        return False


class Session:
    def __init__(self, folder):
        self.environment = dict(os.environ, HOME=str(folder), XDG_STATE_HOME=str(folder / "state"))
        # Tools of the user stay where they are, although HOME is another.
        home = pathlib.Path.home()
        for name, place in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup"), ("npm_config_cache", ".npm")]:
            self.environment.setdefault(name, str(home / place))
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
        self.environment["CARGO_TARGET_DIR"] = str(target)
        self.environment["PATH"] = f"{target / 'debug'}:{self.environment['PATH']}"
        self.background = None
        self.commands = None
        self.agents = 0
        self.log = folder / "background.log"

    def run(self, commands):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=ROOT, env=self.environment,
                              stdin=subprocess.DEVNULL, timeout=SECONDS)
        return done.returncode == 0

    def start(self, commands, agents):
        self.stop()
        self.commands, self.agents = commands, agents
        output = self.log.open("ab")
        self.background = subprocess.Popen(["bash", "-euo", "pipefail", "-c", commands], cwd=ROOT, env=self.environment,
                                           stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        until = time.monotonic() + SECONDS
        while not ready(agents):
            if self.background.poll() is not None or time.monotonic() > until:
                print(self.log.read_text("utf-8", "replace")[-3000:])
                return False
            time.sleep(0.1)
        return True

    def stop(self):
        if self.background is None:
            return
        # To those in the foreground group, as Ctrl-C does.
        os.killpg(self.background.pid, signal.SIGINT)
        try:
            self.background.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.background.pid, signal.SIGKILL)
            raise
        self.background = None

    def terminal(self, commands, seconds):
        pid, master = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.execvpe("bash", ["bash", "-euo", "pipefail", "-c", commands], self.environment)
        until, seen = time.monotonic() + seconds, b""
        while time.monotonic() < until:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:
                    break
        alive = os.waitpid(pid, os.WNOHANG) == (0, 0)
        if alive:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        os.close(master)
        print(f"{len(seen)} bytes drawn")
        return alive and len(seen) > 0


def run_document(path):
    ran, skipped, failed = 0, 0, 0
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mindos-readme-"))
    session = Session(folder)
    try:
        for how, commands in blocks(path):
            begun = time.monotonic()
            head = commands.splitlines()[0]
            print(f"-- {path.name} [{how}]\n{commands}", flush=True)
            if how.startswith("no,"):
                skipped += 1
                print(f"not run: {head}: {how[3:].strip()}")
                continue
            if how.startswith("background"):
                good = session.start(commands, int(how.split()[1]))
            elif how.startswith("terminal"):
                good = session.terminal(commands, float(how.split()[1]))
            elif how == "stop":
                session.stop()
                good = session.run(commands)
            elif how == "again":
                session.stop()
                good = session.run(commands) and session.start(session.commands, session.agents)
            elif how == "":
                good = session.run(commands)
            else:
                raise SystemExit(f"{path.name}: `{how}` is no way to run a block")
            ran += 1
            failed += not good
            print(f"{'ran' if good else 'FAILED'} in {time.monotonic() - begun:.1f} s: {head}", flush=True)
    finally:
        session.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return ran, skipped, failed


def main():
    documents = [pathlib.Path(name).resolve() for name in sys.argv[1:]]
    documents = documents or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    totals = [sum(column) for column in zip(*map(run_document, documents))]
    print(f"readme: {totals[0]} ran, {totals[1]} not run, {totals[2]} failed")
    sys.exit(1 if totals[2] else 0)


if __name__ == "__main__":
    main()
