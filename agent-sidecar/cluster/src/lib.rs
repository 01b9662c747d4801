//! One for a whole cluster: discovery, watches, objects and Jobs.
