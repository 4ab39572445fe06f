// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One PCI function, read from sysfs.

use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use super::{Host, PciError, known_card};

/// What the kernel tells of a PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PciFunction {
    /// `DDDD:BB:DD.F`
    pub address: String,
    /// PCI vendor.
    pub vendor: u16,
    /// PCI device.
    pub device: u16,
    /// Subsystem vendor and device.
    pub subsystem: (u16, u16),
    /// Base class, subclass, interface.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// What it is, where this project knows it.
    pub product: Option<&'static str>,
    /// Whether this project drives it.
    pub driven: bool,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The only driver that may have it, where somebody has said so.
    pub driver_override: Option<String>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// The other functions of that group.
    pub group_members: Vec<GroupMember>,
    /// Addresses that the IOMMU group's members can't use for DMA.
    pub reserved_regions: Vec<ReservedRegion>,
    /// Its memory's NUMA node.
    pub numa_node: Option<u32>,
    /// BARs that it has.
    pub bars: Vec<Bar>,
    /// It answers accesses to its BARs.
    pub memory_space: Option<bool>,
    /// It may access memory.
    pub bus_master: Option<bool>,
    /// Virtual functions: enabled and possible, where it has any.
    pub virtual_functions: Option<(u32, u32)>,
    /// The function that this one is a virtual function of.
    pub physical_function: Option<String>,
    /// Network interfaces of its driver.
    pub interfaces: Vec<Interface>,
    /// Processes that hold its VFIO group or device open.
    pub vfio_users: Vec<u32>,
}

/// Another function of an IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupMember {
    /// `DDDD:BB:DD.F`
    pub address: String,
    /// The driver that has it.
    pub driver: Option<String>,
    /// It keeps the group from being used in user space.
    pub blocks: bool,
}

/// Addresses that can't be used for DMA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReservedRegion {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
    /// The kernel's word for why.
    pub kind: String,
}

/// A base address register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Which.
    pub number: u32,
    /// Where it is on the bus.
    pub address: u64,
    /// Octets.
    pub size: u64,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// It is set up.
    pub up: bool,
}

impl Host {
    /// All functions on the bus, by address.
    ///
    /// # Errors
    /// There is no bus, or a function can't be read.
    pub fn functions(&self) -> Result<Vec<PciFunction>, PciError> {
        let path = self.sysfs.join("bus/pci/devices");
        let entries = fs::read_dir(&path).map_err(|error| PciError::NoBus { path, error })?;
        let mut addresses: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| crate::is_pci_function(name))
            .collect();
        addresses.sort();
        let mut functions = Vec::new();
        for address in addresses {
            match self.function(&address) {
                Ok(function) => functions.push(function),
                // Unplugged meanwhile.
                Err(PciError::NoFunction { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(functions)
    }

    /// A function by its address.
    ///
    /// # Errors
    /// It is not there, or can't be read.
    pub fn function(&self, address: &str) -> Result<PciFunction, PciError> {
        let path = self.device_path(address);
        if !crate::is_pci_function(address) || !path.exists() {
            return Err(PciError::NoFunction {
                address: address.to_owned(),
            });
        }
        let id = |name| hexadecimal(&path, name).map(|id| id as u16);
        let (vendor, device) = (id("vendor")?, id("device")?);
        let known = known_card(vendor, device);
        let iommu_group = link_name(&path.join("iommu_group")).and_then(|name| name.parse().ok());
        let (memory_space, bus_master) = command_register(&path);
        let possible: Option<u32> = number(&path.join("sriov_totalvfs"));
        Ok(PciFunction {
            address: address.to_owned(),
            vendor,
            device,
            subsystem: (
                id("subsystem_vendor").unwrap_or(0),
                id("subsystem_device").unwrap_or(0),
            ),
            class: hexadecimal(&path, "class")? as u32,
            revision: hexadecimal(&path, "revision").unwrap_or(0) as u8,
            product: known.map(|card| card.name),
            driven: known.is_some_and(|card| card.driven),
            driver: link_name(&path.join("driver")),
            driver_override: text(&path.join("driver_override"))
                .filter(|name| !name.is_empty() && name != "(null)"),
            iommu_group,
            group_members: self.group_members(iommu_group, address),
            reserved_regions: self.reserved_regions(iommu_group),
            numa_node: number(&path.join("numa_node")),
            bars: bars(&path),
            memory_space,
            bus_master,
            virtual_functions: possible
                .map(|possible| (number(&path.join("sriov_numvfs")).unwrap_or(0), possible)),
            physical_function: link_name(&path.join("physfn")),
            interfaces: interfaces(&path),
            vfio_users: self.vfio_users(&path, iommu_group),
        })
    }

    fn group_members(&self, group: Option<u32>, except: &str) -> Vec<GroupMember> {
        let Some(group) = group else {
            return Vec::new();
        };
        let path = self
            .sysfs
            .join(format!("kernel/iommu_groups/{group}/devices"));
        names(&path)
            .into_iter()
            .filter(|address| address != except)
            .map(|address| {
                let driver = link_name(&self.device_path(&address).join("driver"));
                let class = hexadecimal(&self.device_path(&address), "class").unwrap_or(0);
                GroupMember {
                    blocks: blocks_group(driver.as_deref(), class as u32),
                    address,
                    driver,
                }
            })
            .collect()
    }

    fn reserved_regions(&self, group: Option<u32>) -> Vec<ReservedRegion> {
        let path = |group| {
            self.sysfs
                .join(format!("kernel/iommu_groups/{group}/reserved_regions"))
        };
        let lines = group.and_then(|group| text(&path(group)));
        let parse = |line: &str| {
            let mut words = line.split_whitespace();
            Some(ReservedRegion {
                first: parse_hexadecimal(words.next()?)?,
                last: parse_hexadecimal(words.next()?)?,
                kind: words.next()?.to_owned(),
            })
        };
        lines
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(parse)
            .collect()
    }

    /// Processes with the group's, or the function's own, VFIO descriptor. Those of other users are
    /// seen by root alone.
    fn vfio_users(&self, function: &Path, group: Option<u32>) -> Vec<u32> {
        let mut targets: Vec<_> = names(&function.join("vfio-dev"))
            .into_iter()
            .map(|name| self.dev.join("vfio/devices").join(name))
            .collect();
        targets.extend(group.map(|group| self.dev.join(format!("vfio/{group}"))));
        if !targets.iter().any(|target| target.exists()) {
            return Vec::new();
        }
        let holds = |pid: &u32| {
            let path = self.proc.join(pid.to_string()).join("fd");
            let mut open = fs::read_dir(path).into_iter().flatten().flatten();
            open.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| targets.contains(&to)))
        };
        let processes = names(&self.proc).into_iter();
        let pids = processes.filter_map(|name| name.parse().ok());
        pids.filter(holds).collect()
    }
}

/// Whether a driver of one member keeps the whole group from user space: all must be free, or with
/// a driver that touches nothing (as the kernel's `vfio_dev_driver_allowed`; bridges stay with theirs).
fn blocks_group(driver: Option<&str>, class: u32) -> bool {
    const HARMLESS: [&str; 3] = [super::VFIO_PCI, "pci-stub", "pcieport"];
    const BRIDGE: u32 = 0x06;
    driver.is_some_and(|driver| !HARMLESS.contains(&driver)) && class >> 16 != BRIDGE
}

/// Memory space and bus mastering, from the configuration space's command register.
fn command_register(path: &Path) -> (Option<bool>, Option<bool>) {
    let mut header = [0; 6];
    let read = fs::File::open(path.join("config"))
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut header));
    let [.., low, high] = header;
    match (read, u16::from_le_bytes([low, high])) {
        // All ones: the function is gone.
        (Err(_), _) | (_, u16::MAX) => (None, None),
        (Ok(()), command) => (Some(command & 1 << 1 != 0), Some(command & 1 << 2 != 0)),
    }
}

/// The memory BARs: lines of `first last flags`.
fn bars(path: &Path) -> Vec<Bar> {
    const MEMORY: u64 = 0x200;
    let lines = text(&path.join("resource")).unwrap_or_default();
    let parse = |(line, number): (&str, u32)| {
        let mut words = line.split_whitespace().map(parse_hexadecimal);
        let (first, last, flags) = (words.next()??, words.next()??, words.next()??);
        let size = last.checked_sub(first)?.checked_add(1)?;
        (flags & MEMORY != 0).then_some(Bar {
            number,
            address: first,
            size,
        })
    };
    lines.lines().zip(0..6).filter_map(parse).collect()
}

fn interfaces(path: &Path) -> Vec<Interface> {
    const UP: u64 = 1;
    let flags = |name: &str| hexadecimal(&path.join("net").join(name), "flags").unwrap_or(0);
    let named = names(&path.join("net")).into_iter();
    named
        .map(|name| Interface {
            up: flags(&name) & UP != 0,
            name,
        })
        .collect()
}

/// Names in a directory, sorted; none where there is no directory.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The last part of a link's target.
pub(super) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

pub(super) fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// A number, where there is one; the kernel's -1 is none.
pub(super) fn number<T: FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

fn hexadecimal(path: &Path, name: &str) -> Result<u64, PciError> {
    let path = path.join(name);
    let parse = |text: String| {
        parse_hexadecimal(text.trim()).ok_or_else(|| {
            let message = format!("expected a hexadecimal number, found {text:?}");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    };
    fs::read_to_string(&path)
        .and_then(parse)
        .map_err(|error| PciError::Attribute { path, error })
}

fn parse_hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn a_function_is_read_whole() {
        let tree = Tree::new();
        tree.function("0000:01:00.0", "0x1b36", "0x1fa0", "0x100000");
        tree.function("0000:01:00.1", "0x8086", "0x1572", "0x020000");
        tree.function("0000:00:1c.0", "0x8086", "0x7a38", "0x060400");
        tree.driver("0000:01:00.1", "i40e");
        tree.driver("0000:00:1c.0", "pcieport");
        tree.group(7, &["0000:01:00.0", "0000:01:00.1", "0000:00:1c.0"]);
        tree.file(
            "sys/kernel/iommu_groups/7/reserved_regions",
            "0x00000000fee00000 0x00000000feefffff msi\n",
        );
        let at = "sys/bus/pci/devices/0000:01:00.0";
        tree.file(&format!("{at}/numa_node"), "1\n");
        tree.file(&format!("{at}/sriov_totalvfs"), "8\n");
        tree.file(&format!("{at}/sriov_numvfs"), "2\n");
        tree.file(&format!("{at}/config"), "\u{36}\u{1b}xx\u{6}\u{0}");
        tree.file(
            &format!("{at}/resource"),
            "0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x00000000fd000000 0x00000000fd007fff 0x0000000000040200\n",
        );
        tree.file("dev/vfio/7", "");
        tree.link("proc/4711/fd/12", &tree.path("dev/vfio/7"));

        let found = tree.host().function("0000:01:00.0").unwrap();
        assert_eq!((found.vendor, found.device), (0x1b36, 0x1fa0));
        assert_eq!(
            (found.product, found.driven),
            (Some("ipa IPsec accelerator"), true)
        );
        assert_eq!(
            (found.driver, found.iommu_group, found.numa_node),
            (None, Some(7), Some(1))
        );
        assert_eq!(found.virtual_functions, Some((2, 8)));
        assert_eq!(
            (found.memory_space, found.bus_master),
            (Some(true), Some(true))
        );
        let bars: Vec<_> = found
            .bars
            .iter()
            .map(|bar| (bar.number, bar.size))
            .collect();
        assert_eq!(bars, [(0, 0x10_0000), (2, 0x8000)]);
        let members: Vec<_> = found
            .group_members
            .iter()
            .map(|m| (&m.address[..], m.blocks))
            .collect();
        assert_eq!(members, [("0000:00:1c.0", false), ("0000:01:00.1", true)]);
        assert_eq!(found.reserved_regions[0].first, 0xfee0_0000);
        assert_eq!(found.vfio_users, [4711]);
        assert_eq!(tree.host().functions().unwrap().len(), 3);
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_makes_no_sense() {
        let tree = Tree::new();
        assert!(matches!(
            tree.host().functions(),
            Err(PciError::NoBus { .. })
        ));
        tree.function("0000:01:00.0", "1b36?", "0x1fa0", "0x100000");
        for absent in ["0000:09:00.0", "../../x", ""] {
            let error = tree.host().function(absent).unwrap_err();
            assert!(matches!(error, PciError::NoFunction { .. }), "{error}");
        }
        let error = tree.host().functions().unwrap_err().to_string();
        assert!(
            error.contains("vendor") && error.contains("1b36?"),
            "{error}"
        );
    }
}
