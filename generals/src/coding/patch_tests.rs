use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const RULES: Rules = Rules { workflows: false };

async fn clone() -> (tempfile::TempDir, Clone) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("clone");
    fs::create_dir_all(root.join("src")).unwrap();
    fs::write(root.join("src/a.rs"), "a\n").unwrap();
    fs::write(root.join("old"), "old\n").unwrap();
    fs::write(root.join(".gitignore"), "target/\n").unwrap();
    symlink("src/a.rs", root.join("link")).unwrap();
    begin(&root).await.unwrap();
    let clone = Clone::at(&root);
    (folder, clone)
}

fn names(changes: &[FileEntry]) -> Vec<(&str, Option<&str>)> {
    changes.iter().map(|entry| (entry.path.as_str(), entry.content.as_deref())).collect()
}

#[tokio::test]
async fn changes_are_told_as_files() {
    let (_folder, clone) = clone().await;
    let root = clone.folder().to_owned();
    assert!(clone.changes(&[], &RULES).await.unwrap().is_empty());
    fs::write(root.join("src/a.rs"), "b\n").unwrap();
    fs::remove_file(root.join("old")).unwrap();
    fs::create_dir(root.join("target")).unwrap();
    fs::write(root.join("target/ignored"), "x").unwrap();
    fs::write(root.join("target/wanted"), "w").unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("bin"), [0xff, 0]).unwrap();
    let changes = clone.changes(&["target/wanted".to_owned(), "old".to_owned()], &RULES).await.unwrap();
    let expected = [
        ("bin", None),
        ("old", None),
        ("run.sh", Some("#!/bin/sh\n")),
        ("src/a.rs", Some("b\n")),
        ("target/wanted", Some("w")),
    ];
    assert_eq!(names(&changes), expected);
    assert_eq!((changes[0].content_base64.as_deref(), changes[1].delete), (Some("/wA="), Some(true)));
    assert_eq!((changes[2].mode.as_deref(), changes[3].mode.as_deref()), (Some("100755"), Some("100644")));
    // The commit is as it was, and a list makes a clone what another one is.
    let before = _folder.path().join("before");
    clone.export(&before).await.unwrap();
    assert_eq!(fs::read_to_string(before.join("src/a.rs")).unwrap(), "a\n");
    assert!(before.join("old").exists() && !before.join("bin").exists());
    assert_eq!(clone.committed("src/a.rs").await.unwrap().as_deref(), Some("a\n"));
    for path in ["none", "src", "link", "bin"] {
        assert_eq!(clone.committed(path).await.unwrap(), None, "{path}");
    }
    clone.reset().await.unwrap();
    clone.write(&changes, &RULES).unwrap();
    assert_eq!(clone.changes(&["target/wanted".to_owned()], &RULES).await.unwrap(), changes);
    clone.reset().await.unwrap();
    assert!(!root.join("target").exists() && root.join("old").exists());
    assert!(clone.changes(&[], &RULES).await.unwrap().is_empty());
    assert_eq!(clone.head().await.unwrap().len(), 40);
}

#[tokio::test]
async fn what_a_command_left_is_read_without_its_git() {
    let (folder, clone) = clone().await;
    let copy = folder.path().join("edit");
    fs::create_dir_all(copy.join("src")).unwrap();
    fs::write(copy.join("src/a.rs"), "by a command\n").unwrap();
    fs::write(copy.join(".gitignore"), "target/\n").unwrap();
    symlink("src/a.rs", copy.join("link")).unwrap();
    // A repository whose settings run a program, in the place of the real one.
    fs::create_dir_all(copy.join(".git/hooks")).unwrap();
    let mark = folder.path().join("ran");
    let evil = format!(
        "[core]\n\tfsmonitor = touch {0}\n\trepositoryformatversion = 0\n[filter \"x\"]\n\tclean = touch {0}\n",
        mark.display()
    );
    fs::write(copy.join(".git/config"), evil).unwrap();
    fs::write(copy.join(".gitattributes"), "* filter=x\n").unwrap();
    let changes = clone.taken_over(&copy, &RULES).await.unwrap();
    assert_eq!(
        names(&changes),
        [(".gitattributes", Some("* filter=x\n")), ("old", None), ("src/a.rs", Some("by a command\n"))]
    );
    assert!(!mark.exists(), "nothing of the copy's git was run");
    assert_eq!(fs::read_to_string(clone.folder().join("src/a.rs")).unwrap(), "by a command\n");
    assert!(!clone.folder().join("old").exists());
}

#[tokio::test]
async fn links_modules_workflows_and_too_much_are_refused() {
    let (_folder, clone) = clone().await;
    let root = clone.folder().to_owned();
    let forbidden = async |why: &str| {
        let error = clone.changes(&[], &RULES).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        clone.reset().await.unwrap();
    };
    symlink("/etc/passwd", root.join("new-link")).unwrap();
    forbidden("is a link").await;
    fs::remove_file(root.join("link")).unwrap();
    fs::write(root.join("link"), "a file now").unwrap();
    forbidden("is a link").await;
    fs::create_dir_all(root.join(".github/workflows")).unwrap();
    fs::write(root.join(".github/workflows/x.yml"), "on: push").unwrap();
    forbidden("workflow").await;
    fs::create_dir(root.join("module")).unwrap();
    fs::write(root.join("module/x"), "x").unwrap();
    begin(&root.join("module")).await.unwrap();
    forbidden("is a link or a module").await;
    fs::write(root.join("big"), vec![b'x'; FILE_MAX + 1]).unwrap();
    forbidden("too large").await;
    for number in 0..=FILES_MAX {
        fs::write(root.join(format!("f{number}")), "x").unwrap();
    }
    forbidden("more than 100 files").await;
}

#[test]
fn noise_is_no_list_of_changes() {
    for noise in [":100644 100644 a b M\0", "x\0y\0", ":1 2 3\0p\0"] {
        assert!(staged(noise).is_err(), "{noise:?}");
    }
    assert!(staged("").unwrap().is_empty());
}
