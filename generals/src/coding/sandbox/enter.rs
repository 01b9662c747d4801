//! The inside of a sandbox: three processes of this very program, each with fewer rights than the one before.
//!
//! ```text
//!  driver --spawns--> leave --spawns--> keep (process 1) --spawns--> become --exec--> the command
//!                     unshares          mounts, pivots, watches      other user,
//!                     namespaces        reaps; its end is            no capabilities,
//!                                       everybody's end              limits
//! ```
//! Standard input is the lifeline: when the driver closes it, or dies, process 1 ends and the kernel kills all that is inside.
//! Standard error carries the command's output, standard output the verdict. Invariant: the command begins with no capability over
//! any namespace that holds its mounts or its network.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use rustix::process::{DumpableBehavior, Resource, Rlimit, WaitOptions, set_dumpable_behavior, setrlimit};
use rustix::thread::{Gid, Uid, UnshareFlags};

use super::spec::{ENTER, Limits, Order, Stage, Verdict};
use super::{WORKSPACE, loopback, mounts, relay, watch};

/// Whom the command is, inside.
const INSIDE: u32 = 1000;
/// Whom root of the machine becomes before the command begins: `nobody`, everywhere.
pub(super) const NOBODY: u32 = 65_534;
/// What a shell says of a command that cannot be started.
const NOT_STARTED: u8 = 127;

/// Takes over where this program was started as a part of a sandbox. To be called before anything else, while there is one thread.
#[must_use]
pub fn entered() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != ENTER {
        return None;
    }
    let order = arguments.next().and_then(|text| serde_json::from_str::<Order>(&text).ok());
    let Some(order) = order else {
        eprintln!("{ENTER} is for the coding agent's own use: it takes an order in JSON");
        return Some(ExitCode::FAILURE);
    };
    let stage = match order.stage {
        Stage::Leave => leave(order),
        Stage::Keep => keep(order),
        Stage::Become => Ok(become_command(&order)),
    };
    Some(stage.unwrap_or_else(|refused| {
        tell(&Verdict::Refused(refused));
        ExitCode::FAILURE
    }))
}

fn tell(verdict: &Verdict) {
    let text = serde_json::to_string(verdict).expect("a verdict is plain data");
    let _ = writeln!(io::stdout(), "{text}");
}

fn refused(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Unshares; safe because this process has one thread, so that nobody else's descriptors or user change.
#[expect(deprecated, reason = "the flags used here never unshare the table of descriptors")]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(flags)?)
}

/// Makes the calling process the given user of the user namespace that it has just begun.
fn map_user(inside: u32, outside_user: u32, outside_group: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{inside} {outside_group} 1"))?;
    fs::write("/proc/self/uid_map", format!("{inside} {outside_user} 1"))
}

fn again(order: &Order) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ENTER).arg(serde_json::to_string(order).expect("an order is plain data"));
    command
}

fn leave(mut order: Order) -> Result<ExitCode, String> {
    let spaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Root of the machine needs no user namespace to mount, and can become somebody else afterwards.
    order.root = user == 0 && unshare(spaces).is_ok();
    if !order.root {
        unshare(spaces | UnshareFlags::NEWUSER).map_err(refused("this machine does not let us begin namespaces"))?;
        map_user(0, user, group).map_err(refused("cannot name the user of the namespace"))?;
    }
    order.stage = Stage::Keep;
    let mut keeper = again(&order).spawn().map_err(refused("cannot start the first process inside"))?;
    // Holding on to the lifeline here would not hurt, but nothing of it is ours to read.
    let status = keeper.wait().map_err(refused("cannot wait for the first process inside"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn keep(mut order: Order) -> Result<ExitCode, String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from).map_err(refused("prctl"))?;
    // Ends everything when the driver is gone. Nothing is ever written to it.
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    loopback::up().map_err(refused("cannot start the loopback inside"))?;
    let relay = order.proxy.as_ref().map(|_| relay::bind()).transpose().map_err(refused("cannot listen inside"))?;
    mounts::assemble(&order)?;
    if let Some(listener) = relay {
        thread::spawn(move || relay::serve(&listener));
    }
    order.stage = Stage::Become;
    let output = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let mut command = again(&order);
    command.stdin(Stdio::null()).stdout(output().map_err(refused("cannot pass on the output"))?).current_dir(WORKSPACE);
    let child = command.spawn().map_err(refused("cannot start the command's process"))?;
    let limits = order.limits;
    thread::spawn(move || {
        let verdict = watch::until_beyond(limits);
        tell(&verdict);
        std::process::exit(0);
    });
    // Process 1 is the parent of all whose own has died.
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_pid()) == Ok(child.id()) => {
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                tell(&match (status.code(), status.signal()) {
                    (Some(code), _) => Verdict::Exited(code),
                    (None, signal) => Verdict::Signalled(signal.unwrap_or_default()),
                });
                return Ok(ExitCode::SUCCESS);
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for the command: {error}")),
        }
    }
}

/// Never returns where all goes well.
fn become_command(order: &Order) -> ExitCode {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        eprintln!("sandbox: {what}: {error}");
        ExitCode::from(NOT_STARTED)
    };
    let gave_up = match order.root {
        true => become_nobody(),
        false => Ok((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())),
    };
    let inside = gave_up.and_then(|(user, group)| {
        unshare(UnshareFlags::NEWUSER)?;
        map_user(INSIDE, user, group)?;
        // No namespaces within: those that could be made would bring rights with them.
        fs::write("/proc/sys/user/max_user_namespaces", "0")
    });
    if let Err(error) = inside {
        return failed("cannot give up its rights", &error);
    }
    if let Err(error) = bound(order.limits).and_then(|()| Ok(rustix::thread::set_no_new_privs(true)?)) {
        return failed("cannot set limits", &error);
    }
    // A user that is not root loses every capability here.
    let error = Command::new(&order.program).args(&order.arguments).exec();
    failed(&format!("cannot start `{}`", order.program), &error)
}

fn become_nobody() -> io::Result<(u32, u32)> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    // Otherwise the files of this process would still be root's, the maps among them.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok((NOBODY, NOBODY))
}

fn bound(limits: Limits) -> io::Result<()> {
    let set = |resource, value| setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    set(Resource::Nproc, limits.processes)?;
    // Of one process; what all have together is watched.
    set(Resource::Data, limits.memory)?;
    set(Resource::Fsize, limits.file)?;
    set(Resource::Core, 0)?;
    set(Resource::Nofile, 1024)?;
    set(Resource::Msgqueue, 0)?;
    Ok(set(Resource::Memlock, 64 << 10)?)
}
