//! What `up` starts: one control plane, and in each cluster the eleven generals with a sidecar beside each.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mindos_model::{ClusterName, Region};

use crate::failure::Failure;

/// The generals of the contract.
pub(crate) const GENERALS: [&str; 11] = [
    "code-review-general",
    "quality-assurance-general",
    "architecture-general",
    "security-general",
    "deployment-general",
    "documentation-general",
    "analytics-general",
    "metrics-general",
    "triage-general",
    "priority-general",
    "general-purpose-general",
];

/// A cluster to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterSpec {
    pub(crate) name: ClusterName,
    pub(crate) region: Region,
}

impl FromStr for ClusterSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<ClusterSpec, String> {
        let (name, region) = match text.split_once('=') {
            Some((name, region)) => (name, region.to_owned()),
            None => (text, format!("{text}-1")),
        };
        let name = name.parse::<ClusterName>().map_err(|error| error.to_string())?;
        let region = region.parse::<Region>().map_err(|error| error.to_string())?;
        Ok(ClusterSpec { name, region })
    }
}

/// Which part of the whole a process is; decides when it is started and stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    ControlPlane,
    General,
    Sidecar,
}

/// A process to keep running.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) args: Vec<OsString>,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) log: PathBuf,
    /// Holds its process id while it runs.
    pub(crate) pid: PathBuf,
}

/// What to start and where it listens.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) processes: Vec<Process>,
    /// Where the API is.
    pub(crate) server: String,
    /// (cluster, general) of every general.
    pub(crate) generals: Vec<(String, String)>,
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub(crate) struct Wishes<'a> {
    pub(crate) clusters: &'a [ClusterSpec],
    pub(crate) data_dir: &'a Path,
    pub(crate) port: u16,
    pub(crate) agent_port: u16,
    pub(crate) generals_port: u16,
    pub(crate) slots: u32,
    pub(crate) secret: &'a str,
    pub(crate) log: &'a str,
    /// Arguments handed to the control plane as they are.
    pub(crate) control_plane_args: &'a [String],
}

impl Plan {
    /// Finds ports and writes down every process.
    pub(crate) fn new(wishes: &Wishes<'_>) -> Result<Plan, Failure> {
        let Wishes { clusters, data_dir, port, agent_port, generals_port, slots, secret, log, control_plane_args } =
            *wishes;
        let (logs, pids) = (data_dir.join("logs"), data_dir.join("pids"));
        for directory in [&logs, &pids] {
            std::fs::create_dir_all(directory)
                .map_err(|error| Failure::world(format!("cannot make {}: {error}", directory.display())))?;
        }
        let mut ports = Ports { next: generals_port, held: Vec::new() };
        let port = ports.wanted(port, "--port")?;
        let agent_port = ports.wanted(agent_port, "--agent-port")?;
        // Files have no use for colours.
        let variables = vec![("MINDOS_LOG".to_owned(), log.to_owned()), ("NO_COLOR".to_owned(), "1".to_owned())];
        let mut control_plane: Vec<OsString> = vec!["control-plane".into(), "--data-dir".into(), data_dir.into()];
        control_plane.extend(["--listen".into(), format!("127.0.0.1:{port}").into()]);
        control_plane.extend(["--agent-listen".into(), format!("127.0.0.1:{agent_port}").into()]);
        control_plane.extend(control_plane_args.iter().map(OsString::from));
        let mut with_secret = variables.clone();
        // In the environment, because everybody may read a command line.
        with_secret.push(("MINDOS_GITHUB_SECRET".to_owned(), secret.to_owned()));
        let mut processes = vec![Process {
            name: "control-plane".to_owned(),
            part: Part::ControlPlane,
            args: control_plane,
            variables: with_secret,
            log: logs.join("control-plane.log"),
            pid: pids.join("control-plane.pid"),
        }];
        let mut generals = Vec::new();
        for ClusterSpec { name: cluster, region } in clusters {
            for general in GENERALS {
                let at = ports.free()?;
                let mut variables = variables.clone();
                // Whoever has set it means another control plane; these generals have sidecars.
                variables.push(("MINDOS_CONTROL_PLANE".to_owned(), String::new()));
                let mut add = |part: Part, suffix: &str, args: Vec<OsString>| {
                    let name = format!("{cluster}/{general}{suffix}");
                    let log = logs.join(format!("{cluster}-{general}{suffix}.log"));
                    let pid = pids.join(format!("{cluster}-{general}{suffix}.pid"));
                    processes.push(Process { name, part, args, variables: variables.clone(), log, pid });
                };
                let listen = format!("127.0.0.1:{at}");
                add(
                    Part::General,
                    "",
                    ["general", "--type", general, "--listen", &listen].iter().map(OsString::from).collect(),
                );
                let spec = format!("type={general},slots={slots},url=http://{listen}");
                let plane = format!("http://127.0.0.1:{agent_port}");
                let instance = format!("{general}-0");
                let args = [
                    "sidecar",
                    "--control-plane",
                    &plane,
                    "--cluster",
                    cluster.as_str(),
                    "--region",
                    region.as_str(),
                    "--instance",
                    &instance,
                    "--general",
                    &spec,
                    "--drain-grace",
                    "5",
                ];
                add(Part::Sidecar, "-sidecar", args.iter().map(OsString::from).collect());
                generals.push((cluster.to_string(), general.to_owned()));
            }
        }
        Ok(Plan { processes, server: format!("http://127.0.0.1:{port}"), generals })
    }
}

/// Ports that nobody has.
struct Ports {
    /// Where the search goes on; 0 leaves it to the system.
    next: u16,
    /// Kept until all are found, so that none is given out twice.
    held: Vec<TcpListener>,
}

impl Ports {
    /// The port asked for, or a free one for 0.
    fn wanted(&mut self, port: u16, option: &str) -> Result<u16, Failure> {
        let taken = |error: std::io::Error| {
            Failure::world(format!("port {port} is not to be had: {error}"))
                .hint(format!("another `mindos up` may be running; choose another with {option}, 0 takes a free one"))
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(taken)?;
        let found = listener.local_addr().map_err(taken)?.port();
        self.held.push(listener);
        Ok(found)
    }

    /// The next free port from where the search stands.
    fn free(&mut self) -> Result<u16, Failure> {
        if self.next == 0 {
            return self.wanted(0, "--generals-port");
        }
        loop {
            let port = self.next;
            self.next = port.checked_add(1).ok_or_else(|| {
                Failure::world("no free port is left for the generals").hint("choose a lower --generals-port, or 0")
            })?;
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                self.held.push(listener);
                return Ok(port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_region() {
        let read =
            |text: &str| text.parse::<ClusterSpec>().map(|spec| (spec.name.to_string(), spec.region.to_string()));
        assert_eq!(read("eu"), Ok(("eu".to_owned(), "eu-1".to_owned())));
        assert_eq!(read("eu=eu-west-1"), Ok(("eu".to_owned(), "eu-west-1".to_owned())));
        assert!(read("E U").unwrap_err().contains("E U"));
    }

    #[test]
    fn ports_differ() {
        let mut ports = Ports { next: 20_000, held: Vec::new() };
        let mut found: Vec<u16> = (0..20).map(|_| ports.free().unwrap()).collect();
        found.push(ports.wanted(0, "--port").unwrap());
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), 21);
    }
}
