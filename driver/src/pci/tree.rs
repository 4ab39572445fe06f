// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tree of files such as the kernel shows, for tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Host;

pub(super) struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn host(&self) -> Host {
        Host::below(self.root.path())
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub(super) fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &Path) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    pub(super) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// A function that no driver has.
    pub(super) fn function(&self, address: &str, vendor: &str, device: &str, class: &str) {
        let attributes = [
            ("vendor", vendor),
            ("device", device),
            ("class", class),
            ("driver_override", "(null)"),
        ];
        for (name, text) in attributes {
            self.file(
                &format!("sys/bus/pci/devices/{address}/{name}"),
                &format!("{text}\n"),
            );
        }
    }

    pub(super) fn driver(&self, address: &str, driver: &str) {
        let at = format!("sys/bus/pci/drivers/{driver}");
        self.file(&format!("{at}/unbind"), "");
        self.link(
            &format!("sys/bus/pci/devices/{address}/driver"),
            &self.path(&at),
        );
    }

    pub(super) fn group(&self, number: u32, addresses: &[&str]) {
        let at = format!("sys/kernel/iommu_groups/{number}");
        for address in addresses {
            let function = format!("sys/bus/pci/devices/{address}");
            self.link(&format!("{at}/devices/{address}"), &self.path(&function));
            self.link(&format!("{function}/iommu_group"), &self.path(&at));
        }
    }
}
