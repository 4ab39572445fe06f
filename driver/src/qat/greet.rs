// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a virtual function and its physical function have to say to each other.

use std::time::{Duration, Instant};

use offload_api::error::DeviceError;
use qat_regs::mailbox::{self, MAILBOX};
use qat_regs::pfvf::{self, kind};
use qat_regs::{Generation, MISC_BAR};

use crate::bar::Registers;
use crate::transport::Transport;

/// How long the physical function may take for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one of Gen2 may: it need not be there at all.
const SHORT_PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks.
const PAUSE: Duration = Duration::from_micros(50);

/// Speaks with the physical function: versions, what each pair does, a reset of each. The map.
pub(super) fn greet(transport: &dyn Transport, pairs: u32) -> Result<u16, DeviceError> {
    let version = pfvf::word(kind::VERSION_REQUEST, pfvf::VERSION);
    match ask(transport, version)? {
        Some((kind::VERSION, data)) if data >> 8 & 3 == pfvf::COMPATIBLE => {}
        answer => {
            return Err(DeviceError::Protocol {
                what: format!("the physical function's version: {answer:x?}"),
            });
        }
    }
    let octet = |number| {
        let data = pfvf::small_block(pfvf::BLOCK_RING_SERVICES, number);
        let answer = ask(transport, pfvf::word(kind::SMALL_BLOCK, data))?;
        let octet = answer.filter(|(kind, _)| *kind == kind::BLOCK_ANSWER);
        let octet = octet.and_then(|(_, data)| pfvf::answered(data));
        octet.ok_or_else(|| DeviceError::Protocol {
            what: format!("octet {number} of the ring services: {answer:x?}"),
        })
    };
    let map = u16::from_le_bytes([octet(2)?, octet(3)?]);
    for pair in 0..pairs {
        let answer = ask(transport, pfvf::word(kind::RING_PAIR_RESET, pair))?;
        if answer != Some((kind::RING_PAIR_RESET, pfvf::reset::DONE)) {
            return Err(DeviceError::Protocol {
                what: format!("reset of ring pair {pair}: {answer:x?}"),
            });
        }
    }
    let start = pfvf::word(kind::START, 0);
    say(transport, start)?;
    Ok(map)
}

/// Sends a word and waits until it is taken.
fn say(transport: &dyn Transport, word: u32) -> Result<(), DeviceError> {
    let misc = Registers::new(transport, MISC_BAR);
    misc.write(pfvf::TO_PF, word)?;
    let taken = || Ok(misc.read(pfvf::TO_PF)? & pfvf::WAITS == 0);
    if !wait(PATIENCE, taken)? {
        return Err(DeviceError::Timeout {
            waited_for: "the physical function",
            millis: PATIENCE.as_millis() as u64,
        });
    }
    Ok(())
}

/// Sends a word and gives the answer's type and data.
pub(super) fn ask(transport: &dyn Transport, word: u32) -> Result<Option<(u32, u32)>, DeviceError> {
    say(transport, word)?;
    let misc = Registers::new(transport, MISC_BAR);
    let answer = misc.read(pfvf::FROM_PF)?;
    misc.write(pfvf::FROM_PF, answer & !pfvf::WAITS)?;
    Ok(pfvf::parse(answer))
}

/// Speaks with the physical function of a Gen2 function: versions, and that it starts. Whether anybody
/// is there: the function works without, as its physical function's driver may be older than these
/// rules or keep silent.
pub(super) fn greet_by_mailbox(transport: &dyn Transport) -> Result<bool, DeviceError> {
    let misc = Registers::new(transport, MISC_BAR);
    if !say_by_mailbox(&misc, kind::VERSION_REQUEST, pfvf::VERSION)? {
        // Taken back, so that nobody answers later.
        misc.write(MAILBOX, 0)?;
        tracing::info!("the physical function is silent");
        return Ok(false);
    }
    let mut answer = None;
    wait(SHORT_PATIENCE, || {
        let register = misc.read(MAILBOX)?;
        answer = mailbox::heard(register);
        if answer.is_some() {
            misc.write(MAILBOX, mailbox::taken(register))?;
        }
        Ok(answer.is_some())
    })?;
    match answer {
        Some((kind::VERSION, data)) if data >> 8 & 3 != pfvf::INCOMPATIBLE => {}
        None => return Ok(false),
        answer => {
            return Err(DeviceError::Protocol {
                what: format!("the physical function's version: {answer:x?}"),
            });
        }
    }
    say_by_mailbox(&misc, kind::START, 0)
}

/// Sends a message; whether it was taken.
fn say_by_mailbox(misc: &Registers<'_>, kind: u32, data: u32) -> Result<bool, DeviceError> {
    let free = || Ok(!mailbox::is_taken(misc.read(MAILBOX)?));
    if !wait(SHORT_PATIENCE, free)? {
        return Ok(false);
    }
    misc.write(MAILBOX, mailbox::say(kind, data))?;
    if !wait(SHORT_PATIENCE, || Ok(!mailbox::waits(misc.read(MAILBOX)?)))? {
        return Ok(false);
    }
    if let Some(register) = mailbox::give_back(misc.read(MAILBOX)?) {
        misc.write(MAILBOX, register)?;
    }
    Ok(true)
}

/// Looks until something is so, or for so long; whether it is.
fn wait(
    patience: Duration,
    mut is_so: impl FnMut() -> Result<bool, DeviceError>,
) -> Result<bool, DeviceError> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() > patience {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(true)
}

/// Says that the function stops, without waiting for anybody.
pub(super) fn say_good_bye(transport: &dyn Transport, generation: Generation) {
    let misc = Registers::new(transport, MISC_BAR);
    let _ = match generation {
        Generation::Gen4 => misc.write(pfvf::TO_PF, pfvf::word(kind::STOP, 0)),
        Generation::Gen2 => misc.write(MAILBOX, mailbox::say(kind::STOP, 0)),
        Generation::Virtual => Ok(()),
    };
}
