//! Kubernetes objects of Mind OS: their types, the admission webhook, and what they become.

pub mod inject;
