// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages between a Gen2 virtual function and its physical function: one register for both ways, in
//! the miscellaneous BAR. What each says means the same as with Gen4 ([`pfvf`](crate::pfvf)).
//!
//! The low half is the physical function's, the high half the virtual function's. In each, bit 0 says
//! that it waits to be read (its reader clears it), bit 1 where it comes from, bits 2 to 5 have its
//! type, the rest its data. Who says something puts a pattern into the other's half, so that the other
//! does not speak at the same time; the reader of a question takes it away, that of a notice leaves it.

use crate::pfvf::{ORIGIN, WAITS, kind};

/// The register.
pub const MAILBOX: u64 = 0x200;
/// What interrupts: bit 0 the bundle, bit 1 the physical function's message.
pub const SOURCES: u64 = 0x204;
/// Which of these do not.
pub const MASK: u64 = 0x208;

/// The bundle's bit in [`SOURCES`].
pub const SOURCE_BUNDLE: u32 = 1 << 0;
/// The message's bit in [`SOURCES`].
pub const SOURCE_MESSAGE: u32 = 1 << 1;

const IN_USE: u32 = 0x6ac2;
const IN_USE_MASK: u32 = 0xfffe;
const OURS: u32 = 16;

const fn half(kind: u32, data: u32) -> u32 {
    WAITS | ORIGIN | (kind & 0xf) << 2 | (data & 0x3ff) << 6
}

const fn parse(half: u32) -> Option<(u32, u32)> {
    if half & (WAITS | ORIGIN) != WAITS | ORIGIN {
        return None;
    }
    Some((half >> 2 & 0xf, half >> 6 & 0x3ff))
}

/// The virtual function says something.
pub const fn say(kind: u32, data: u32) -> u32 {
    half(kind, data) << OURS | IN_USE
}

/// Whether the physical function is about to speak.
pub const fn is_taken(register: u32) -> bool {
    register >> OURS & IN_USE_MASK == IN_USE
}

/// Whether what the virtual function said waits to be read.
pub const fn waits(register: u32) -> bool {
    register >> OURS & WAITS != 0
}

/// After it was read: what the virtual function gives the register back with, if it is to.
pub const fn give_back(register: u32) -> Option<u32> {
    if register & IN_USE_MASK == IN_USE {
        Some(register & !IN_USE_MASK)
    } else {
        None
    }
}

/// What the physical function says, if that waits to be read: type and data.
pub const fn heard(register: u32) -> Option<(u32, u32)> {
    parse(register & 0xffff)
}

/// What the virtual function writes once it has read that.
pub const fn taken(register: u32) -> u32 {
    register & !WAITS & !(IN_USE_MASK << OURS)
}

/// The physical function's side: what the virtual function says, if that waits to be read.
pub const fn heard_by_pf(register: u32) -> Option<(u32, u32)> {
    parse(register >> OURS)
}

/// The physical function's side: the register once that is read.
pub const fn taken_by_pf(register: u32, kind: u32) -> u32 {
    let read = register & !(WAITS << OURS);
    if kind == kind::START || kind == kind::STOP {
        read
    } else {
        read & !IN_USE_MASK
    }
}

/// The physical function says something.
pub const fn say_by_pf(kind: u32, data: u32) -> u32 {
    half(kind, data) | IN_USE << OURS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pfvf::{COMPATIBLE, VERSION};

    #[test]
    fn a_question_and_its_answer_leave_the_register_free() {
        let asked = say(kind::VERSION_REQUEST, VERSION);
        // By the layout: data 5, type 6, origin, waiting; and the pattern.
        assert_eq!(asked, (5 << 6 | 6 << 2 | 3) << 16 | 0x6ac2);
        assert!(waits(asked) && heard(asked).is_none());
        assert_eq!(heard_by_pf(asked), Some((kind::VERSION_REQUEST, VERSION)));
        let read = taken_by_pf(asked, kind::VERSION_REQUEST);
        assert!(!waits(read) && give_back(read).is_none());
        let verdict = VERSION | COMPATIBLE << 8;
        let answer = say_by_pf(kind::VERSION, verdict);
        assert!(is_taken(answer) && !waits(answer));
        assert_eq!(heard(answer), Some((kind::VERSION, verdict)));
        let end = taken(answer);
        assert!(!is_taken(end) && heard(end).is_none() && !waits(end));
    }

    #[test]
    fn a_notice_is_left_as_it_is_until_its_sender_has_seen_that() {
        let notice = say(kind::START, 0);
        let read = taken_by_pf(notice, kind::START);
        assert_eq!(read, notice & !(1 << 16));
        assert_eq!(give_back(read), Some(read & !0xfffe));
    }
}
