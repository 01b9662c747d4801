//! Words for what a principal may do.

use std::fmt;
use std::str::FromStr;

use crate::ParseIdError;
use crate::delivery::words;

words! {
    /// What a principal may do in a scope. One role does not contain another: what each may do stands in the server's table.
    Role, "role", "viewer, publisher, operator or admin" {
        /// Reads what its tenant has.
        Viewer = "viewer",
        /// Publishes events of the sources that it is granted, with their blobs and feedback, and nothing else.
        Publisher = "publisher",
        /// A viewer that also changes how work goes on.
        Operator = "operator",
        /// Everything in its scope, also who may do what.
        Admin = "admin",
    }
}
