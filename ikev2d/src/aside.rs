// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Threads for tasks that the core's own thread is not to wait for: what control clients write, scrapes,
//! TCP connections.

use std::future::pending;
use std::io;

use tokio::runtime::{Builder, Handle};

/// Starts one; it ends with the process. Sockets of its tasks are to be made inside [`Handle::enter`], so
/// that they wake it and not who made them.
pub(crate) fn start(name: &str) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}
