//! The sandbox's own tree: an empty file system in memory, in which parts of the machine stand read-only, the workspace writable.
//!
//! Invariant: whatever is not named here does not exist inside; what is named is read-only but for the workspace and folders in memory
//! of a bounded size.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};

use super::spec::Order;
use super::{HOME, PROXY_SOCKET, WORKSPACE};

/// Folders in memory that may be written.
pub(super) const MEMORY_FOLDERS: [&str; 3] = ["/tmp", "/dev/shm", HOME];
/// Devices that are harmless.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// What programs look for in `/etc`; nothing in it is secret.
const SETTINGS: [&str; 14] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "debian_version",
    "java",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "pki",
    "profile.d",
    "ssl/certs",
];

/// Puts the tree together and makes it the root.
pub(super) fn assemble(order: &Order) -> Result<(), String> {
    let root = &order.scaffold;
    let failed = |what: String| move |error: io::Error| format!("{what}: {error}");
    step("cannot keep mounts to ourselves", || {
        Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
    })?;
    memory(root, 1 << 20, 0o755).map_err(failed("cannot begin a tree".into()))?;
    people(root).map_err(failed("cannot write /etc".into()))?;
    devices(root).map_err(failed("cannot make /dev".into()))?;
    for folder in MEMORY_FOLDERS {
        // Half of the memory each, at most: what is in there counts as memory.
        let place = inside(root, Path::new(folder));
        make_folder(&place)
            .and_then(|()| memory(&place, order.limits.memory / 2, 0o1777))
            .map_err(failed(folder.into()))?;
    }
    for path in &order.read {
        read_only(root, path).map_err(failed(format!("cannot show {}", path.display())))?;
    }
    for name in SETTINGS {
        read_only(root, &Path::new("/etc").join(name)).map_err(failed(format!("cannot show /etc/{name}")))?;
    }
    let workspace = inside(root, Path::new(WORKSPACE));
    step("cannot show the workspace", || {
        make_folder(&workspace)?;
        mount_bind(&order.workspace, &workspace)?;
        Ok(mount_remount(&workspace, MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | kept(&workspace), "")?)
    })?;
    if let Some(socket) = &order.proxy {
        step("cannot show the proxy", || {
            let place = inside(root, Path::new(PROXY_SOCKET));
            make_folder(place.parent().unwrap_or(root))?;
            fs::write(&place, "")?;
            Ok(mount_bind(socket, &place)?)
        })?;
    }
    step("cannot mount /proc", || {
        let place = inside(root, Path::new("/proc"));
        make_folder(&place)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        Ok(mount("proc", &place, "proc", flags, None)?)
    })?;
    step("cannot close the tree", || {
        Ok(mount_remount(root, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")?)
    })?;
    step("cannot enter the tree", || {
        std::env::set_current_dir(root)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        std::env::set_current_dir("/")
    })
}

fn step(what: &str, work: impl FnOnce() -> io::Result<()>) -> Result<(), String> {
    work().map_err(|error| format!("{what}: {error}"))
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Whatever the mask of the one that started us is.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn memory(place: &Path, bytes: u64, mode: u32) -> io::Result<()> {
    let options = CString::new(format!("size={bytes},nr_inodes=200000,mode={mode:o}")).expect("has no zero");
    Ok(mount("tmpfs", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?)
}

/// Shows a path of the machine at the same place, if it is there and that place is free. A link stays a link.
fn read_only(root: &Path, path: &Path) -> io::Result<()> {
    let place = inside(root, path);
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if fs::symlink_metadata(&place).is_ok() {
        return Ok(());
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    if found.is_symlink() {
        return symlink(fs::read_link(path)?, &place);
    }
    match found.is_dir() {
        true => make_folder(&place)?,
        false => fs::write(&place, "")?,
    }
    mount_bind_recursive(path, &place)?;
    // Mounts below it are mounts of their own.
    for below in mounts_under(&place)? {
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | kept(&below);
        match mount_remount(&below, flags, "") {
            // Covered by another one: nobody can get there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) if below != place => {}
            other => other?,
        }
    }
    Ok(())
}

/// The mounts at and below a place.
fn mounts_under(place: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescaped(point)));
    Ok(points.filter(|point| point.starts_with(place)).collect())
}

/// The kernel writes white space and backslashes as `\` and three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Flags of a mount that another namespace may have locked: they cannot be taken away.
fn kept(place: &Path) -> MountFlags {
    use rustix::fs::StatVfsMountFlags as Has;
    let has = rustix::fs::statvfs(place).map_or(Has::empty(), |it| it.f_flag);
    let known = [
        (Has::NOSUID, MountFlags::NOSUID),
        (Has::NODEV, MountFlags::NODEV),
        (Has::NOEXEC, MountFlags::NOEXEC),
        (Has::NOATIME, MountFlags::NOATIME),
        (Has::NODIRATIME, MountFlags::NODIRATIME),
        (Has::RELATIME, MountFlags::RELATIME),
    ];
    known.into_iter().filter(|(flag, _)| has.contains(*flag)).fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}

fn people(root: &Path) -> io::Result<()> {
    let etc = inside(root, Path::new("/etc"));
    make_folder(&etc)?;
    let write = |name: &str, text: String| fs::write(etc.join(name), text);
    write("passwd", format!("root:x:0:0::/:/bin/sh\nagent:x:1000:1000::{HOME}:/bin/sh\n"))?;
    write("group", "root:x:0:\nagent:x:1000:\n".to_owned())?;
    write("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned())?;
    write("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned())
}

fn devices(root: &Path) -> io::Result<()> {
    let dev = inside(root, Path::new("/dev"));
    make_folder(&dev)?;
    for name in DEVICES {
        fs::write(dev.join(name), "")?;
        mount_bind(Path::new("/dev").join(name), dev.join(name))?;
    }
    for (name, number) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{number}"), dev.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_mounts_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescaped("/plain"), "/plain");
        assert_eq!(unescaped("/odd\\9"), "/odd\\9");
    }

    #[test]
    fn places_inside_stay_inside() {
        assert_eq!(inside(Path::new("/s"), Path::new("/usr/lib")), Path::new("/s/usr/lib"));
    }
}
