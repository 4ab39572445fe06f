// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A hostile card at the driver: completions.
#![no_main]

use std::sync::LazyLock;

use driver::ipa::flights::Flights;
use fpga_regs::descriptor::Completion;
use libfuzzer_sys::fuzz_target;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::sa::SaHandle;
use zerocopy::FromBytes;

static POOL: LazyLock<FramePool> = LazyLock::new(|| {
    FramePool::new(FramePoolConfig { slots: 16, ..FramePoolConfig::default() }).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let mut flights = Flights::new(16, 4);
    let sa = SaHandle { index: 0, generation: 0 };
    for octets in data.chunks_exact(size_of::<Completion>()) {
        while let Some(frame) = POOL.alloc() {
            assert!(flights.begin(frame, 1, sa).is_ok());
        }
        let completion = Completion::read_from_bytes(octets).unwrap();
        let mut done = Vec::new();
        flights.accept(&completion, &mut done);
        for done in &done {
            assert!(done.status.is_ok() || done.frame.is_empty());
            assert!(done.frame.headroom() + done.frame.len() <= 2048);
        }
    }
    let mut done = Vec::new();
    flights.bring_home(&mut done, true);
    drop(done);
    assert_eq!((POOL.available(), POOL.quarantined()), (16, 0));
});
