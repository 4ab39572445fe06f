// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ESP and AH without their cryptography (RFC 4303, RFC 4302): headers, sequence numbers, IVs,
//! padding, the replay window, lifetimes.
//!
//! Two kinds of engines need it, and have nothing else in common: software, whose cipher is a
//! library's (`esp`), and lookaside devices, which know ciphers and no SA (`driver`'s QAT). So it is
//! beneath both, and knows no cipher.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod ah;
pub mod framing;
pub mod packet;
pub mod sa;
pub mod table;
mod template;
mod trailer;
