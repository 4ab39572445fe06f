// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A hostile card at the driver: registers, claims, answers to commands, events, completions.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| driver::fuzzing::card(data));
