// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Wire formats that every layer reads: IP, ESP, AH, and ESP in UDP. No function here panics on any
//! input.

pub mod ah;
pub mod esp;
pub mod ip;
pub mod natt;
