// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a card says of itself before its life begins.

use fpga_regs::context::suite_bit;
use fpga_regs::registers::{CardFeatures, DEVICE_ID, VENDOR_ID, identity};
use offload_api::capability::{Capabilities, Features};
use offload_api::error::DeviceError;
use offload_api::sa::Suite;
use vfio_user::message::REGION_CONFIG;

use crate::bar::Registers;
use crate::ipa::queue::MAX_GATHER;
use crate::transport::Transport;

pub(super) fn check_identity(transport: &dyn Transport) -> Result<(), DeviceError> {
    let mut id = [0; 4];
    transport.read(REGION_CONFIG, 0, &mut id)?;
    let [a, b, c, d] = id;
    let found = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    match found {
        (VENDOR_ID, DEVICE_ID) => Ok(()),
        (0xffff, 0xffff) => Err(DeviceError::Gone {
            reason: "configuration space reads all ones".to_owned(),
        }),
        (vendor, device) => Err(DeviceError::Protocol {
            what: format!(
                "PCI id {vendor:04x}:{device:04x}, expected an ipa card ({VENDOR_ID:04x}:{DEVICE_ID:04x})"
            ),
        }),
    }
}

pub(super) fn read_capabilities(
    registers: &Registers<'_>,
    card: CardFeatures,
) -> Result<Capabilities, DeviceError> {
    let bits = registers.read_wide(identity::SUITES)?;
    let has =
        |suite: &Suite| bits & 1 << suite_bit(suite.cipher() as u8, suite.integrity() as u8) != 0;
    let pairs = [
        (CardFeatures::ESN, Features::ESN),
        (CardFeatures::TUNNEL, Features::TUNNEL),
        (CardFeatures::TRANSPORT, Features::TRANSPORT),
        (CardFeatures::OUTER_HEADERS, Features::OUTER_HEADERS),
        (CardFeatures::OUTER_IPV6, Features::OUTER_IPV6),
        (CardFeatures::UDP_ENCAPSULATION, Features::UDP_ENCAPSULATION),
        (
            CardFeatures::EXPLICIT_NUMBERING,
            Features::EXPLICIT_NUMBERING,
        ),
        (CardFeatures::LIFETIMES, Features::LIFETIMES),
        (CardFeatures::FAULT_INJECTION, Features::FAULT_INJECTION),
        (CardFeatures::INLINE, Features::INLINE),
        (CardFeatures::NULL_CRYPTO, Features::NULL_CRYPTO),
    ];
    let mut features = Features::INTERRUPTS;
    for (theirs, ours) in pairs {
        features.set(ours, card.contains(theirs));
    }
    let limit = |offset: u64, max: u32| registers.read(offset).map(|value| value.min(max));
    Ok(Capabilities {
        suites: Suite::all().filter(has).collect(),
        features,
        replay_window_max: limit(identity::MAX_WINDOW, 4096)?,
        max_sas: limit(identity::MAX_SAS, 1 << 20)?,
        max_queues: limit(identity::MAX_QUEUES, 64)? as u16,
        max_depth: limit(identity::MAX_DEPTH, 4096)?,
        max_packet: limit(identity::MAX_PACKET, 1 << 16)?,
        // None, to a card, is one frame.
        max_gather: limit(identity::MAX_GATHER, MAX_GATHER as u32)?.max(1) as u16,
    })
}
