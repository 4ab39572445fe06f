// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What on this host stands between a card and its driver: each finding with its cause and what to
//! do about it.

use std::fs;
use std::path::Path;

use qat_regs::{Generation, known_device};
use rustix::fs::Access;
use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::function::{number, text};
use super::{Host, PciFunction, Refusal, VFIO_PCI};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, but worse than it could.
    Warning,
    /// A card can't be driven.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub about: String,
    /// How it is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// Why that matters, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn ok(about: &str, found: impl Into<String>) -> Self {
        Self {
            about: about.to_owned(),
            severity: Severity::Ok,
            found: found.into(),
            cause: None,
            fix: None,
        }
    }

    fn bad(
        severity: Severity,
        about: &str,
        found: impl Into<String>,
        cause: &str,
        fix: &str,
    ) -> Self {
        Self {
            about: about.to_owned(),
            severity,
            found: found.into(),
            cause: Some(cause.to_owned()),
            fix: Some(fix.to_owned()),
        }
    }
}

/// Memory that a driver pins for its rings and frames, and then some.
const PINNED: u64 = 64 << 20;

impl Host {
    /// Looks at what every card needs.
    pub fn examine(&self) -> Vec<Finding> {
        vec![
            self.iommu(),
            self.vfio_module(),
            self.container(),
            self.huge_pages(),
            memory_lock(getrlimit(Resource::Memlock).current, may_lock()),
        ]
    }

    /// Looks at what one function needs.
    pub fn examine_function(&self, function: &PciFunction) -> Vec<Finding> {
        use Severity::{Problem, Warning};
        let mut findings = Vec::new();
        let about = |what: &str| format!("{} {what}", function.address);
        let (on, driver) = (about("driver"), function.driver.as_deref());
        if !function.driven {
            findings.push(Finding::bad(
                Warning,
                &about("kind"),
                function.product.unwrap_or("unknown"),
                "this release has no driver for that kind of card",
                "use it by its own driver; there is nothing to be done here",
            ));
        }
        findings.push(match driver {
            Some(VFIO_PCI) => Finding::ok(&on, VFIO_PCI),
            driver => Finding::bad(
                Problem,
                &on,
                driver.unwrap_or("none"),
                "a driver in user space reaches a card only through vfio-pci",
                &format!("esplanade device bind pci:{}", function.address),
            ),
        });
        if self.denies(function) && driver != Some(VFIO_PCI) {
            findings.push(Finding::bad(
                Problem,
                &about("denylist of vfio-pci"),
                "it is on it",
                "by its maker's account a request with a bad address can hang the platform, so vfio-pci \
                 does not take it unasked",
                &Refusal::Denied.to_string(),
            ));
        }
        let on = about("IOMMU group");
        let blocking: Vec<_> = function.group_members.iter().filter(|m| m.blocks).collect();
        findings.push(match function.iommu_group {
            None => {
                let refusal = Refusal::NoIommu;
                Finding::bad(
                    Problem,
                    &on,
                    "none",
                    "without one the kernel can't confine the card's DMA",
                    &refusal.to_string(),
                )
            }
            Some(group) if blocking.is_empty() => Finding::ok(&on, group.to_string()),
            Some(group) => {
                let members: Vec<_> = blocking
                    .iter()
                    .map(|m| format!("{} ({})", m.address, m.driver.as_deref().unwrap_or("-")))
                    .collect();
                Finding::bad(
                    Problem,
                    &on,
                    format!("{group}, with {}", members.join(", ")),
                    "all members of a group reach each other's memory, so host drivers must have none \
                     of them",
                    "unbind or bind to vfio-pci the others too, or put the card into a slot whose bridge \
                     has ACS",
                )
            }
        });
        if let (Some(VFIO_PCI), Some(group)) = (driver, function.iommu_group) {
            findings.push(self.access(
                &about("group file"),
                &self.dev.join(format!("vfio/{group}")),
            ));
        }
        if !function.vfio_users.is_empty() {
            findings.push(Finding::ok(
                &about("user"),
                format!("process {:?} has it open", function.vfio_users),
            ));
        } else if driver == Some(VFIO_PCI) && function.memory_space == Some(false) {
            // Not before somebody opens it: that is as it should be.
            findings.push(Finding::ok(
                &about("bus mastering"),
                "off until a driver opens it",
            ));
        }
        if !function.vfio_users.is_empty() && function.bus_master == Some(false) {
            findings.push(Finding::bad(
                Problem,
                &about("bus mastering"),
                "off",
                "the card is open, but may not access memory: nothing completes",
                "its driver sets bit 2 of the command register; setpci -s ADDRESS COMMAND=6 does by hand",
            ));
        }
        findings
    }

    /// Whether vfio-pci would refuse it: C62x and its like are on a list of its own, which a parameter
    /// of the module turns off.
    pub(super) fn denies(&self, function: &PciFunction) -> bool {
        let known = known_device(function.vendor, function.device);
        let parameter = "module/vfio_pci/parameters/disable_denylist";
        known.is_some_and(|known| known.generation == Generation::Gen2)
            && text(&self.sysfs.join(parameter)).is_some_and(|value| value.trim() == "N")
    }

    fn iommu(&self) -> Finding {
        let groups = fs::read_dir(self.sysfs.join("kernel/iommu_groups"));
        let count = groups.into_iter().flatten().count();
        if count != 0 {
            return Finding::ok("IOMMU", format!("on, {count} groups"));
        }
        let line = text(&self.proc.join("cmdline")).unwrap_or_default();
        let fix = if line.contains("iommu=off") {
            "take iommu=off from the kernel's command line"
        } else {
            "turn on VT-d or AMD-Vi in the firmware and add intel_iommu=on (Intel) to the kernel's command \
             line; in a virtual machine give it a virtual IOMMU. Simulated cards (vfio-user) need none"
        };
        Finding::bad(
            Severity::Problem,
            "IOMMU",
            "off: there are no IOMMU groups",
            "VFIO hands out only devices whose DMA the IOMMU confines",
            fix,
        )
    }

    fn vfio_module(&self) -> Finding {
        if self.sysfs.join("bus/pci/drivers").join(VFIO_PCI).exists() {
            return Finding::ok("module vfio-pci", "loaded");
        }
        Finding::bad(
            Severity::Problem,
            "module vfio-pci",
            "not loaded",
            "it is what hands a PCI function to user space",
            "modprobe vfio-pci; to have it at boot: echo vfio-pci > /etc/modules-load.d/vfio-pci.conf",
        )
    }

    fn container(&self) -> Finding {
        self.access("/dev/vfio/vfio", &self.dev.join("vfio/vfio"))
    }

    fn access(&self, about: &str, path: &Path) -> Finding {
        match rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK) {
            Ok(()) => Finding::ok(about, "readable and writable"),
            Err(rustix::io::Errno::NOENT) => Finding::bad(
                Severity::Problem,
                about,
                format!("{} is not there", path.display()),
                "VFIO is not loaded, nothing is bound to it, or this container is not given the file",
                "modprobe vfio-pci, then bind a card; give a container --device=/dev/vfio",
            ),
            Err(errno) => Finding::bad(
                Severity::Problem,
                about,
                format!("{}: {errno}", path.display()),
                "whoever drives a card opens this file for reading and writing",
                "run as root, or give a group the right by udev: SUBSYSTEM==\"vfio\", GROUP=\"ipa\", \
                 MODE=\"0660\"",
            ),
        }
    }

    fn huge_pages(&self) -> Finding {
        let at = self.sysfs.join("kernel/mm/hugepages/hugepages-2048kB");
        let count = |name| number::<u64>(&at.join(name)).unwrap_or(0);
        let (all, free) = (count("nr_hugepages"), count("free_hugepages"));
        if free << 21 >= PINNED {
            return Finding::ok("huge pages", format!("{free} of {all} free (2 MiB)"));
        }
        Finding::bad(
            Severity::Warning,
            "huge pages",
            format!("{free} of {all} free (2 MiB)"),
            "with pages of 4 KiB mapping memory takes longer, and the IOMMU's cache holds less",
            "sysctl vm.nr_hugepages=64; to keep them: a file in /etc/sysctl.d",
        )
    }
}

/// Whether no limit of locked memory holds for this process.
fn may_lock() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// What may be pinned; `None` is without limit.
fn memory_lock(limit: Option<u64>, exempt: bool) -> Finding {
    match limit {
        Some(limit) if limit < PINNED && exempt => Finding::ok(
            "locked memory",
            format!("{} KiB, which CAP_IPC_LOCK lifts", limit >> 10),
        ),
        None => Finding::ok("locked memory", "no limit"),
        Some(limit) if limit >= PINNED => {
            Finding::ok("locked memory", format!("{} MiB", limit >> 20))
        }
        Some(limit) => Finding::bad(
            Severity::Problem,
            "locked memory",
            format!("{} KiB", limit >> 10),
            "the kernel pins all memory that a card may reach, and counts it",
            "ulimit -l unlimited, LimitMEMLOCK=infinity in the unit, or memlock in limits.conf",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::BindOptions;
    use super::super::tree::Tree;
    use super::*;

    const CARD: &str = "0000:01:00.0";

    fn severities(findings: &[Finding]) -> Vec<(&str, Severity)> {
        findings
            .iter()
            .map(|f| (&f.about[..], f.severity))
            .collect()
    }

    #[test]
    fn a_bare_host_is_told_what_it_lacks_and_what_to_do() {
        let tree = Tree::new();
        let findings = tree.host().examine();
        for about in ["IOMMU", "module vfio-pci", "/dev/vfio/vfio"] {
            let finding = findings.iter().find(|f| f.about == about).unwrap();
            assert_eq!(finding.severity, Severity::Problem, "{about}");
            assert!(finding.cause.is_some() && finding.fix.is_some(), "{about}");
        }
        tree.file("proc/cmdline", "quiet iommu=off\n");
        let finding = tree.host().iommu();
        assert!(finding.fix.unwrap().contains("take iommu=off"));
    }

    #[test]
    fn a_model_that_vfio_pci_refuses_is_not_bound_before_it_is_told_to_take_it() {
        let tree = Tree::new();
        tree.function(CARD, "0x8086", "0x37c9", "0x0b4000");
        tree.group(7, &[CARD]);
        tree.file("sys/bus/pci/drivers/vfio-pci/bind", "");
        let parameter = "sys/module/vfio_pci/parameters/disable_denylist";
        for (value, is_denied) in [("N\n", true), ("Y\n", false)] {
            tree.file(parameter, value);
            let host = tree.host();
            let findings = host.examine_function(&host.function(CARD).unwrap());
            let told = findings.iter().find(|f| f.about.contains("denylist"));
            assert_eq!(told.is_some(), is_denied);
            let plan = host.plan_bind(CARD, BindOptions::default());
            match plan {
                Ok(_) => assert!(!is_denied),
                Err(error) => {
                    assert!(is_denied, "{error}");
                    assert!(error.to_string().contains("disable_denylist=1"), "{error}");
                }
            }
        }
        // Another generation is not on it.
        tree.file(parameter, "N\n");
        tree.function(CARD, "0x8086", "0x4941", "0x0b4000");
        assert!(tree.host().plan_bind(CARD, BindOptions::default()).is_ok());
    }

    #[test]
    fn a_host_that_is_ready_has_nothing_to_mend() {
        let tree = Tree::new();
        tree.function(CARD, "0x1b36", "0x1fa0", "0x100000");
        tree.driver(CARD, VFIO_PCI);
        tree.group(7, &[CARD]);
        tree.file("dev/vfio/vfio", "");
        tree.file("dev/vfio/7", "");
        for name in ["nr_hugepages", "free_hugepages"] {
            tree.file(
                &format!("sys/kernel/mm/hugepages/hugepages-2048kB/{name}"),
                "64\n",
            );
        }
        let host = tree.host();
        let mut findings = host.examine();
        // The limit is this process's own.
        findings.pop();
        findings.extend(host.examine_function(&host.function(CARD).unwrap()));
        assert!(
            findings.iter().all(|f| f.severity == Severity::Ok),
            "{findings:#?}"
        );
        let eight = Some(8 << 20);
        assert_eq!(memory_lock(None, false).severity, Severity::Ok);
        assert_eq!(memory_lock(eight, false).severity, Severity::Problem);
        assert_eq!(memory_lock(eight, true).severity, Severity::Ok);
    }

    #[test]
    fn a_functions_driver_group_and_bus_mastering_are_looked_at() {
        let tree = Tree::new();
        tree.function(CARD, "0x1b36", "0x1fa0", "0x100000");
        tree.function("0000:01:00.1", "0x8086", "0x1572", "0x020000");
        tree.driver("0000:01:00.1", "i40e");
        let host = tree.host();
        let examine = || host.examine_function(&host.function(CARD).unwrap());
        let found = examine();
        assert_eq!(
            severities(&found),
            [
                ("0000:01:00.0 driver", Severity::Problem),
                ("0000:01:00.0 IOMMU group", Severity::Problem)
            ]
        );
        tree.driver(CARD, VFIO_PCI);
        tree.group(7, &[CARD, "0000:01:00.1"]);
        tree.file("dev/vfio/7", "");
        tree.link("proc/9/fd/1", &tree.path("dev/vfio/7"));
        tree.file(
            &format!("sys/bus/pci/devices/{CARD}/config"),
            "\u{36}\u{1b}xx\u{2}\u{0}",
        );
        let found = examine();
        let problems: Vec<_> = found
            .iter()
            .filter(|f| f.severity == Severity::Problem)
            .collect();
        assert_eq!(problems.len(), 2, "{found:#?}");
        assert!(problems[0].found.contains("0000:01:00.1 (i40e)"));
        assert_eq!(problems[1].about, "0000:01:00.0 bus mastering");
    }
}
