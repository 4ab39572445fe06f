// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A hostile device at the vfio-user client: payloads of well-framed replies.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vfio_user::fuzzing::client(data));
