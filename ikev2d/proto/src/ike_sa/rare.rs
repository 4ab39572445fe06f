// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What most IKE SAs have nothing of: it takes a pointer's room until there is something.

use std::ops::{Deref, DerefMut};

/// A value that is mostly [`nothing`](Nothing::nothing). Writing to it makes room for it.
pub(crate) struct Rare<T>(Option<Box<T>>);

/// What it is as long as nobody has written to it.
pub(crate) trait Nothing: Default + 'static {
    fn nothing() -> &'static Self;
}

/// Lets a type be [`Rare`].
macro_rules! nothing {
    ($what:ty) => {
        impl $crate::ike_sa::Nothing for $what {
            fn nothing() -> &'static Self {
                static NOTHING: std::sync::LazyLock<$what> =
                    std::sync::LazyLock::new(<$what>::default);
                &NOTHING
            }
        }
    };
}
pub(crate) use nothing;

impl<T> Rare<T> {
    /// Nothing needs it any more.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// What there is of it.
    pub(crate) fn as_deref_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Nothing> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => T::nothing(),
        }
    }
}

impl<T: Nothing> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}
