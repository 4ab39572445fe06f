// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The offload contract: what a consumer of IPsec acceleration (an IKE daemon, a benchmark) and a
//! provider of it (a card's driver, the software engine) agree on.
//!
//! A consumer makes a [`frame::FramePool`], registers it with an [`device::Accelerator`], installs
//! security associations ([`sa::SaParams`]) and moves bursts of frames through a
//! [`queue::QueuePair`]. [`failover`] joins two accelerators into one that survives the loss of the
//! first; [`cache`] keeps what must outlive a crash: above all, which sequence numbers were handed
//! out.
#![deny(missing_docs)]

pub mod busy_poll;
pub mod cache;
pub mod capability;
pub mod carried;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod device;
pub mod error;
pub mod event;
pub mod failover;
pub mod frame;
pub mod inline;
pub mod queue;
pub mod replay;
pub mod sa;
pub mod wire;
pub mod wrap;
