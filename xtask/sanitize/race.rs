// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A race on purpose: `cargo xtask sanitize thread` must find it, or it looks at nothing.

static mut COUNT: u64 = 0;

fn main() {
    let add = || {
        for _ in 0..1000 {
            // SAFETY: none: two threads do this at once.
            unsafe { COUNT += 1 };
        }
    };
    let other = std::thread::spawn(add);
    add();
    other.join().unwrap();
}
