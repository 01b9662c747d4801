//! The wire of Mind OS: messages and stubs generated from the .proto files beside this crate.
//!
//! Without features there are messages only. `client` and `server` add the stubs of all services. What comes from outside is
//! checked once, by the conversions in [`convert`]; past them a `DeliveryId` is known to be good.

pub mod convert;
pub mod put;
pub mod status;
pub mod wire;

pub use google::rpc;
pub use io::cloudevents;
pub use mindos::{
    access, agent, blob, budget, cluster, delivery, effect, event, fleet, identity, journal, ledger, replay, route,
    task,
};

/// Every file with all that it imports, encoded as `google.protobuf.FileDescriptorSet`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mindos.binpb"));

macro_rules! generated {
    ($file:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
    };
}

/// The protocol of KEDA's external scalers; names and shapes are KEDA's.
#[allow(clippy::all, missing_docs)]
pub mod externalscaler {
    generated!("externalscaler");
}

// Nested like the packages: generated code names messages of other packages by relative paths.
#[allow(clippy::all, missing_docs)]
mod mindos {
    /// Who may do what.
    pub mod access {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.access.v1");
        }
    }
    /// The stream between control plane and agent side.
    pub mod agent {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.agent.v1");
        }
    }
    /// Large payloads.
    pub mod blob {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.blob.v1");
        }
    }
    /// Budgets.
    pub mod budget {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.budget.v1");
        }
    }
    /// Objects of a Kubernetes cluster.
    pub mod cluster {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.cluster.v1");
        }
    }
    /// Deliveries, and the words for how work ends.
    pub mod delivery {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.delivery.v1");
        }
    }
    /// What is done outside, and what came of it.
    pub mod effect {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.effect.v1");
        }
    }
    /// Publishing events and looking at them.
    pub mod event {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.event.v1");
        }
    }
    /// Clusters, generals and instances.
    pub mod fleet {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.fleet.v1");
        }
    }
    /// How agents come by their certificates.
    pub mod identity {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.identity.v1");
        }
    }
    /// What the journal stores.
    pub mod journal {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.journal.v1");
        }
    }
    /// The journal seen by people.
    pub mod ledger {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.ledger.v1");
        }
    }
    /// Past events once more.
    pub mod replay {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.replay.v1");
        }
    }
    /// The routing table.
    pub mod route {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.route.v1");
        }
    }
    /// Tasks of the coding agent.
    pub mod task {
        /// Version 1.
        pub mod v1 {
            generated!("mindos.task.v1");
        }
    }
}

#[allow(clippy::all, missing_docs)]
mod io {
    /// The CloudEvents envelope.
    pub mod cloudevents {
        /// Version 1.
        pub mod v1 {
            generated!("io.cloudevents.v1");
        }
    }
}

#[allow(clippy::all, missing_docs)]
mod google {
    /// The error model of gRPC and its details.
    pub mod rpc {
        generated!("google.rpc");
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    #[test]
    fn descriptors_name_every_service_and_all_imports() {
        let set = FileDescriptorSet::decode(super::FILE_DESCRIPTOR_SET).unwrap();
        let services: Vec<String> = set
            .file
            .iter()
            .flat_map(|file| file.service.iter().map(|service| format!("{}.{}", file.package(), service.name())))
            .collect();
        for (area, service) in [
            ("access", "AccessService"),
            ("access", "AuthorityService"),
            ("agent", "AgentService"),
            ("agent", "RepositoryService"),
            ("blob", "BlobService"),
            ("replay", "ReplayService"),
            ("budget", "BudgetService"),
            ("delivery", "DeliveryService"),
            ("effect", "EffectService"),
            ("event", "EventService"),
            ("fleet", "FleetService"),
            ("identity", "IdentityService"),
            ("ledger", "LedgerService"),
            ("route", "RouteService"),
        ] {
            assert!(services.contains(&format!("mindos.{area}.v1.{service}")), "{services:?}");
        }
        for import in set.file.iter().flat_map(|file| &file.dependency) {
            assert!(set.file.iter().any(|file| file.name() == import), "{import}");
        }
        assert!(set.file.iter().any(|file| file.name() == "google/rpc/error_details.proto"));
    }
}
