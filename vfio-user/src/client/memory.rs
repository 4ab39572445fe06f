// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that the device reads and writes by asking.

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::message::{DmaAccess, MAX_DATA};

/// Memory that is mapped without a descriptor: the device asks for what it needs of it.
pub trait PrivateMemory: Send {
    /// The device reads.
    ///
    /// # Errors
    /// The errno for the device.
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// The device writes.
    ///
    /// # Errors
    /// The errno for the device.
    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno>;
}

fn access(payload: &[u8]) -> Result<(DmaAccess, &[u8]), Errno> {
    let (access, data) = DmaAccess::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
    if access.count > MAX_DATA as u64 || access.address.checked_add(access.count).is_none() {
        return Err(Errno::INVAL);
    }
    Ok((access, data))
}

pub(super) fn read(memory: &mut dyn PrivateMemory, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    let (access, _) = access(payload)?;
    let mut reply = access.as_bytes().to_vec();
    let mut data = vec![0; access.count as usize];
    memory.read(access.address, &mut data)?;
    reply.append(&mut data);
    Ok(reply)
}

pub(super) fn write(memory: &mut dyn PrivateMemory, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    let (access, data) = access(payload)?;
    if data.len() as u64 != access.count {
        return Err(Errno::INVAL);
    }
    memory.write(access.address, data)?;
    Ok(access.as_bytes().to_vec())
}
