//! The SDK of Mind OS: publish events, wait for what becomes of them, watch, and be a general.
//!
//! ```no_run
//! # async fn example() -> Result<(), mindos_sdk::Error> {
//! use mindos_sdk::{Client, Event};
//!
//! let client = Client::connect("http://127.0.0.1:8090")?;
//! let event = Event::unique("https://ci.example.com", "com.example.build.failed").subject("main").json("{}");
//! let published = client.publish(event).await?;
//! println!("event {} led to {} deliveries", published.seq, published.deliveries.len());
//! # Ok(())
//! # }
//! ```
//!
//! A general is a type that implements [`General`]; [`serve()`] gives it a stream of its own.

#![warn(missing_docs)]

pub mod agent;
mod authorization;
mod blob;
mod budget;
mod client;
mod clock;
mod connector;
mod dial;
mod effect;
mod error;
mod event;
mod general;
mod identity;
mod plane_clock;
mod provider_limit;
mod publish;
mod repository;
mod retry;
mod serve;
mod tasks;
mod tls;
mod trunk;
mod watch;

pub use authorization::{Authorization, TokenError};
pub use blob::{Blobs, blob_ref};
pub use budget::Spending;
pub use client::Client;
pub use clock::Clock;
pub use dial::{AddressError, Channel, DialError, Dialer};
pub use effect::Effect;
pub use error::Error;
pub use event::{Event, Feedback, base64};
pub use general::{Failure, General, ModelLoad, Output, ProviderLimit, Reporter, Work, WorkMode};
pub use identity::{IdentityError, Joining, Member, Proof, Standing, Trust, Who};
pub use mindos_model as model;
pub use mindos_proto as proto;
pub use mindos_sidecar_core::membership::Phase;
pub use mindos_sidecar_core::{Ceilings, Config, Counts, GeneralConfig, GeneralIndex, Labels, Progress, Usage};
pub use plane_clock::PlaneClock;
pub use provider_limit::{ProviderLimits, retry_after};
pub use publish::{Published, PublishedDelivery, Publisher};
pub use repository::RepositoryAccess;
pub use retry::Retry;
pub use serve::{Options, Served, general_config, serve, serve_all, serve_over};
pub use tls::{Roots, Tls, TlsError};
pub use trunk::Trunk;
pub use watch::{DeliveryFeed, EventFeed, Feed, Watch};
