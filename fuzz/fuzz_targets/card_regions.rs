// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A hostile driver at the simulated card: configuration space, registers, doorbells, MSI-X table.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sim::fuzzing::regions(data));
