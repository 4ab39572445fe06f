// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Faults on purpose: what a card may do wrong, when, and reproducibly.

mod plan;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use plan::{FaultPlan, PlanError, When};

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal),* $(,)?) => {
        /// What a card may do wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Fault { $($(#[doc = $doc])* $variant,)* }

        impl Fault {
            /// Every fault: its name, and what it does.
            pub const ALL: &'static [(Self, &'static str, &'static str)] = &[
                $((Self::$variant, $name, concat!($($doc),*)),)*
            ];
        }
    };
}

faults! {
    /// A completion is not written.
    DropCompletion = "drop-completion",
    /// A completion is written twice.
    DuplicateCompletion = "duplicate-completion",
    /// Two completions change places.
    ReorderCompletion = "reorder-completion",
    /// A completion comes a millisecond late, and those behind it too.
    DelayCompletion = "delay-completion",
    /// A completion names a slot that the driver never used.
    ForgeSlot = "forge-slot",
    /// A completion names an earlier use of its slot.
    ForgeGeneration = "forge-generation",
    /// A completion tells a length beyond the buffer.
    ForgeLength = "forge-length",
    /// A completion tells an offset beyond the buffer.
    ForgeOffset = "forge-offset",
    /// A completion tells a status that there is not.
    ForgeStatus = "forge-status",
    /// A good packet is reported as not authentic.
    ForgeBadIcv = "forge-bad-icv",
    /// A completion tells the number of another packet.
    ForgeSequence = "forge-sequence",
    /// A completion tells another next header.
    ForgeNextHeader = "forge-next-header",
    /// The last octet of a sealed packet is wrong.
    CorruptOutput = "corrupt-output",
    /// An octet of an opened packet is wrong.
    CorruptPlain = "corrupt-plain",
    /// A sealed packet is four octets short.
    TruncateOutput = "truncate-output",
    /// A sealed packet carries the SPI of another SA.
    WrongSa = "wrong-sa",
    /// A doorbell is not heard until the next one.
    LoseDoorbell = "lose-doorbell",
    /// A doorbell is heard a millisecond late.
    LateDoorbell = "late-doorbell",
    /// An interrupt is not fired.
    LoseInterrupt = "lose-interrupt",
    /// An interrupt is fired twice.
    DuplicateInterrupt = "duplicate-interrupt",
    /// An interrupt is fired a thousand times.
    StormInterrupt = "storm-interrupt",
    /// Another vector is fired.
    WrongVector = "wrong-vector",
    /// An event is not written.
    LoseEvent = "lose-event",
    /// An event is written twice.
    DuplicateEvent = "duplicate-event",
    /// An event speaks of another SA, or of nothing that there is.
    ForgeEvent = "forge-event",
    /// The data path hangs until a reset; its heart beats.
    Stall = "stall",
    /// The data path hangs until a reset, heart and all.
    Hang = "hang",
    /// The heart stops; the data path goes on.
    FreezeHeartbeat = "freeze-heartbeat",
    /// From here on every register reads as all ones, until a reset by message.
    VanishRegisters = "vanish-registers",
    /// The card resets itself.
    ResetItself = "reset-itself",
    /// The card writes where it may not; the map stops it.
    StrayDma = "stray-dma",
    /// An admin command is not answered.
    DropAnswer = "drop-answer",
    /// An admin command is answered under another id.
    ForgeAnswer = "forge-answer",
    /// An admin command is answered with a status that there is not.
    ForgeAnswerStatus = "forge-answer-status",
    /// An admin command is answered ten milliseconds late.
    LateAnswer = "late-answer",
    /// An SA is refused because the table were full.
    FullTable = "full-table",
    /// A register access is refused by the bus.
    BusError = "bus-error",
    /// An identity register tells another version, size or capability.
    LieIdentity = "lie-identity",
}

impl Fault {
    /// Its name on the command line and in plans.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(fault, ..)| *fault == self)
            .map_or("", |(_, name, _)| name)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no fault.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("no fault {found:?}: there are {}", names())]
pub struct UnknownFault {
    found: String,
}

fn names() -> String {
    let names: Vec<_> = Fault::ALL.iter().map(|(_, name, _)| *name).collect();
    names.join(", ")
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .find(|(_, name, _)| *name == text)
            .map(|(fault, ..)| *fault)
            .ok_or_else(|| UnknownFault {
                found: text.to_owned(),
            })
    }
}

/// A fault, and when it strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// Which.
    pub fault: Fault,
    /// When.
    pub when: When,
}

/// The text is no rule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseFaultError {
    /// The name is unknown.
    #[error(transparent)]
    Name(#[from] UnknownFault),
    /// The rest says no time.
    #[error(
        "fault {found:?}: expected NAME=1/N (once in N chances), NAME=LxM (L in a row, every M), or NAME=@A,B,… (exactly these)"
    )]
    When {
        /// What came.
        found: String,
    },
}

impl FromStr for FaultRule {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseFaultError::When {
            found: text.to_owned(),
        };
        let (name, when) = text.split_once('=').ok_or_else(bad)?;
        let fault = name.parse()?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let when = if let Some(chances) = when.strip_prefix("1/") {
            When::one_in(number(chances)?)
        } else if let Some(list) = when.strip_prefix('@') {
            When::at(list.split(',').map(number).collect::<Result<_, _>>()?)
        } else {
            let (length, every) = when.split_once('x').ok_or_else(bad)?;
            When::burst(number(length)?, number(every)?)
        };
        let when = when.ok_or_else(bad)?;
        Ok(Self { fault, when })
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.fault)?;
        match &self.when {
            When::OneIn(n) => write!(f, "1/{n}"),
            When::Burst { length, every } => write!(f, "{length}x{every}"),
            When::At(chances) => {
                let chances: Vec<_> = chances.iter().map(u64::to_string).collect();
                write!(f, "@{}", chances.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_many_and_each_has_a_name_and_says_what_it_does() {
        assert!(Fault::ALL.len() >= 25, "{}", Fault::ALL.len());
        for (number, (fault, name, what)) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, number);
            assert_eq!(name.parse::<Fault>().unwrap(), *fault);
            assert!(what.trim().ends_with('.'), "{name}: {what}");
        }
    }

    #[test]
    fn rules_are_parsed_and_bad_ones_told() {
        for good in ["forge-length=1/100", "stall=@3,500", "drop-answer=8x1000"] {
            assert_eq!(good.parse::<FaultRule>().unwrap().to_string(), good);
        }
        for bad in [
            "forge-length",
            "stall=1/0",
            "stall=2/3",
            "stall=1/x",
            "stall=@",
            "stall=@0",
            "stall=0x8",
            "stall=9x8",
        ] {
            let error = bad.parse::<FaultRule>().unwrap_err().to_string();
            assert!(error.contains("NAME=1/N"), "{error}");
        }
        let error = "nothing=1/2".parse::<FaultRule>().unwrap_err().to_string();
        assert!(error.contains("forge-status"), "{error}");
    }

    #[test]
    fn the_catalogue_is_the_documented_one() {
        let documented = include_str!("../../../docs/faults.md");
        for (_, name, what) in Fault::ALL {
            let row = format!("| `{name}` | {} |", what.trim());
            assert!(documented.contains(&row), "docs/faults.md lacks: {row}");
        }
    }
}
