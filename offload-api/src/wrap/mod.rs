// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Accelerators around an accelerator: each adds one thing and changes nothing else, so they stack
//! in any order around a card, the software engine, or a [`Failover`](crate::failover::Failover).
//!
//! ```text
//! Counted ( Captured ( Faulty ( card )))
//! ```
//!
//! - [`Counted`]: what is called how often, how large bursts are, and how long packets take.
//! - [`Traced`]: every verb to `tracing`, bursts by their size; never a key, never a packet.
//! - [`Captured`]: packets as they go in and as they come out, to a [`PacketSink`].
//! - [`Faulty`]: an accelerator that misbehaves by plan and seed, to try out what is built on it.

mod captured;
mod counted;
mod faulty;
mod traced;

#[cfg(feature = "pcapng")]
mod pcapng;

pub use captured::{Captured, PacketSink, Seen, Side};
pub use counted::{Counted, CountedSnapshot, Latency};
pub use faulty::{Faulty, FaultyPlan};
#[cfg(feature = "pcapng")]
pub use pcapng::PcapngSink;
pub use traced::Traced;

/// The verbs of [`Accelerator`](crate::device::Accelerator) that a wrapper passes on.
macro_rules! pass_on {
    ($($verb:ident),* $(,)?) => { $(pass_on!(@ $verb);)* };
    (@ info) => {
        fn info(&self) -> $crate::device::AcceleratorInfo {
            self.inner.info()
        }
    };
    (@ capabilities) => {
        fn capabilities(&self) -> &$crate::capability::Capabilities {
            self.inner.capabilities()
        }
    };
    (@ register_pool) => {
        fn register_pool(
            &self,
            pool: &$crate::frame::FramePool,
        ) -> Result<(), $crate::error::DeviceError> {
            self.inner.register_pool(pool)
        }
    };
    // What a wrapper does about installing, it does in `install_as`.
    (@ install) => {
        fn install(
            &self,
            sa: &$crate::sa::SaParams,
        ) -> Result<$crate::sa::SaHandle, $crate::error::InstallError> {
            self.install_as(sa, 0)
        }
    };
    (@ carried) => {
        fn carried(
            &self,
            from: u32,
            most: usize,
        ) -> Result<Vec<$crate::carried::CarriedSa>, $crate::error::DeviceError> {
            self.inner.carried(from, most)
        }
    };
    (@ amend) => {
        fn amend(
            &self,
            sa: $crate::sa::SaHandle,
            change: &$crate::sa::Amend,
        ) -> Result<(), $crate::error::SaError> {
            self.inner.amend(sa, change)
        }
    };
    (@ retire) => {
        fn retire(
            &self,
            sa: $crate::sa::SaHandle,
        ) -> Result<$crate::sa::SaUsage, $crate::error::SaError> {
            self.inner.retire(sa)
        }
    };
    (@ usage) => {
        fn usage(
            &self,
            sa: $crate::sa::SaHandle,
        ) -> Result<$crate::sa::SaUsage, $crate::error::SaError> {
            self.inner.usage(sa)
        }
    };
    (@ poll_events) => {
        fn poll_events(&self, out: &mut Vec<$crate::event::Event>) -> usize {
            self.inner.poll_events(out)
        }
    };
    (@ event_fd) => {
        fn event_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            self.inner.event_fd()
        }
    };
    (@ inline) => {
        fn inline(&self) -> Option<&dyn $crate::inline::Inline> {
            self.inner.inline()
        }
    };
    (@ counters) => {
        fn counters(&self) -> $crate::device::Counters {
            self.inner.counters()
        }
    };
    (@ health) => {
        fn health(&self) -> $crate::device::Health {
            self.inner.health()
        }
    };
    (@ reset) => {
        fn reset(&self) -> Result<(), $crate::error::DeviceError> {
            self.inner.reset()
        }
    };
}
use pass_on;

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed, the same numbers.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True once in `one_in` on average; never for 0.
    fn strikes(&mut self, one_in: u32) -> bool {
        one_in != 0 && self.next().is_multiple_of(one_in.into())
    }
}
