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
    /// For taking it back.
    before: Option<String>,
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
            before: function.driver_override,
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
            before: function.driver_override,
        })
    }

    /// Does it. What fails half-way is taken back.
    ///
    /// # Errors
    /// The kernel does not take it, or binds another driver than expected.
    pub fn apply(&self, plan: &Plan) -> Result<PciFunction, PciError> {
        self.apply_by(plan, &mut |path, text| fs::write(path, text))
    }

    /// As [`apply`](Self::apply), with attributes written by somebody else.
    pub(super) fn apply_by(
        &self,
        plan: &Plan,
        write: &mut dyn FnMut(&Path, &str) -> io::Result<()>,
    ) -> Result<PciFunction, PciError> {
        for step in &plan.steps {
            if let Err(error) = perform(step, write) {
                // Best effort: the error that is told is the first one.
                let (path, before) = (self.override_path(&plan.address), &plan.before);
                let _ = write(&path, &format!("{}\n", before.as_deref().unwrap_or("")));
                let _ = write(&self.probe_path(), &plan.address);
                return Err(error);
            }
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
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const CARD: &str = "0000:01:00.0";

    fn tree() -> Tree {
        let tree = Tree::new();
        tree.function(CARD, "0x1b36", "0x1fa0", "0x100000");
        tree.group(7, &[CARD]);
        tree.file("sys/bus/pci/drivers/vfio-pci/unbind", "");
        tree.file("sys/bus/pci/drivers_probe", "");
        tree
    }

    /// The kernel's part: what writing these attributes does. Probing gives a function to its
    /// override, or to `native`.
    fn kernel<'t>(
        tree: &'t Tree,
        native: Option<&'t str>,
        written: &'t mut Vec<String>,
    ) -> impl FnMut(&Path, &str) -> io::Result<()> + 't {
        move |path, text| {
            written.push(text.trim_end().to_owned());
            let link = tree.path(&format!("sys/bus/pci/devices/{CARD}/driver"));
            if path.ends_with("driver_override") {
                return fs::write(path, text);
            }
            if path.ends_with("driver/unbind") {
                return fs::remove_file(link);
            }
            assert!(path.ends_with("drivers_probe"), "{path:?}");
            if link.exists() {
                return Ok(());
            }
            let wanted = tree.text(&format!("sys/bus/pci/devices/{CARD}/driver_override"));
            let wanted = Some(wanted.trim())
                .filter(|name| !name.is_empty())
                .or(native);
            if let Some(driver) = wanted {
                tree.driver(CARD, driver);
            }
            Ok(())
        }
    }

    fn refusals(result: Result<Plan, PciError>) -> Vec<Refusal> {
        match result {
            Err(PciError::Refused { refusals, .. }) => refusals,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn binding_overrides_unbinds_probes_and_unbinding_gives_it_back() {
        let tree = tree();
        tree.driver(CARD, "ipa-kernel");
        let host = tree.host();
        let plan = host.plan_bind(CARD, BindOptions::default()).unwrap();
        assert_eq!(plan.steps.len(), 3);
        assert!(plan.steps[0].to_string().starts_with("echo vfio-pci > "));
        let mut written = Vec::new();
        let function = host
            .apply_by(&plan, &mut kernel(&tree, Some("ipa-kernel"), &mut written))
            .unwrap();
        assert_eq!(written, ["vfio-pci", CARD, CARD]);
        assert_eq!(function.driver.as_deref(), Some("vfio-pci"));

        let again = host.plan_bind(CARD, BindOptions::default()).unwrap();
        assert!(again.steps.is_empty());

        let back = host.plan_unbind(CARD).unwrap();
        let mut written = Vec::new();
        let function = host
            .apply_by(&back, &mut kernel(&tree, Some("ipa-kernel"), &mut written))
            .unwrap();
        assert_eq!(written, ["", CARD, CARD]);
        assert_eq!(function.driver.as_deref(), Some("ipa-kernel"));
        assert_eq!(function.driver_override, None);
        assert!(matches!(
            refusals(host.plan_unbind(CARD))[..],
            [Refusal::NotOurs { .. }]
        ));
    }

    #[test]
    fn a_function_in_use_stays_and_force_helps_only_where_it_is_safe() {
        let tree = tree();
        let force = BindOptions {
            force: true,
            ..BindOptions::default()
        };
        tree.driver(CARD, "ipa-kernel");
        tree.file(
            &format!("sys/bus/pci/devices/{CARD}/net/eth7/flags"),
            "0x1003\n",
        );
        tree.function("0000:01:00.1", "0x8086", "0x1572", "0x020000");
        tree.driver("0000:01:00.1", "i40e");
        tree.group(7, &["0000:01:00.1"]);
        let host = tree.host();
        let why = refusals(host.plan_bind(CARD, BindOptions::default()));
        assert!(
            matches!(
                &why[..],
                [Refusal::InterfaceUp { names }, Refusal::SharedGroup { group: 7, members }]
                    if names == &["eth7"] && members[0].1 == "i40e"
            ),
            "{why:?}"
        );
        assert_eq!(host.plan_bind(CARD, force).unwrap().overridden, why);

        tree.file("dev/vfio/7", "");
        tree.link("proc/12/fd/3", &tree.path("dev/vfio/7"));
        tree.file(&format!("sys/bus/pci/devices/{CARD}/sriov_totalvfs"), "4");
        assert_eq!(
            refusals(host.plan_bind(CARD, force)),
            [Refusal::VfioInUse { pids: vec![12] }]
        );
        std::fs::remove_file(tree.path("proc/12/fd/3")).unwrap();
        tree.file(&format!("sys/bus/pci/devices/{CARD}/sriov_numvfs"), "2");
        assert_eq!(
            refusals(host.plan_bind(CARD, force)),
            [Refusal::VirtualFunctions { count: 2 }]
        );
    }

    #[test]
    fn without_iommu_module_or_a_known_id_nothing_is_bound() {
        let tree = Tree::new();
        tree.function(CARD, "0x8086", "0x1572", "0x020000");
        let force = BindOptions {
            force: true,
            ..BindOptions::default()
        };
        let why = refusals(tree.host().plan_bind(CARD, force));
        let id = (0x8086, 0x1572);
        assert_eq!(
            why,
            [
                Refusal::UnknownCard { id },
                Refusal::NoVfioPci,
                Refusal::NoIommu
            ]
        );
    }

    #[test]
    fn what_fails_half_way_is_taken_back() {
        let tree = tree();
        tree.driver(CARD, "ipa-kernel");
        let host = tree.host();
        let plan = host.plan_bind(CARD, BindOptions::default()).unwrap();
        let mut unused = Vec::new();
        let mut probed = 0;
        let mut works = kernel(&tree, Some("ipa-kernel"), &mut unused);
        let error = host
            .apply_by(&plan, &mut |path, text| {
                if path.ends_with("drivers_probe") {
                    probed += 1;
                    if probed == 1 {
                        return Err(io::Error::from_raw_os_error(22));
                    }
                }
                works(path, text)
            })
            .unwrap_err();
        assert!(matches!(error, PciError::Write { .. }), "{error}");
        let function = host.function(CARD).unwrap();
        assert_eq!(function.driver.as_deref(), Some("ipa-kernel"));
        assert_eq!(function.driver_override, None);
    }

    #[test]
    fn a_probe_that_brings_no_driver_is_told() {
        let tree = tree();
        let host = tree.host();
        let plan = host.plan_bind(CARD, BindOptions::default()).unwrap();
        let error = host.apply_by(&plan, &mut |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("bound to no driver"), "{error}");
    }

    #[test]
    fn only_who_asks_for_it_gets_a_rule_and_unbinding_removes_it() {
        let tree = tree();
        tree.driver(CARD, VFIO_PCI);
        tree.file("etc/udev/rules.d/README", "");
        let host = tree.host();
        let options = BindOptions {
            persist: true,
            ..BindOptions::default()
        };
        let plan = host.plan_bind(CARD, options).unwrap();
        host.apply_by(&plan, &mut |_, _| Ok(())).unwrap();
        let rule = format!("etc/udev/rules.d/70-esplanade-{CARD}.rules");
        assert!(
            tree.text(&rule)
                .contains("ATTR{driver_override}=\"vfio-pci\"")
        );
        let plan = host.plan_unbind(CARD).unwrap();
        let mut written = Vec::new();
        host.apply_by(&plan, &mut kernel(&tree, None, &mut written))
            .unwrap();
        assert!(!tree.path(&rule).exists());
    }
}
