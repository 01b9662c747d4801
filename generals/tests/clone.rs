//! Clones over real smart HTTP: `git http-backend` behind a bridge of our own, with repositories made by `git`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use mindos_generals::change::FileKind;
use mindos_generals::forge::{CloneWish, Forge, ForgeFailure, RepositoryAccess, Wanted};
use mindos_model::Secret;
use mindos_outgoing::Outgoing;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const TOKEN: &str = "made-up-token-1";

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=Ann", "-c", "user.email=ann@x", "-c", "init.defaultBranch=trunk", "-c", "core.hooksPath=/dev/null"]);
    command.args(arguments).current_dir(directory).env("GIT_CONFIG_GLOBAL", "/dev/null").stderr(Stdio::inherit());
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository with a history, and the server that offers it.
struct World {
    directory: tempfile::TempDir,
    url: String,
    first: String,
    second: String,
}

impl World {
    async fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let work = directory.path().join("work");
        fs::create_dir_all(&work).unwrap();
        git(&work, &["init", "-q"]);
        fs::write(work.join("README.md"), "# one\n").unwrap();
        fs::write(work.join(".gitattributes"), "* -diff\n*.bin filter=lfs\nREADME.md filter=evil\n").unwrap();
        fs::write(work.join(".gitmodules"), "[submodule \"m\"]\n\tpath = m\n\turl = https://127.0.0.1:1/m.git\n").unwrap();
        fs::write(work.join("a.bin"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", work.join("link")).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-qm", "one"]);
        let first = git(&work, &["rev-parse", "HEAD"]);
        git(&work, &["tag", "v1"]);
        git(&work, &["checkout", "-qb", "feature/x"]);
        fs::write(work.join("new.rs"), "fn main() {}\n").unwrap();
        fs::write(work.join("README.md"), "# one\ntwo\n").unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-qm", "feat: two\n\nwhy"]);
        let second = git(&work, &["rev-parse", "HEAD"]);
        git(&work, &["update-ref", "refs/pull/7/head", "HEAD"]);
        git(&work, &["checkout", "-q", "trunk"]);
        fs::write(work.join("other.txt"), "x\n").unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-qm", "three"]);
        fs::create_dir_all(directory.path().join("served/o")).unwrap();
        git(&work, &["clone", "-q", "--mirror", ".", "../served/o/r.git"]);
        let url = serve(directory.path().join("served")).await;
        World { directory, url, first, second }
    }

    fn forge(&self, token: &str) -> Forge {
        forge(&self.url, token)
    }

    fn wish(&self, at: Wanted) -> CloneWish {
        let below = self.directory.path().join("clones");
        fs::create_dir_all(&below).unwrap();
        CloneWish { at, below: Some(below), timeout: Duration::from_secs(60), ..CloneWish::default() }
    }

    fn clones(&self) -> Vec<PathBuf> {
        fs::read_dir(self.directory.path().join("clones")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn forge(url: &str, token: &str) -> Forge {
    let access = RepositoryAccess {
        repository: "o/r".to_owned(),
        api_url: url.to_owned(),
        clone_url: format!("{url}/o/r.git"),
        token: Secret::new(token),
        author: "us".to_owned(),
    };
    Forge::new(Outgoing::new(), access).unwrap()
}

/// Smart HTTP for the repositories in a folder; asks for the token.
async fn serve(root: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, root.clone()));
        }
    });
    format!("http://{address}")
}

async fn answer(stream: TcpStream, root: PathBuf) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let of = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut body = vec![0; of("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let wanted = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{TOKEN}"));
    if of("authorization") != format!("Basic {wanted}") {
        let refused = "HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(refused.as_bytes()).await.ok();
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut command = tokio::process::Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", &root).env("GIT_HTTP_EXPORT_ALL", "1").env("PATH_INFO", path);
    command.env("QUERY_STRING", query).env("REQUEST_METHOD", &method).env("CONTENT_TYPE", of("content-type"));
    command.env("CONTENT_LENGTH", body.len().to_string()).env("GIT_PROTOCOL", of("git-protocol"));
    command.env("HTTP_CONTENT_ENCODING", of("content-encoding")).env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().ok()?;
    let mut input = child.stdin.take()?;
    tokio::spawn(async move { input.write_all(&body).await });
    let output = child.wait_with_output().await.ok()?.stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let kept: Vec<&str> = head.lines().filter(|line| !line.starts_with("Status: ")).collect();
    let body = &output[end + 4..];
    let head = format!("HTTP/1.1 {status}\r\n{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", kept.join("\r\n"), body.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_branch_is_found_and_nothing_of_the_repository_is_obeyed() {
    let world = World::new().await;
    let clone = world.forge(TOKEN).clone(world.wish(Wanted::Default)).await.unwrap();
    assert_eq!(clone.branch.as_deref(), Some("trunk"));
    assert_eq!(fs::read_to_string(clone.path().join("other.txt")).unwrap(), "x\n");
    // Neither links nor filters nor modules of the repository do anything.
    assert!(fs::symlink_metadata(clone.path().join("link")).unwrap().is_file());
    assert_eq!(fs::read_to_string(clone.path().join("link")).unwrap(), "/etc/passwd");
    assert_eq!(fs::read_to_string(clone.path().join("README.md")).unwrap(), "# one\n");
    assert!(!clone.path().join("m").exists() && !clone.path().join(".git/hooks").exists());
    // The token is in no file that git wrote.
    for file in ["config", "FETCH_HEAD", "HEAD"] {
        assert!(!fs::read_to_string(clone.path().join(".git").join(file)).unwrap().contains(TOKEN), "{file}");
    }
    assert_eq!(clone.run("count", &["rev-list", "--count", "HEAD"]).await.unwrap(), b"1\n", "it is shallow");
    let tree = clone.tree().unwrap();
    assert_eq!((tree.text("other.txt").as_deref(), &*tree.at), (Some("x\n"), &*clone.commit));
    let path = clone.path().to_owned();
    drop(clone);
    assert!(!path.exists() && world.clones().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_branch_tag_commit_and_pull_request_can_be_had() {
    let world = World::new().await;
    let forge = world.forge(TOKEN);
    for (at, branch, commit) in [
        (Wanted::Ref("feature/x".to_owned()), Some("feature/x"), &world.second),
        (Wanted::Ref("refs/heads/feature/x".to_owned()), Some("feature/x"), &world.second),
        (Wanted::Ref("v1".to_owned()), None, &world.first),
        (Wanted::Ref("refs/pull/7/head".to_owned()), None, &world.second),
        (Wanted::Commit(world.first.clone()), None, &world.first),
    ] {
        let clone = forge.clone(world.wish(at.clone())).await.unwrap_or_else(|failure| panic!("{at:?}: {failure}"));
        assert_eq!((clone.branch.as_deref(), &clone.commit), (branch, commit), "{at:?}");
    }
    for at in [Wanted::Ref("none".to_owned()), Wanted::Commit("0".repeat(39) + "1")] {
        let failure = forge.clone(world.wish(at.clone())).await.unwrap_err();
        assert!(matches!(failure, ForgeFailure::NotFound { .. }), "{at:?}: {failure:?}");
    }
    for name in ["--upload-pack=touch /tmp/x", "a..b", "a b", "", "-x", "a:b", "@{1}", "refs/heads/../x"] {
        let failure = forge.clone(world.wish(Wanted::Ref(name.to_owned()))).await.unwrap_err();
        assert!(matches!(failure, ForgeFailure::Access { field: "ref", .. }), "{name}: {failure:?}");
    }
    assert!(world.clones().is_empty(), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_read_from_a_shallow_clone() {
    let world = World::new().await;
    let clone = world.forge(TOKEN).clone(world.wish(Wanted::Ref("feature/x".to_owned()))).await.unwrap();
    let change = clone.change("trunk", "feature/x").await.unwrap();
    assert_eq!((&change.base, &change.head), (&world.first, &world.second), "compared with where they parted");
    let files: Vec<_> = change.files.iter().map(|file| (&*file.path, file.kind, file.additions, file.binary)).collect();
    // `* -diff` in the repository's attributes hides nothing.
    assert_eq!(files, [("README.md", FileKind::Modified, 1, false), ("new.rs", FileKind::Added, 1, false)]);
    assert_eq!((change.commits.len(), change.commits[0].title()), (1, "feat: two"));
    assert_eq!(change.commits[0].touched.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_do_not_fit_are_told_and_never_shown() {
    let world = World::new().await;
    let failure = world.forge("another-made-up-token").clone(world.wish(Wanted::Default)).await.unwrap_err();
    assert!(matches!(failure, ForgeFailure::Unauthorised { .. }), "{failure:?}");
    assert!(!format!("{failure:?}").contains("another"));
    let failure = world.forge("").clone(world.wish(Wanted::Default)).await.unwrap_err();
    assert!(matches!(failure, ForgeFailure::Unauthorised { .. }), "{failure:?}");
    let nobody = forge("http://127.0.0.1:1", TOKEN).clone(world.wish(Wanted::Default)).await.unwrap_err();
    assert!(matches!(nobody, ForgeFailure::Unreachable { .. }), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn size_is_bounded_before_it_is_written() {
    let world = World::new().await;
    let work = world.directory.path().join("work");
    // Sixty megabytes that pack into almost nothing.
    fs::write(work.join("zeros"), vec![b'0'; 60 << 20]).unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-qm", "bomb"]);
    git(&work, &["push", "-q", "../served/o/r.git", "trunk:bomb"]);
    let mut wish = world.wish(Wanted::Ref("bomb".to_owned()));
    wish.bytes_max = 20 << 20;
    let failure = world.forge(TOKEN).clone(wish).await.unwrap_err();
    assert_eq!(failure, ForgeFailure::TooLarge { what: "the repository".to_owned(), max: 20 << 20, unit: "bytes" });
    assert!(world.clones().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_costs_only_its_time_and_leaves_nothing() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let begun = Instant::now();
    let mut wish = world.wish(Wanted::Default);
    wish.timeout = Duration::from_secs(1);
    let failure = forge(&url, TOKEN).clone(wish).await.unwrap_err();
    assert!(matches!(failure, ForgeFailure::TooSlow { seconds: 1, .. }), "{failure:?}");
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(world.clones().is_empty());
    // A future that is dropped takes its process and its directory with it.
    let forge = forge(&url, TOKEN);
    let dropped = tokio::time::timeout(Duration::from_millis(500), forge.clone(world.wish(Wanted::Default))).await;
    assert!(dropped.is_err());
    assert!(world.clones().is_empty());
    let listed = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&listed.stdout).contains(&url), "git still runs");
    silent.abort();
}
