// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A hostile driver at the simulated card: admin commands and submissions.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sim::fuzzing::driver(data));
