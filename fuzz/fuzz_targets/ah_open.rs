// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets at the AH transforms: the walk over options and extension headers, opening, and sealing of
//! whatever claims to be IP.
#![no_main]

mod packets;

use std::sync::LazyLock;

use esp::ah::AhTransform;
use esp::packet::{PacketBuffer, SlicePacket};
use offload_api::sa::{Direction, Mode, Suite};
use packets::{both_ways, outer, packets_at};

static TRANSFORMS: LazyLock<Vec<AhTransform>> = LazyLock::new(|| {
    let outers = [
        None,
        Some(outer(["192.0.2.1", "192.0.2.2"], false)),
        Some(outer(["2001:db8::1", "2001:db8::2"], false)),
    ];
    let mut all = Vec::new();
    for suite in Suite::all_ah() {
        for outer in outers {
            let mode = match outer {
                Some(_) => Mode::Tunnel,
                None => Mode::Transport,
            };
            for sa in both_ways(suite, mode, outer) {
                all.push(AhTransform::new(&sa).unwrap());
            }
        }
    }
    all
});

packets_at!(TRANSFORMS, None);
