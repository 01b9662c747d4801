#!/usr/bin/env python3
"""Shows that what images hold is enough to run on, and no more.

  .ci/images.py FOLDER [HADOLINT]

FOLDER has the built programs (target/debug); HADOLINT is a linter of Dockerfiles, and is run where it is given. There is no container
engine on a machine of CI, so this does by hand what one does: `deploy/images/rootfs.sh` lays out the root of each image, and the
entry point of its Dockerfile runs in there with its variables, as uid 65532, without capabilities or new privileges, on a read-only root
with a volume at /data alone, in namespaces of its own for mounts, processes and network. The control plane listens on all addresses, so it
speaks TLS and asks everybody who they are; a sidecar joins with a token that the command line makes, an event is worked on, and each ends on
SIGTERM. Needs root, for namespaces. Of the build stage it shows that `.dockerignore` leaves the sources of shipped crates in, and whatever file
they include.

What it does not show: that the build stage compiles in the image that BUILDER names.
"""

import fcntl
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = ROOT / "deploy" / "images"
NAMES = ["mindos-control-plane", "mindos-sidecar", "mindos-cluster-agent", "mindos-general", "mindos"]
# What is laid out besides the program.
MORE = {"mindos-general": ["--with-git"]}
UID = 65532
CHROOT = shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "chroot"
SHELLS = {"sh", "bash", "dash", "ash", "busybox", "env", "perl", "python3", "apt", "dpkg"}


def fail(text):
    raise SystemExit(f"images: FAILED: {text}")


class Dockerfile:
    """The instructions of the last stage, as far as they say how it runs."""

    def __init__(self, path):
        text = re.sub(r"\\\n", " ", path.read_text("utf-8"))
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        stages = [index for index, line in enumerate(lines) if line.startswith("FROM ")]
        if len(stages) != 2:
            fail(f"{path.name}: two stages are expected, there are {len(stages)}")
        self.last = [line.split(None, 1) for line in lines[stages[-1]:]]
        self.name = path.name

    def all(self, instruction):
        return [rest for word, rest in self.last if word == instruction]

    def one(self, instruction):
        found = self.all(instruction)
        if len(found) != 1:
            fail(f"{self.name}: one {instruction} is expected in the last stage, there are {len(found)}")
        return found[0]

    def entry_point(self):
        text = self.one("ENTRYPOINT")
        words = re.findall(r'"([^"]*)"', text)
        if not text.startswith("[") or not words:
            fail(f"{self.name}: ENTRYPOINT is not in its exec form, and there is no shell")
        return words

    def environment(self):
        return dict(pair.split("=", 1) for line in self.all("ENV") for pair in shlex.split(line))

    def check(self):
        if self.one("FROM") != "scratch":
            fail(f"{self.name}: the last stage is not from scratch")
        if self.one("USER") != f"{UID}:{UID}":
            fail(f"{self.name}: USER is not {UID}:{UID}; Kubernetes takes only numbers for runAsNonRoot")
        unknown = {word for word, _ in self.last} - {"FROM", "COPY", "USER", "ENV", "EXPOSE", "VOLUME", "WORKDIR", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
        if unknown:
            fail(f"{self.name}: {', '.join(sorted(unknown))} in the last stage")
        if self.all("COPY") != ["--from=build /rootfs/ /"]:
            fail(f"{self.name}: more is copied than what rootfs.sh lays out")


def ignored():
    """Says whether `.dockerignore` keeps a path out: of the patterns that fit it, or a folder that it is in, the last one counts."""
    patterns = []
    for line in map(str.strip, (ROOT / ".dockerignore").read_text("utf-8").splitlines()):
        if not line or line.startswith("#"):
            continue
        text = line.removeprefix("!").strip("/")
        if re.search(r"[\\\[\]]", text):
            fail(f".dockerignore: {line}: only names, *, ** and ? are known here")
        words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        pieces = re.split(r"(\*\*/|\*\*|\*|\?)", text)
        patterns.append((line.startswith("!"), re.compile("".join(words.get(piece, re.escape(piece)) for piece in pieces))))

    def is_out(path):
        places = [path, *map(str, pathlib.PurePath(path).parents[:-1])]
        out = False
        for is_back, pattern in patterns:
            if any(pattern.fullmatch(place) for place in places):
                out = not is_back
        return out

    return is_out


def sources(crate):
    """The sources of a crate as they are built, without what is there for tests alone, by their paths."""
    texts = {path: path.read_text("utf-8") for path in [*(crate / "src").rglob("*.rs"), *crate.glob("build.rs")]}
    tests = set()
    for path, text in texts.items():
        folder = path.parent if path.name in ("lib.rs", "main.rs", "mod.rs") else path.with_suffix("")
        for other, name in re.findall(r'#\[cfg\((?:all\()?test\b[^\n]*\]\s+(?:#\[path = "([^"]+)"\]\s+)?(?:pub(?:\([^)]*\))? )?mod (\w+);', text):
            tests |= {path.parent / other} if other else {folder / f"{name}.rs", folder / name}
    for path, text in texts.items():
        if tests.isdisjoint([path, *path.parents]):
            text = re.sub(r"^( *)#\[cfg\((?:all\()?test\b[^\n]*\]\n(?: *#.*\n)* *(?:pub(?:\([^)]*\))? )?mod \w+ \{\n.*?^\1\}$", "", text, flags=re.M | re.S)
            yield path, re.sub(r"^ *//.*$", "", text, flags=re.M)


def check_context():
    """What is built into programs reaches the build stage."""
    is_out = ignored()
    members = tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["workspace"]["members"]
    crates = [name for name in members if not name.startswith("tests/")]
    included = 0
    for crate in crates:
        for path, text in sources(ROOT / crate):
            here = path.relative_to(ROOT)
            wanted = [str(here)]
            for argument in re.findall(r"include_(?:str|bytes)!\(\s*([^)]*)", text):
                # Of a name that is put together its folder is known.
                known = re.match(r'(?:concat!\(\s*)?(?:(env!\("OUT_DIR")|"([^"]*)")', argument)
                if not known:
                    fail(f"{here}: it cannot be told what `{argument}` includes")
                if known[1]:
                    continue
                whole = argument.startswith('"')
                name = os.path.normpath(here.parent / (known[2] if whole else known[2][:known[2].rfind("/") + 1]))
                wanted.extend([name] if whole else [str(one.relative_to(ROOT)) for one in (ROOT / name).iterdir()])
                included += 1
            for one in wanted:
                if is_out(one) or not (ROOT / one).exists():
                    fail(f"{here}: {one} is not there, or .dockerignore keeps it out of the builds")
    print(f"images: builds see the sources of {len(crates)} crates and the {included} files and folders that they include")


def lay_out(name, folder, programs):
    root = folder / name
    subprocess.run([IMAGES / "rootfs.sh", *MORE.get(name, []), programs / name, root], check=True)
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        mode = path.stat().st_mode
        if mode & 0o6000:
            fail(f"{name}: {path.relative_to(root)} has a set-id bit")
        if mode & 0o022:
            fail(f"{name}: {path.relative_to(root)} may be written to by others")
        if path.name in SHELLS:
            fail(f"{name}: there is {path.relative_to(root)}")
    print(f"images: {name}: {len(files)} files, of them programs: "
          f"{', '.join(str(path.relative_to(root)) for path in files if path.parent.name == 'bin')}")
    return root


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


def read_only(root):
    mount("--bind", root, root)
    mount("-t", "tmpfs", "-o", f"uid={UID},gid={UID},mode=0700,nosuid,nodev,noexec", "data", root / "data")
    mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", root / "proc")
    mount("-t", "tmpfs", "-o", "mode=0755,nosuid", "dev", root / "dev")
    for device in ["null", "zero", "random", "urandom"]:
        (root / "dev" / device).touch()
        mount("--bind", f"/dev/{device}", root / "dev" / device)
    mount("-o", "remount,bind,ro,nosuid,nodev", root)


class Container:
    def __init__(self, name, root, file, arguments, environment=(), command=None):
        self.name = name
        entry = command or file.entry_point()
        words = ["setpriv", "--no-new-privs", "--bounding-set=-all,+sys_chroot,+setuid,+setgid", "--inh-caps=-all",
                 CHROOT, f"--userspec={UID}:{UID}", "--groups", str(UID), str(root), *entry, *arguments]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(words, env={**file.environment(), **dict(environment)}, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def wait_for(self, what, holds):
        until = time.monotonic() + 60
        while not holds():
            if self.process.poll() is not None or time.monotonic() > until:
                fail(f"{self.name}: {what} did not come; it said:\n{self.said()[-4000:]}")
            time.sleep(0.1)

    def check_confined(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        facts = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.M))
        wanted = {"Uid": [str(UID)] * 4, "Gid": [str(UID)] * 4, "CapPrm": ["0" * 16], "CapEff": ["0" * 16],
                  "CapAmb": ["0" * 16], "NoNewPrivs": ["1"]}
        for key, value in wanted.items():
            if facts[key].split() != value:
                fail(f"{self.name}: {key} is {facts[key]}, not {' '.join(value)}")
        # Seen from within: its root is mounted read-only.
        place = os.readlink(f"/proc/{self.process.pid}/root")
        mounts = [line.split() for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
        options = [fields[5].split(",") for fields in mounts if fields[4] == place]
        if not options or "ro" not in options[-1]:
            fail(f"{self.name}: its root {place} is not mounted read-only")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            fail(f"{self.name} did not end on SIGTERM; it said:\n{self.said()[-4000:]}")
        if code != 0:
            fail(f"{self.name} ended with {code} on SIGTERM; it said:\n{self.said()[-4000:]}")


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, 0x8913, request))[1]
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))


class Plane:
    """The API as an operator of the machine reaches it: by the roots and the first token in the data directory."""

    def __init__(self, data):
        self.roots, self.token_file = data / "authority" / "roots.pem", data / "admin-token"

    def get(self, path, token=""):
        try:
            request = urllib.request.Request(f"https://127.0.0.1:8090{path}", headers={"authorization": f"Bearer {token}"} if token else {})
            context = ssl.create_default_context(cafile=self.roots)
            with urllib.request.urlopen(request, timeout=2, context=context) as answer:
                return answer.status, answer.read().decode("utf-8")
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def give(data, name, text):
    """Puts a file into a volume, for its owner alone."""
    path = data / name
    path.write_bytes(text)
    path.chmod(0o600)
    os.chown(path, UID, UID)
    return f"/data/{name}"


def run_all(folder, programs):
    loopback_up()
    files = {name: Dockerfile(IMAGES / f"{name}.Dockerfile") for name in NAMES}
    roots = {name: lay_out(name, folder, programs) for name in NAMES}
    for root in roots.values():
        read_only(root)
    data = {name: root / "data" for name, root in roots.items()}

    control = Container("mindos-control-plane", roots["mindos-control-plane"], files["mindos-control-plane"], [])
    plane = Plane(data["mindos-control-plane"])
    control.wait_for("/readyz", lambda: plane.get("/readyz")[0] == 200)
    control.wait_for("the first token", plane.token_file.exists)
    token = plane.token_file.read_text().strip()
    if plane.get("/metrics")[0] != 401 or plane.get("/metrics", token)[0] != 200:
        fail("metrics are for those who say who they are: expected 401 without and 200 with the first token")

    ca = give(data["mindos"], "roots.pem", plane.roots.read_bytes())
    token_file = give(data["mindos"], "token", token.encode())
    site = ["--endpoint", "https://127.0.0.1:8090", "--ca", ca, "--token-file", token_file]

    def mindos(*arguments):
        done = Container("mindos " + arguments[0], roots["mindos"], files["mindos"], [*site, *arguments])
        if done.process.wait(60) != 0:
            fail(f"mindos {' '.join(arguments)}: {done.said()[-2000:]}")
        return done.said()

    made = mindos("tokens", "create", "--cluster", "local", "--general", "code-review-general", "--uses", "1")
    join = re.search(r"mindos_join_[\w-]{43}", made)
    if not join:
        fail(f"no join token was shown: {made[:200]}")
    git = Container("git", roots["mindos-general"], files["mindos-general"], ["init", "--quiet", "/data/repository"], command=["/usr/bin/git"])
    if git.process.wait(60) != 0 or not (data["mindos-general"] / "repository" / ".git").is_dir():
        fail(f"git does not work in mindos-general: {git.said()[-2000:]}")
    agent = Container("mindos-cluster-agent", roots["mindos-cluster-agent"], files["mindos-cluster-agent"], ["--version"])
    if agent.process.wait(60) != 0 or "mindos-cluster-agent" not in agent.said():
        fail(f"mindos-cluster-agent does not start: {agent.said()[-2000:]}")
    general = Container("mindos-general", roots["mindos-general"], files["mindos-general"],
                        ["--type", "code-review-general", "--listen", "127.0.0.1:9101"])
    general.wait_for("its port", lambda: listens(9101))
    give(data["mindos-sidecar"], "roots.pem", plane.roots.read_bytes())
    give(data["mindos-sidecar"], "join-token", join[0].encode())
    sidecar = Container("mindos-sidecar", roots["mindos-sidecar"], files["mindos-sidecar"],
                        ["--control-plane", "https://127.0.0.1:8091", "--api", "https://127.0.0.1:8090", "--ca", "/data/roots.pem",
                         "--join-token-file", "/data/join-token", "--identity-dir", "/data/identity", "--instance", "image",
                         "--general", "type=code-review-general,url=http://127.0.0.1:9101"])
    sidecar.wait_for("its stream", lambda: "mindos_sessions 1" in plane.get("/metrics", token)[1])
    for container in [control, general, sidecar]:
        container.check_confined()
    said = mindos("send", "--kind", "pr_created", "--type", "com.example.pr", "--source", "/image", "--id", "1",
                  "--data", '{"title":"Add a cache"}', "--wait")
    if "succeeded" not in said:
        fail(f"the event was not worked on: {said}")
    print("images: a sidecar joined and an event was worked on, over TLS, by programs of uid 65532 without capabilities on read-only roots")
    for container in [sidecar, general, control]:
        container.stop()
    for container in [control, sidecar]:
        if token in container.said() or join[0] in container.said():
            fail(f"{container.name} said a token")
    print("images: all ended on SIGTERM with code 0, and no token was logged")


def main():
    inside = sys.argv[1:2] == ["--inside"]
    arguments = sys.argv[2:] if inside else sys.argv[1:]
    if not 1 <= len(arguments) <= 2:
        sys.exit("usage: .ci/images.py FOLDER [HADOLINT]")
    programs = pathlib.Path(arguments[0]).resolve()
    if inside:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="mindos-images-"))
        # What is made below is this process's own; a bind mount over the folder keeps it so.
        mount("--make-rprivate", "/")
        mount("-t", "tmpfs", "-o", "size=2G,mode=0755", "images", folder)
        try:
            run_all(folder, programs)
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", folder], check=False)
            shutil.rmtree(folder, ignore_errors=True)
        return
    check_context()
    for name in NAMES:
        Dockerfile(IMAGES / f"{name}.Dockerfile").check()
    if len(arguments) == 2:
        subprocess.run([arguments[1], *sorted(map(str, IMAGES.glob("*.Dockerfile")))], check=True)
        print("images: hadolint has nothing to say")
    if os.geteuid() != 0:
        sys.exit("images: FAILED: only root may make the namespaces that programs are started in")
    sys.exit(subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
                             sys.executable, __file__, "--inside", str(programs)]).returncode)


if __name__ == "__main__":
    main()
