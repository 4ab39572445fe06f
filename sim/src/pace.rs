// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtual line rate and latency: how fast the card would be in silicon, whatever it runs on.
//!
//! The card works as fast as its host lets it, and shows each result only when a card of that rate
//! and latency would have. It can't be faster than its host: a rate above what the host manages
//! changes nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How fast a card is; as fast as its host by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// What the card's engine, or in inline mode each direction of its wire port, carries.
    pub rate: Option<Rate>,
    /// From a packet's last bit to its result.
    pub latency: Duration,
}

impl Pace {
    /// Longest latency. Drivers give up a card that is silent for some hundred milliseconds.
    pub const MAX_LATENCY: Duration = Duration::from_millis(100);

    /// Whether it changes anything.
    pub fn is_set(&self) -> bool {
        self.rate.is_some() || !self.latency.is_zero()
    }
}

/// Bits in a second: `100G`, `2.5G`, `400M`, `1000000k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// Slowest: 1 Mbit/s.
    pub const MIN: Self = Self(1_000_000);
    /// Fastest: 10 Tbit/s.
    pub const MAX: Self = Self(10_000_000_000_000);

    /// So many bits in a second; nothing outside [`MIN`](Self::MIN) to [`MAX`](Self::MAX).
    pub fn new(bits_per_second: u64) -> Option<Self> {
        let rate = Self(bits_per_second);
        (Self::MIN..=Self::MAX).contains(&rate).then_some(rate)
    }

    /// Bits in a second.
    pub fn bits_per_second(self) -> u64 {
        self.0
    }

    /// Octets in so much time.
    pub(crate) fn octets_in(self, time: Duration) -> u64 {
        let octets = u128::from(self.0) * time.as_nanos() / 8_000_000_000;
        u64::try_from(octets).unwrap_or(u64::MAX)
    }
}

/// The text is no rate.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "rate {found:?}: {why}; expected bits in a second with k, M, G or T for 10^3 to 10^12, between 1M and 10T, such as 100G or 2.5G"
)]
pub struct ParseRateError {
    found: String,
    why: &'static str,
}

/// Decimal prefixes: a rate's are never powers of two.
const PREFIXES: [(char, u32); 4] = [('k', 3), ('M', 6), ('G', 9), ('T', 12)];

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |why| ParseRateError {
            found: text.to_owned(),
            why,
        };
        let end = text
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        if !number.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(error("it does not start with a number"));
        }
        let unit = ["bit/s", "bps"]
            .iter()
            .find_map(|word| unit.trim_start().strip_suffix(word))
            .unwrap_or(unit.trim_start());
        let mut letters = unit.chars();
        let exponent = match (letters.next(), letters.as_str()) {
            (None, _) => 0,
            (Some('m'), "") => return Err(error("m is a thousandth, a million is M")),
            (Some(_), "B/s" | "Bps") => return Err(error("B is octets: eight times as many bits")),
            (Some(_), "i" | "ib" | "ibit/s") => return Err(error("rates count in powers of ten")),
            (Some(letter), "") => {
                let known = PREFIXES.iter().find(|(prefix, _)| *prefix == letter);
                known.ok_or_else(|| error("the unit is unknown"))?.1
            }
            _ => return Err(error("the unit is unknown")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let fraction = fraction.trim_end_matches('0');
        if fraction.contains('.') {
            return Err(error("its number has two points"));
        }
        let places = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
        let scale = exponent
            .checked_sub(places)
            .ok_or_else(|| error("it is no whole number of bits"))?;
        let bits = format!("{whole}{fraction}").parse::<u64>().ok();
        bits.and_then(|bits| bits.checked_mul(10_u64.pow(scale)))
            .and_then(Self::new)
            .ok_or_else(|| error("it is out of range"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (prefix, exponent) in PREFIXES.iter().rev() {
            let unit = 10_u64.pow(*exponent);
            if self.0.is_multiple_of(unit) {
                return write!(f, "{}{prefix}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Time that only goes on when a test says so: on a busy machine as on an idle one a card at a
/// [`Pace`] then does the same. The card does not sleep meanwhile.
///
/// It is the time of the pace alone; lifetimes of SAs and interrupt moderation stay the host's.
#[derive(Clone, Debug)]
pub struct VirtualClock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    elapsed: AtomicU64,
    asked: AtomicU64,
    settled: AtomicU64,
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            elapsed: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            settled: AtomicU64::new(0),
        }))
    }
}

impl VirtualClock {
    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.elapsed.load(Ordering::Acquire))
    }

    /// Waits until the card has done what there is to do now, then lets time pass, and waits again.
    /// The card must run, or have ended.
    pub fn advance(&self, time: Duration) {
        self.settle();
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.elapsed.fetch_add(time, Ordering::AcqRel);
        self.settle();
    }

    /// Waits until the card has done what there is to do now. The card must run, or have ended.
    pub fn settle(&self) {
        let asked = self.0.asked.fetch_add(1, Ordering::AcqRel) + 1;
        while self.0.settled.load(Ordering::Acquire) < asked {
            std::thread::yield_now();
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.start + self.elapsed()
    }

    pub(crate) fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::Acquire)
    }

    /// The card has looked at everything since it was asked, and found nothing.
    pub(crate) fn settle_to(&self, asked: u64) {
        self.0.settled.fetch_max(asked, Ordering::AcqRel);
    }
}

/// A line that carries one packet after another, and when each has passed.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    rate: Rate,
    free: Instant,
    /// What a packet takes beyond whole nanoseconds, in nanoseconds times the rate.
    rest: u64,
}

/// The longest time that a line makes up for when its host did not run the card.
const CATCH_UP: Duration = Duration::from_millis(10);

impl Line {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            free: now,
            rest: 0,
        }
    }

    /// When the line has carried all that it was given.
    pub(crate) fn free(&self) -> Instant {
        self.free
    }

    /// Carries a packet that has been there `since` then; when its last bit has passed.
    pub(crate) fn carry(&mut self, octets: u64, since: Instant, now: Instant) -> Instant {
        let earliest = since.max(now.checked_sub(CATCH_UP).unwrap_or(now));
        if self.free < earliest {
            (self.free, self.rest) = (earliest, 0);
        }
        let rate = self.rate.bits_per_second();
        let time = octets
            .saturating_mul(8_000_000_000)
            .saturating_add(self.rest);
        self.free += Duration::from_nanos(time / rate);
        self.rest = time % rate;
        self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_parsed_and_bad_ones_told() {
        for (text, bits) in [
            ("100G", 100_000_000_000),
            ("2.5G", 2_500_000_000),
            ("2.50Gbit/s", 2_500_000_000),
            ("400 Mbps", 400_000_000),
            ("1000000", 1_000_000),
            ("1500k", 1_500_000),
            ("10T", 10_000_000_000_000),
        ] {
            assert_eq!(
                text.parse::<Rate>().unwrap().bits_per_second(),
                bits,
                "{text}"
            );
        }
        for (text, word) in [
            ("", "number"),
            ("G", "number"),
            (".5G", "number"),
            ("1.2.3G", "two points"),
            ("fast", "number"),
            ("100m", "million is M"),
            ("100MB/s", "octets"),
            ("100Gi", "powers of ten"),
            ("100X", "unit"),
            ("100Gx", "unit"),
            ("1", "range"),
            ("11T", "range"),
            ("99999999999999999999G", "range"),
            ("1000000.5", "whole number"),
            ("-1G", "number"),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("such as 100G"),
                "{error}"
            );
        }
    }

    #[test]
    fn rates_show_as_they_are_written() {
        for text in ["100G", "2500M", "1500k", "1000001"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_line_carries_its_rate_to_the_bit_whatever_the_sizes() {
        for rate in ["1M", "33333333", "1G", "100G"] {
            let start = Instant::now();
            let rate: Rate = rate.parse().unwrap();
            let mut line = Line::new(rate, start);
            let mut octets = 0;
            for size in [64, 65, 1, 9000, 1500].into_iter().cycle().take(100_000) {
                line.carry(size, start, start);
                octets += size;
            }
            let exact = u128::from(octets) * 8_000_000_000 / u128::from(rate.bits_per_second());
            assert_eq!((line.free() - start).as_nanos(), exact, "{rate}");
        }
    }

    #[test]
    fn a_line_saves_nothing_up_while_it_is_idle() {
        let start = Instant::now();
        let mut line = Line::new("8M".parse().unwrap(), start);
        let later = start + Duration::from_secs(1);
        assert_eq!(
            line.carry(1000, later, later),
            later + Duration::from_millis(1)
        );
        assert_eq!(
            line.carry(1000, later, later),
            later + Duration::from_millis(2)
        );
    }

    #[test]
    fn a_line_makes_up_for_a_late_host_within_bounds() {
        let start = Instant::now();
        let mut line = Line::new("8M".parse().unwrap(), start);
        let late = start + Duration::from_millis(5);
        // It was there all the time.
        assert_eq!(
            line.carry(1000, start, late),
            start + Duration::from_millis(1)
        );
        let stopped = start + Duration::from_secs(9);
        let earliest = stopped - CATCH_UP;
        assert_eq!(
            line.carry(1000, start, stopped),
            earliest + Duration::from_millis(1)
        );
    }
}
