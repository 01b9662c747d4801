//! The services' context as one caller has it.

use std::ops::Deref;
use std::sync::Arc;

use mindos_model::TenantName;
use tonic::{Request, Status};

use super::principal::{Caller, Principal};
use crate::grpc::Context;

/// What the services need, with who calls.
#[derive(Clone, Debug)]
pub(crate) struct Scoped {
    pub(crate) context: Arc<Context>,
    pub(crate) caller: Arc<Principal>,
}

impl Deref for Scoped {
    type Target = Arc<Context>;

    fn deref(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Scoped {
    pub(crate) fn new(context: &Arc<Context>, caller: Arc<Principal>) -> Scoped {
        Scoped { context: Arc::clone(context), caller }
    }

    /// The tenant that the caller acts for.
    pub(crate) fn tenant(&self) -> &TenantName {
        &self.caller.tenant
    }

    /// Who calls, for the ledger.
    pub(crate) fn by(&self) -> Arc<str> {
        Arc::clone(&self.caller.name)
    }

    /// From where, for the ledger.
    pub(crate) fn from(&self) -> Arc<str> {
        Arc::clone(&self.caller.from)
    }

    /// Runs something that may wait for a disk.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Scoped) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let scoped = self.clone();
        self.context.blocking(move |_| read(&scoped)).await
    }
}

impl Context {
    /// The context for who made a request.
    pub(crate) fn of<T>(self: &Arc<Self>, request: &Request<T>) -> Result<Scoped, Status> {
        Ok(Scoped::new(self, Caller::of(request)?))
    }
}
