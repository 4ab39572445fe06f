// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A hostile client at the vfio-user server: raw octets, or payloads of well-framed commands.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((kind, octets)) = data.split_first() {
        vfio_user::fuzzing::server(octets, kind % 4 == 0);
    }
});
