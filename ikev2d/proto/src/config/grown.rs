// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Children that come to a connection whose IKE SAs are there already.

use std::sync::Arc;

use super::{ChildConfig, Connection, RemoteAuth};

/// Connections that children were added to: what IKE SAs share stays shared.
#[derive(Default)]
pub struct Grown(Vec<(Arc<Connection>, Arc<Connection>)>);

impl Grown {
    /// Adds the children that `newer` has, and `own` does not know, if both let the same peers in: who has
    /// come by the one has not shown what another one asks for.
    pub fn grow(&mut self, own: &mut Arc<Connection>, newer: &Connection) {
        if !let_in_the_same(own, newer) {
            return;
        }
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

fn let_in_the_same(a: &Connection, b: &Connection) -> bool {
    let auth = match (&a.remote_auth, &b.remote_auth) {
        (RemoteAuth::SharedKey, RemoteAuth::SharedKey) => true,
        (RemoteAuth::PublicKey(a), RemoteAuth::PublicKey(b)) => {
            a.digest().is_some_and(|digest| b.digest() == Some(digest))
        }
        // Whom EAP lets in, as XAUTH, is a list of users.
        _ => false,
    };
    auth && (a.version, &a.local_id, &a.remote_id) == (b.version, &b.local_id, &b.remote_id)
        && (&a.local_addrs, &a.remote_addrs) == (&b.local_addrs, &b.remote_addrs)
        && (&a.ppk_id, a.ppk_required) == (&b.ppk_id, b.ppk_required)
        && a.ikev1.xauth.is_none()
        && b.ikev1.xauth.is_none()
}
