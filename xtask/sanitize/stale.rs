// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A read of freed memory on purpose: `cargo xtask sanitize address` must find it, or it looks at
//! nothing.

fn main() {
    let boxed = std::hint::black_box(Box::new(7u64));
    let pointer: *const u64 = &*boxed;
    drop(boxed);
    // SAFETY: none: what it points to is gone.
    println!("{}", unsafe { std::ptr::read_volatile(pointer) });
}
