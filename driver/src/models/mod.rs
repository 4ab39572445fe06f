// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every interleaving, by loom, of this driver's side of the handshakes with the simulated card's: the
//! code is [`crate::handshake`], [`crate::ring`] and [`crate::ipa::flights`] on one side and
//! [`sim::handshake`] on the other, and only the memory between them is the model checker's.
//!
//! Each model has mutants, where an ordering, a fence or a second look is missing: loom must find those.

mod arm;
mod doze;
mod memory;
mod rest;
mod ring;

/// Explores a model. More than three preemptions find nothing that three don't, in most code, and take
/// very long.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}
