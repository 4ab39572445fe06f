// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets at the ESP transforms: locating, opening, and sealing of whatever claims to be IP.
#![no_main]

mod packets;

use std::sync::LazyLock;

use esp::packet::{PacketBuffer, SlicePacket};
use esp::transform::Transform;
use offload_api::sa::{Direction, Mode, Suite};
use packets::{both_ways, outer, packets_at};

static TRANSFORMS: LazyLock<Vec<Transform>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for suite in Suite::all() {
        for mode in [Mode::Tunnel, Mode::Transport] {
            for outer in [None, Some(outer(["192.0.2.1", "192.0.2.2"], true))] {
                for sa in both_ways(suite, mode, outer) {
                    all.push(Transform::new(&sa).unwrap());
                }
            }
        }
    }
    all
});

packets_at!(TRANSFORMS, Some(&[3; 16]));
