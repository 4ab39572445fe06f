// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a lost device can't write our memory any more (the frame law).

use std::sync::Mutex;

use crate::lock;
use crate::transport::Transport;

/// What is known of it; decided once.
#[derive(Debug, Default)]
pub(crate) struct LetGo(Mutex<Option<bool>>);

impl LetGo {
    /// Finds out, if it is not known: the device's process has ended, or everything was unmapped and
    /// the device said so. To be asked before the transport is closed, too: the hang-up that follows
    /// is our own and proves nothing.
    pub(crate) fn find_out(&self, transport: &dyn Transport, unmap: impl FnOnce() -> bool) -> bool {
        *lock(&self.0).get_or_insert_with(|| {
            // Asked again: it may have died while it was told to unmap.
            transport.ended() || unmap() || transport.ended()
        })
    }

    /// As [`find_out`](Self::find_out), without waiting: nothing while it is being found out.
    pub(crate) fn known(
        &self,
        transport: &dyn Transport,
        unmap: impl FnOnce() -> bool,
    ) -> Option<bool> {
        if transport.liveness().is_none() {
            // The kernel unmaps at once, and nobody else is at it.
            return Some(self.find_out(transport, unmap));
        }
        // The verdict first, under the lock: it is made before our own hang-up.
        let mut known = self.0.try_lock().ok()?;
        if known.is_none() && transport.ended() {
            *known = Some(true);
        }
        *known
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::sync::atomic::{AtomicBool, Ordering};

    use offload_api::error::DeviceError;
    use offload_api::frame::PoolMemory;

    use super::*;
    use crate::transport::MappedRegion;

    /// A connection that is there, or has hung up.
    struct Connection {
        socket: File,
        hung_up: AtomicBool,
    }

    impl Connection {
        fn new() -> Self {
            Self {
                socket: File::open("/dev/null").unwrap(),
                hung_up: AtomicBool::new(false),
            }
        }
    }

    impl Transport for Connection {
        fn name(&self) -> &'static str {
            "a connection"
        }

        fn read(&self, _: u32, _: u64, _: &mut [u8]) -> Result<(), DeviceError> {
            unreachable!()
        }

        fn write(&self, _: u32, _: u64, _: &[u8]) -> Result<(), DeviceError> {
            unreachable!()
        }

        fn map(&self, _: u32, _: u64, _: usize) -> Result<MappedRegion, DeviceError> {
            unreachable!()
        }

        fn dma_map(&self, _: u64, _: PoolMemory<'_>) -> Result<(), DeviceError> {
            unreachable!()
        }

        fn dma_unmap(&self, _: u64, _: usize) -> Result<(), DeviceError> {
            unreachable!()
        }

        fn enable_msix(&self, _: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
            unreachable!()
        }

        fn reset(&self) -> Result<(), DeviceError> {
            unreachable!()
        }

        fn liveness(&self) -> Option<BorrowedFd<'_>> {
            Some(self.socket.as_fd())
        }

        fn close(&self) {
            self.hung_up.store(true, Ordering::Relaxed);
        }

        fn ended(&self) -> bool {
            self.hung_up.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn our_own_hang_up_is_no_proof_that_a_hung_device_has_let_go() {
        let (connection, let_go) = (Connection::new(), LetGo::default());
        assert_eq!(let_go.known(&connection, || unreachable!()), None);
        assert!(!let_go.find_out(&connection, || false));
        connection.close();
        assert_eq!(let_go.known(&connection, || unreachable!()), Some(false));
        assert!(!let_go.find_out(&connection, || unreachable!()));
    }

    #[test]
    fn a_device_that_ends_has_let_go() {
        let (connection, let_go) = (Connection::new(), LetGo::default());
        connection.hung_up.store(true, Ordering::Relaxed);
        assert_eq!(let_go.known(&connection, || unreachable!()), Some(true));
        assert!(let_go.find_out(&connection, || unreachable!()));
    }

    #[test]
    fn a_device_that_ends_while_it_is_told_to_unmap_has_let_go() {
        let (connection, let_go) = (Connection::new(), LetGo::default());
        let unmap = || {
            connection.hung_up.store(true, Ordering::Relaxed);
            false
        };
        assert!(let_go.find_out(&connection, unmap));
    }

    #[test]
    fn nobody_waits_for_who_finds_it_out() {
        let (connection, let_go) = (Connection::new(), LetGo::default());
        let meanwhile = || let_go.known(&connection, || unreachable!()).is_some();
        assert!(!let_go.find_out(&connection, meanwhile));
    }
}
