// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handing a function to vfio-pci and back, by `driver_override` (Linux's
//! `Documentation/ABI/testing/sysfs-bus-pci`): first what would be written, or why nothing should be,
//! then the writing.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Host, PciError, PciFunction, VFIO_PCI, known_card};

/// How to bind.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindOptions {
    /// Go on where a [`Refusal`] may be overridden.
    pub force: bool,
    /// Have udev do the same after the next boot.
    pub persist: bool,
}

/// What would be written, in this order.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The function.
    pub address: String,
    /// What is written; nothing where all is as it should be.
    pub steps: Vec<Step>,
    /// Why it should not be, where that was overridden.
    pub overridden: Vec<Refusal>,
    /// Who shall have it afterwards.
    expected: Option<String>,
    before: Before,
}

/// How a function was found, for taking back what was done.
#[derive(Clone, Debug)]
struct Before {
    driver: Option<String>,
    driver_override: Option<String>,
    has_rule: bool,
}

/// One change to the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A text for an attribute.
    Write {
        /// The attribute.
        path: PathBuf,
        /// The text.
        text: String,
    },
    /// A file to be made.
    Create {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// A file to be removed.
    Remove {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, text } => {
                write!(f, "echo {} > {}", text.trim_end(), path.display())
            }
            Self::Create { path, .. } => write!(f, "create {}", path.display()),
            Self::Remove { path } => write!(f, "rm {}", path.display()),
        }
    }
}

/// Why a function should stay where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is none of the cards that this project knows.
    UnknownCard {
        /// Its vendor and device.
        id: (u16, u16),
    },
    /// Its driver has network interfaces that are up.
    InterfaceUp {
        /// Their names.
        names: Vec<String>,
    },
    /// Processes use it over VFIO.
    VfioInUse {
        /// Their ids.
        pids: Vec<u32>,
    },
    /// Virtual functions hang on it.
    VirtualFunctions {
        /// How many.
        count: u32,
    },
    /// The kernel isolates nothing: there is no IOMMU group.
    NoIommu,
    /// Its IOMMU group would not be usable: drivers have other members.
    SharedGroup {
        /// The group.
        group: u32,
        /// Member and driver.
        members: Vec<(String, String)>,
    },
    /// The kernel has no vfio-pci.
    NoVfioPci,
    /// vfio-pci takes no such device unless it is told to.
    Denied,
    /// vfio-pci does not have it.
    NotOurs {
        /// Who has it.
        driver: Option<String>,
    },
}

impl Refusal {
    /// Whether going on all the same does no more harm than the message says.
    pub fn may_be_forced(&self) -> bool {
        matches!(self, Self::InterfaceUp { .. } | Self::SharedGroup { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCard {
                id: (vendor, device),
            } => write!(
                f,
                "{vendor:04x}:{device:04x} is no card that this driver knows (driverctl binds any)"
            ),
            Self::InterfaceUp { names } => {
                let names = names.join(", ");
                write!(
                    f,
                    "the network interface {names} is up: take it down first, or use --force"
                )
            }
            Self::VfioInUse { pids } => {
                let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
                let pids = pids.join(", ");
                write!(f, "process {pids} has it open over VFIO: end it first")
            }
            Self::VirtualFunctions { count } => write!(
                f,
                "{count} virtual functions hang on it: write 0 to its sriov_numvfs first"
            ),
            Self::NoIommu => write!(
                f,
                "it has no IOMMU group: turn the IOMMU on (VT-d or AMD-Vi in the firmware, and \
                 intel_iommu=on on the kernel's command line); `esplanade device doctor` tells more"
            ),
            Self::SharedGroup { group, members } => {
                let members: Vec<_> = members
                    .iter()
                    .map(|(address, driver)| format!("{address} ({driver})"))
                    .collect();
                write!(
                    f,
                    "its IOMMU group {group} can't be opened while host drivers have other members: {}; \
                     unbind those too, or use another slot (--force binds it all the same)",
                    members.join(", ")
                )
            }
            Self::NoVfioPci => write!(f, "the kernel has no vfio-pci driver: modprobe vfio-pci"),
            Self::Denied => write!(
                f,
                "vfio-pci has it on its denylist: modprobe vfio-pci disable_denylist=1 (where it is \
                 loaded, unload it first; to have it so at boot: options vfio-pci disable_denylist=1 in \
                 /etc/modprobe.d), on hosts whose users you trust"
            ),
            Self::NotOurs { driver } => write!(
                f,
                "vfio-pci does not have it, {} does: there is nothing to give back",
                driver.as_deref().unwrap_or("no driver")
            ),
        }
    }
}

impl Host {
    /// What it takes to give a function to vfio-pci.
    ///
    /// # Errors
    /// It is not there, or [`PciError::Refused`].
    pub fn plan_bind(&self, address: &str, options: BindOptions) -> Result<Plan, PciError> {
        let function = self.function(address)?;
        let mut steps = Vec::new();
        let mut refusals = Vec::new();
        if function.driver.as_deref() != Some(VFIO_PCI) {
            refusals = self.against_binding(&function);
            steps = self.rebinding(&function, VFIO_PCI);
        }
        if options.persist {
            steps.push(Step::Create {
                path: self.rule(address),
                text: rule_text(address),
            });
        }
        let (overridden, refusals): (Vec<_>, Vec<_>) = refusals
            .into_iter()
            .partition(|refusal| options.force && refusal.may_be_forced());
        if !refusals.is_empty() {
            return Err(PciError::Refused {
                address: address.to_owned(),
                refusals,
            });
        }
        Ok(Plan {
            address: address.to_owned(),
            steps,
            overridden,
            expected: Some(VFIO_PCI.to_owned()),
            before: self.before(function),
        })
    }

    /// What it takes to give a function back to the driver that it had without us.
    ///
    /// # Errors
    /// It is not there, or [`PciError::Refused`].
    pub fn plan_unbind(&self, address: &str) -> Result<Plan, PciError> {
        let function = self.function(address)?;
        let ours = |driver: &Option<String>| driver.as_deref() == Some(VFIO_PCI);
        let refused = if !ours(&function.driver) && !ours(&function.driver_override) {
            Some(Refusal::NotOurs {
                driver: function.driver.clone(),
            })
        } else {
            in_use(&function)
        };
        if let Some(refusal) = refused {
            return Err(PciError::Refused {
                address: address.to_owned(),
                refusals: vec![refusal],
            });
        }
        let mut steps = self.rebinding(&function, "");
        let path = self.rule(address);
        if path.exists() {
            steps.push(Step::Remove { path });
        }
        Ok(Plan {
            address: address.to_owned(),
            steps,
            overridden: Vec::new(),
            expected: None,
            before: self.before(function),
        })
    }

    fn before(&self, function: PciFunction) -> Before {
        Before {
            has_rule: self.rule(&function.address).exists(),
            driver: function.driver,
            driver_override: function.driver_override,
        }
    }

    /// Does it. What fails is taken back: the function has the driver again that it had before.
    ///
    /// # Errors
    /// The kernel does not take it, or binds another driver than expected; or a rule can't be written.
    pub fn apply(&self, plan: &Plan) -> Result<PciFunction, PciError> {
        self.apply_by(plan, &mut |path, text| fs::write(path, text))
    }

    /// As [`apply`](Self::apply), with attributes written by somebody else.
    pub(super) fn apply_by(
        &self,
        plan: &Plan,
        write: &mut dyn FnMut(&Path, &str) -> io::Result<()>,
    ) -> Result<PciFunction, PciError> {
        let applied = self.perform_all(plan, write);
        if applied.is_err() {
            self.take_back(plan, write);
        }
        applied
    }

    fn perform_all(
        &self,
        plan: &Plan,
        write: &mut dyn FnMut(&Path, &str) -> io::Result<()>,
    ) -> Result<PciFunction, PciError> {
        for step in &plan.steps {
            perform(step, write)?;
        }
        let function = self.function(&plan.address)?;
        if let Some(expected) = &plan.expected
            && function.driver.as_ref() != Some(expected)
        {
            return Err(PciError::NotBound {
                address: plan.address.clone(),
                found: function.driver,
                expected: expected.clone(),
                advice: "the kernel's log (dmesg) tells why its probe failed",
            });
        }
        Ok(function)
    }

    /// Gives a function back to whom it had before. Best effort: the error that is told is the first one.
    fn take_back(&self, plan: &Plan, write: &mut dyn FnMut(&Path, &str) -> io::Result<()>) {
        let (address, before) = (&plan.address, &plan.before);
        for step in &plan.steps {
            if let Step::Create { path, .. } = step
                && !before.has_rule
            {
                let _ = fs::remove_file(path);
            }
        }
        let driver_override = before.driver_override.as_deref().unwrap_or("");
        let _ = write(
            &self.override_path(address),
            &format!("{driver_override}\n"),
        );
        let has_it = || self.function(address).ok().and_then(|now| now.driver);
        let now = has_it();
        if now == before.driver {
            return;
        }
        if now.is_some() {
            let _ = write(&self.device_path(address).join("driver/unbind"), address);
        }
        let Some(driver) = &before.driver else { return };
        let _ = write(&self.probe_path(), address);
        if has_it().is_none() {
            // It was bound by hand, and nobody takes it by itself.
            let drivers = self.sysfs.join("bus/pci/drivers");
            let _ = write(&drivers.join(driver).join("bind"), address);
        }
    }

    fn against_binding(&self, function: &PciFunction) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let id = (function.vendor, function.device);
        if known_card(id.0, id.1).is_none() {
            refusals.push(Refusal::UnknownCard { id });
        }
        if !self.sysfs.join("bus/pci/drivers").join(VFIO_PCI).exists() {
            refusals.push(Refusal::NoVfioPci);
        }
        if self.denies(function) {
            refusals.push(Refusal::Denied);
        }
        let up = function.interfaces.iter().filter(|interface| interface.up);
        let names: Vec<_> = up.map(|interface| interface.name.clone()).collect();
        if !names.is_empty() {
            refusals.push(Refusal::InterfaceUp { names });
        }
        refusals.extend(in_use(function));
        match function.iommu_group {
            None => refusals.push(Refusal::NoIommu),
            Some(group) => {
                let blocking = function.group_members.iter().filter(|member| member.blocks);
                let members: Vec<_> = blocking
                    .filter_map(|member| Some((member.address.clone(), member.driver.clone()?)))
                    .collect();
                if !members.is_empty() {
                    refusals.push(Refusal::SharedGroup { group, members });
                }
            }
        }
        refusals
    }

    /// Override, unbind, probe.
    fn rebinding(&self, function: &PciFunction, driver: &str) -> Vec<Step> {
        let address = &function.address;
        let mut steps = vec![Step::Write {
            path: self.override_path(address),
            text: format!("{driver}\n"),
        }];
        let leaves = function.driver.as_deref().is_some_and(|now| now != driver);
        // A function that went to a host driver meanwhile stays with it.
        if leaves && (!driver.is_empty() || function.driver.as_deref() == Some(VFIO_PCI)) {
            steps.push(Step::Write {
                path: self.device_path(address).join("driver/unbind"),
                text: address.clone(),
            });
        }
        steps.push(Step::Write {
            path: self.probe_path(),
            text: address.clone(),
        });
        steps
    }

    fn override_path(&self, address: &str) -> PathBuf {
        self.device_path(address).join("driver_override")
    }

    fn probe_path(&self) -> PathBuf {
        self.sysfs.join("bus/pci/drivers_probe")
    }

    fn rule(&self, address: &str) -> PathBuf {
        self.rules.join(format!("70-esplanade-{address}.rules"))
    }
}

/// Whom it must not be taken from.
fn in_use(function: &PciFunction) -> Option<Refusal> {
    if !function.vfio_users.is_empty() {
        return Some(Refusal::VfioInUse {
            pids: function.vfio_users.clone(),
        });
    }
    match function.virtual_functions {
        Some((count, _)) if count != 0 => Some(Refusal::VirtualFunctions { count }),
        _ => None,
    }
}

fn rule_text(address: &str) -> String {
    format!(
        "# Written by `esplanade device bind --persist`; `esplanade device unbind` removes it.\n\
         ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"{address}\", \
         ATTR{{driver_override}}=\"{VFIO_PCI}\", RUN{{builtin}}+=\"kmod load {VFIO_PCI}\"\n"
    )
}

fn perform(
    step: &Step,
    write: &mut dyn FnMut(&Path, &str) -> io::Result<()>,
) -> Result<(), PciError> {
    let (path, text, result) = match step {
        Step::Write { path, text } => (path, &text[..], write(path, text)),
        Step::Create { path, text } => (path, &text[..], fs::write(path, text)),
        Step::Remove { path } => (path, "", fs::remove_file(path)),
    };
    result.map_err(|error| PciError::Write {
        path: path.clone(),
        text: text.trim_end().to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests;
