// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The IKE daemon: a tokio shell around the sans-IO core, a TUN data plane, and strongSwan's control
//! protocol.
#![deny(unsafe_code)]

mod aside;
mod beside;
mod cluster;
pub mod config;
pub mod daemon;
pub mod dataplane;
mod fetch;
mod inline;
mod install;
mod jobs;
pub mod keeper;
pub mod kept;
mod keylog;
pub mod launcher;
mod manual;
mod metrics;
mod net;
mod plane;
pub mod privileges;
pub mod publication;
mod routes;
mod scheduling;
pub mod seccomp;
pub mod streams;
pub mod vici;
