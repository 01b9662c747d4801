//! Surfaces of other systems, for the clients that were written for them.
//!
//! Invariant: a surface has paths and words of its own, and no truth of its own: what it is told goes through the plane, and
//! what it tells comes from the plane and its views.

pub mod gitlens;
pub mod keda;
pub mod platform;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A surface that has a listener of its own, and is served where that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SurfaceName {
    /// KEDA's external scaler.
    Keda,
    /// Runs of code and documentation.
    Platform,
}

impl SurfaceName {
    const ALL: [SurfaceName; 2] = [SurfaceName::Keda, SurfaceName::Platform];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SurfaceName::Keda => "keda",
            SurfaceName::Platform => "platform",
        }
    }
}

impl fmt::Display for SurfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a surface is served, as `--surface keda=0.0.0.0:8092` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurfaceAt {
    pub name: SurfaceName,
    pub address: SocketAddr,
}

impl FromStr for SurfaceAt {
    type Err = String;

    fn from_str(text: &str) -> Result<SurfaceAt, String> {
        let words = SurfaceName::ALL.map(SurfaceName::as_str).join(" or ");
        let expected = || format!("expected {words}, and an address, such as keda=127.0.0.1:8092");
        let (name, address) = text.split_once('=').ok_or_else(expected)?;
        let name = SurfaceName::ALL.into_iter().find(|known| known.as_str() == name).ok_or_else(expected)?;
        Ok(SurfaceAt { name, address: address.parse().map_err(|_| expected())? })
    }
}

/// The address of a surface among those that are served.
#[must_use]
pub fn address_of(surfaces: &[SurfaceAt], name: SurfaceName) -> Option<SocketAddr> {
    surfaces.iter().find(|surface| surface.name == name).map(|surface| surface.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surface_is_named_with_its_address() {
        let read: SurfaceAt = "keda=127.0.0.1:8092".parse().unwrap();
        assert_eq!(read, SurfaceAt { name: SurfaceName::Keda, address: ([127, 0, 0, 1], 8092).into() });
        for bad in ["", "keda", "keda=", "keda=8092", "other=127.0.0.1:1"] {
            let error = bad.parse::<SurfaceAt>().unwrap_err();
            assert!(error.contains("keda=127.0.0.1:8092"), "{bad}: {error}");
        }
    }
}
