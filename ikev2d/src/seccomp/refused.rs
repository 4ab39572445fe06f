// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A system call that is refused is named before the process ends, on standard error: elsewhere only the
//! kernel's audit would tell its number.
#![expect(
    unsafe_code,
    reason = "a signal's handler reads what the kernel says of it"
)]

use std::io::{Cursor, Write};

use nix::libc::{c_int, c_uint, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use syscalls::Sysno;

/// `siginfo_t` of SIGSYS (sigaction(2)) where pointers have 64 bits.
#[repr(C)]
struct Refused {
    signo: c_int,
    errno: c_int,
    code: c_int,
    _reserved: c_int,
    address: *const c_void,
    call: c_int,
    architecture: c_uint,
}

const _: () = assert!(size_of::<Refused>() <= size_of::<siginfo_t>());
const _: () = assert!(align_of::<Refused>() <= align_of::<siginfo_t>());

/// Has SIGSYS name the call and end the process.
pub(super) fn name_and_end() -> nix::Result<()> {
    // By the time it runs, the signal does again what it does without a handler.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::SigAction(on_refusal), flags, SigSet::empty());
    // SAFETY: the handler touches only its own stack and what the kernel hands it, takes no lock and
    // allocates nothing (signal-safety(7)).
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

extern "C" fn on_refusal(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a whole `siginfo_t`, whose beginning is laid out so for
    // SIGSYS; it is read as integers only, which any octets are.
    let call = unsafe { info.cast::<Refused>().read() }.call;
    let name = usize::try_from(call).ok().and_then(Sysno::new);
    let name = name.map_or("?", |call| call.name());
    let mut text = [0; 160];
    let mut line = Cursor::new(&mut text[..]);
    let _ = writeln!(
        line,
        "ikev2d: system call {name} ({call}) is not allowed (daemon.privileges.seccomp): the process ends"
    );
    let length = usize::try_from(line.position()).unwrap_or_default();
    let told = text.get(..length).unwrap_or_default();
    let _ = nix::unistd::write(std::io::stderr(), told);
    // Comes when this handler returns, and before anything else does.
    let _ = raise(Signal::SIGSYS);
}
