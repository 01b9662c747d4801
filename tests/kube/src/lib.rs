//! Real Kubernetes API servers over loopback: started, used as their users do, hurt, and judged by what they hold.
//!
//! ```text
//!   etcd <-- kube-apiserver <--+-- kube-controller-manager, kube-scheduler
//!                 ^            +-- kubectl proxy <-- fake kubelet, whose pods "run"
//!                 |            +-- what is under test: injector, cluster agents, charts
//!              scenario
//! ```
//! The programs come from `.ci/kube/build.sh`. A [`Bed`](bed::Bed) is shared by the scenarios of one run, each in namespaces of its own;
//! who stops a part of it starts it again.
//!
//! Invariant: verdicts come from what the API server holds, what the control plane's ledger says and what processes did; never from a log.

pub mod assets;
pub mod authority;
pub mod bed;
pub mod cluster;
pub mod eventually;
pub mod lend;
pub mod python;
pub mod rules;
pub mod samples;
pub mod scenario;
pub mod scenarios;
