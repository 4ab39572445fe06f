// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of the configuration that ten thousands of child SAs bear: each is kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// The names that somebody bears.
#[derive(Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The one copy of a name.
    pub(crate) fn of(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        // A new name comes with a new configuration, which may have done away with others.
        self.0.retain(|name| Arc::strong_count(name) > 1);
        let name = Arc::<str>::from(name);
        self.0.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_no_longer_than_it_is_borne() {
        let mut names = Names::default();
        let first = names.of("gw/net");
        assert!(Arc::ptr_eq(&first, &names.of("gw/net")));
        drop(names.of("old"));
        let other = names.of("other");
        assert_eq!((&*first, &*other), ("gw/net", "other"));
        assert_eq!(names.0.len(), 2);
    }
}
