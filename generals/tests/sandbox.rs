//! What a command in the sandbox can do, and what it cannot: run by our own program, in real namespaces.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mindos_generals::coding::sandbox::{Ended, How, Isolation, Limits, Place, Run, Sandbox};

struct Bed {
    folder: tempfile::TempDir,
    sandbox: Sandbox,
}

impl Bed {
    fn new() -> Bed {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        fs::create_dir(folder.path().join("scratch")).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_mindos-general"));
        Bed { folder, sandbox: Sandbox { isolation: Isolation::Namespaces, read: Vec::new(), program } }
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    async fn sh(&self, script: &str, limits: Limits, reach: &[Place]) -> Ended {
        let (workspace, scratch) = (self.work(), self.folder.path().join("scratch"));
        let run = Run {
            workspace: &workspace,
            scratch: &scratch,
            program: "sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("GIVEN".to_owned(), "yes".to_owned())],
            limits,
            reach,
        };
        self.sandbox.run(run).await.unwrap()
    }
}

fn short() -> Limits {
    Limits { seconds: 30, ..Limits::default() }
}

/// Whether a process of this machine has the text among its arguments.
fn runs(text: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok()).any(|it| {
        // The order of a sandbox names the command, too, and may be that of the test itself.
        let arguments = String::from_utf8_lossy(&it).replace('\0', " ");
        arguments.contains(text) && !arguments.contains("sandbox-enter")
    })
}

#[tokio::test]
async fn a_command_runs_in_its_workspace_as_nobody_in_particular() {
    let bed = Bed::new();
    fs::write(bed.work().join("in"), "of the repository").unwrap();
    let ended = bed.sh("id -u; pwd; cat in; echo kept > out; exit 3", short(), &[]).await;
    assert_eq!((ended.how, ended.output.as_str()), (How::Exited(3), "1000\n/workspace\nof the repository"));
    assert_eq!(fs::read_to_string(bed.work().join("out")).unwrap(), "kept\n");
    bed.sandbox.probe(&bed.folder.path().join("scratch")).await.unwrap();
}

#[tokio::test]
async fn there_is_no_network_but_its_own_loopback() {
    let bed = Bed::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "python3 - <<'E'\nimport socket\nfor to in [('127.0.0.1', {port}), ('1.1.1.1', 53)]:\n  try: socket.create_connection(to, 3); print('reached', to)\n  except OSError as e: print('no', e.errno)\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); c = socket.create_connection(s.getsockname()); print('own', c.getpeername()[0])\nE\ncat /proc/net/dev | tail -n +3 | cut -d: -f1"
    );
    let ended = bed.sh(&script, short(), &[]).await;
    assert_eq!(ended.output, "no 111\nno 101\nown 127.0.0.1\n    lo\n", "{ended:?}");
}

#[tokio::test]
async fn the_proxy_reaches_what_was_named_and_nothing_else() {
    let bed = Bed::new();
    let serve = |word: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len());
            }
        });
        port
    };
    let (named, other) = (serve("named"), serve("other"));
    let reach = [Place { host: "127.0.0.1".to_owned(), port: named }];
    let script = format!(
        "python3 - <<'E'\nimport os, urllib.request\nopener = urllib.request.build_opener(urllib.request.ProxyHandler({{'http': os.environ['HTTP_PROXY']}}))\nfor port in [{named}, {other}]:\n  try: print(opener.open('http://127.0.0.1:%d/x' % port).read().decode())\n  except urllib.error.HTTPError as e: print(e.code, e.read().decode())\nE"
    );
    let ended = bed.sh(&script, short(), &reach).await;
    assert_eq!(ended.output, format!("named\n403 127.0.0.1:{other} is not reached from this sandbox\n"), "{ended:?}");
}

#[tokio::test]
async fn nothing_but_the_workspace_can_be_written() {
    let bed = Bed::new();
    let outside = bed.folder.path().join("outside");
    fs::write(&outside, "as it was").unwrap();
    let script = format!(
        "exec 2>/dev/null
         for at in / /usr /usr/bin /etc /dev /proc/sys/kernel /run /workspace/.. '{0}'; do touch \"$at/x\" 2>/dev/null && echo wrote $at; done
         echo no > '{1}' 2>/dev/null && echo wrote outside
         ln -s '{1}' link; echo no > link 2>/dev/null && echo wrote through a link
         mount -o remount,rw / 2>/dev/null && echo remounted; mount -t tmpfs none /workspace 2>/dev/null && echo mounted
         unshare -Ur true 2>/dev/null && echo namespace
         cat /proc/self/status | grep -E 'CapEff|CapPrm|NoNewPrivs' | tr -d '\\t'; touch /tmp/fine /workspace/fine && echo fine",
        bed.folder.path().display(),
        outside.display()
    );
    let ended = bed.sh(&script, short(), &[]).await;
    assert_eq!(ended.output, "CapPrm:0000000000000000\nCapEff:0000000000000000\nNoNewPrivs:1\nfine\n", "{ended:?}");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "as it was");
    assert!(!Path::new("/tmp/fine").exists());
}

#[tokio::test]
async fn nothing_of_the_machine_is_seen_but_programs() {
    let bed = Bed::new();
    let ended = bed.sh("ls -A / | tr '\\n' ' '; ls -A /home/agent /tmp; ls /etc/shadow /root /var /work 2>&1 | grep -vc No; ls /proc | grep -c '^[0-9]'", short(), &[]).await;
    let allowed = [
        "bin",
        "dev",
        "etc",
        "gnu",
        "home",
        "lib",
        "lib32",
        "lib64",
        "nix",
        "opt",
        "proc",
        "run",
        "sbin",
        "tmp",
        "usr",
        "workspace",
    ];
    let first = ended.output.lines().next().unwrap_or_default();
    assert!(
        first.contains("workspace")
            && first.split_whitespace().all(|name| allowed.contains(&name) || name.ends_with(':')),
        "{ended:?}"
    );
    assert!(ended.output.contains("\n0\n"), "{ended:?}");
    // Processes: the first one, the shell and what it runs.
    let seen: u32 = ended.output.lines().last().unwrap().parse().unwrap();
    assert!(seen <= 5, "{ended:?}");
}

#[tokio::test]
async fn no_variable_of_ours_gets_in() {
    let bed = Bed::new();
    // Cargo sets these for the test; a secret would come the same way.
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok());
    let ended = bed.sh("env | cut -d= -f1 | sort | tr '\\n' ' '; cat /proc/1/environ /proc/2/environ 2>/dev/null | tr '\\0' '\\n' | grep -c CARGO", short(), &[]).await;
    assert_eq!(ended.output, "CI GIT_CONFIG_NOSYSTEM GIVEN HOME LANG PATH PWD TMPDIR 0\n", "{ended:?}");
}

#[tokio::test]
async fn a_fork_bomb_ends_bounded() {
    let bed = Bed::new();
    let limits = Limits { seconds: 5, processes: 64, ..short() };
    let began = Instant::now();
    let ended = bed.sh("f() { f | f & }; f; sleep 1; f; echo mindos-bomb; sleep 600", limits, &[]).await;
    assert!(matches!(ended.how, How::TimedOut | How::Processes | How::Exited(_)), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(ended.how == How::Processes || ended.output.contains("fork"), "the limit was met: {ended:?}");
    // Whoever was killed is still listed until it is reaped.
    while runs("mindos-bomb") {
        assert!(began.elapsed() < Duration::from_secs(30), "some live on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn memory_ends_bounded_for_one_process_and_for_many() {
    let bed = Bed::new();
    let limits = Limits { memory: 256 << 20, ..short() };
    let one = bed.sh("python3 -c 'b = bytearray(300 << 20); print(len(b))'", limits, &[]).await;
    assert!(!one.how.succeeded() && one.output.contains("MemoryError"), "{one:?}");
    let many = "for i in 1 2 3 4; do python3 -c 'import time; b = bytearray(100 << 20); time.sleep(60)' & done; wait";
    assert_eq!(bed.sh(many, limits, &[]).await.how, How::Memory);
    let files =
        bed.sh("cat /dev/zero > /tmp/a; cat /dev/zero > /dev/shm/b; cat /dev/zero > ~/c; sleep 20", limits, &[]).await;
    assert_eq!(files.how, How::Memory, "{files:?}");
    let shared = bed.sh("python3 -c 'import mmap; m = mmap.mmap(-1, 400 << 20); [m.write(bytes(1 << 20)) for i in range(400)]; import time; time.sleep(20)'", limits, &[]).await;
    assert_eq!(shared.how, How::Memory, "{shared:?}");
}

#[tokio::test]
async fn endless_output_ends_bounded() {
    let bed = Bed::new();
    let ended = bed.sh("echo first; yes mindos-endless", Limits { output: 1 << 20, ..short() }, &[]).await;
    assert_eq!(ended.how, How::Output);
    assert!(ended.output.starts_with("first\n") && ended.output.len() < 100 << 10, "{} bytes", ended.output.len());
    assert!(!runs("mindos-endless"));
}

#[tokio::test]
async fn files_and_the_disk_end_bounded() {
    let bed = Bed::new();
    let limits = Limits { file: 10 << 20, disk: 30 << 20, ..short() };
    let one = bed.sh("cat /dev/zero > big; ls -l big | cut -d' ' -f5", limits, &[]).await;
    assert!(one.output.contains("10485760"), "{one:?}");
    let many = bed.sh("for i in 1 2 3 4 5 6; do cat /dev/zero > big$i; done 2>/dev/null; sleep 20", limits, &[]).await;
    assert_eq!(many.how, How::Disk);
}

#[tokio::test]
async fn the_end_of_its_time_ends_all_it_started() {
    let bed = Bed::new();
    let script = "setsid sleep 876543 & (sleep 876543 &) ; trap '' TERM INT HUP; echo on; sleep 876543; sleep 876543";
    let began = Instant::now();
    let ended = bed.sh(script, Limits { seconds: 2, ..short() }, &[]).await;
    assert_eq!((ended.how, ended.output.as_str()), (How::TimedOut, "on\n"));
    assert!(began.elapsed() < Duration::from_secs(10));
    gone("sleep 876543").await;
}

#[tokio::test]
async fn work_that_is_dropped_leaves_no_process() {
    let bed = Bed::new();
    let run = bed.sh("setsid sleep 765432 & sleep 765432", short(), &[]);
    assert!(tokio::time::timeout(Duration::from_secs(2), run).await.is_err());
    gone("sleep 765432").await;
}

async fn gone(text: &str) {
    // The kernel ends them; that takes a moment.
    for _ in 0..50 {
        if !runs(text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("`{text}` still runs");
}

#[tokio::test]
async fn without_namespaces_time_output_and_variables_are_bounded_all_the_same() {
    let mut bed = Bed::new();
    bed.sandbox.isolation = Isolation::None;
    let ended =
        bed.sh("env | grep -c CARGO; pwd; sleep 654321 & sleep 654321", Limits { seconds: 2, ..short() }, &[]).await;
    assert_eq!(ended.how, How::TimedOut);
    assert_eq!(ended.output, format!("0\n{}\n", bed.work().display()));
    gone("sleep 654321").await;
    assert_eq!(bed.sh("yes", Limits { output: 1 << 20, ..short() }, &[]).await.how, How::Output);
}

#[tokio::test]
async fn without_namespaces_a_command_that_has_ended_is_not_held_up_by_what_it_started() {
    let mut bed = Bed::new();
    bed.sandbox.isolation = Isolation::None;
    let ended = bed.sh("echo on; sleep 543216 & exit 3", short(), &[]).await;
    assert_eq!((ended.how, ended.output.as_str()), (How::Exited(3), "on\n"));
    gone("sleep 543216").await;
}

#[tokio::test]
async fn without_namespaces_what_a_command_leaves_behind_ends_with_it() {
    let mut bed = Bed::new();
    bed.sandbox.isolation = Isolation::None;
    let ended = bed.sh("sleep 432165 > /dev/null 2>&1 & echo on", short(), &[]).await;
    assert_eq!((ended.how, ended.output.as_str()), (How::Exited(0), "on\n"));
    gone("sleep 432165").await;
}
