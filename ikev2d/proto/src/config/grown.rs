// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Children that come to a connection whose IKE SAs are there already.

use std::sync::Arc;

use super::{ChildConfig, Connection};

/// Connections that children were added to: what IKE SAs share stays shared.
#[derive(Default)]
pub struct Grown(Vec<(Arc<Connection>, Arc<Connection>)>);

impl Grown {
    /// Adds the children that `newer` has, and `own` does not know.
    pub fn grow(&mut self, own: &mut Arc<Connection>, newer: &Connection) {
        if let Some((_, done)) = self.0.iter().find(|(old, _)| Arc::ptr_eq(old, own)) {
            own.clone_from(done);
            return;
        }
        let old = own.clone();
        let known = |child: &&ChildConfig| !old.children.iter().any(|own| own.name == child.name);
        let mut added = newer.children.iter().filter(known).peekable();
        if added.peek().is_some() {
            Arc::make_mut(own).children.extend(added.cloned());
        }
        self.0.push((old, own.clone()));
    }
}
