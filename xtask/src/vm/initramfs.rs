// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's initramfs: busybox, the modules of VFIO, the programs that do the work, and DPDK's.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::programs;
use crate::run;

const MODULES: [&str; 6] = [
    "irqbypass",
    "vfio_virqfd",
    "vfio",
    "vfio_iommu_type1",
    "vfio-pci-core",
    "vfio-pci",
];
/// Our own programs in it.
const PROGRAMS: [&str; 2] = ["guest", "esplanade"];
/// What init calls.
const TOOLS: [&str; 6] = ["sh", "mount", "insmod", "echo", "uname", "reboot"];

/// Makes the initramfs in `work`.
pub(super) fn make(work: &Path, kernel: &Path, ours: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    for directory in ["bin", "dev", "modules", "proc", "sys"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.iter().find(|path| path.exists());
    fs::copy(busybox.context("no busybox")?, root.join("bin/busybox"))?;
    for tool in TOOLS {
        symlink("busybox", root.join("bin").join(tool))?;
    }
    for module in MODULES {
        add_module(kernel, module, &root.join("modules"))?;
    }
    programs::make_folders(&root)?;
    programs::add_dpdk(&root)?;
    for program in PROGRAMS {
        programs::add_ours(&root, &ours.join(program))?;
    }
    let init = root.join("init");
    fs::copy(run::workspace().join("guest/init"), &init)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let archive = work.join("initramfs");
    let status = Command::new("sh")
        .args(["-c", "find . | cpio --create --format=newc --quiet"])
        .current_dir(&root)
        .stdin(Stdio::null())
        .stdout(File::create(&archive)?)
        .status()
        .context("cannot run cpio")?;
    ensure!(status.success(), "cpio ended with {status}");
    Ok(archive)
}

/// Copies a module, unpacked; not every kernel has every one.
fn add_module(kernel: &Path, module: &str, into: &Path) -> Result<()> {
    let Some(found) = find_module(kernel, module)? else {
        ensure!(
            module == "vfio_virqfd",
            "no module {module} in {}",
            kernel.display()
        );
        return Ok(());
    };
    let target = into.join(format!("{module}.ko"));
    if found.extension().is_some_and(|extension| extension == "xz") {
        let mut unpack = Command::new("xz");
        unpack.args(["--decompress", "--stdout"]).arg(&found);
        run::succeed(unpack.stdout(File::create(target)?))
    } else {
        fs::copy(found, target)?;
        Ok(())
    }
}

fn find_module(kernel: &Path, module: &str) -> Result<Option<PathBuf>> {
    let names = [format!("{module}.ko"), format!("{module}.ko.xz")];
    let mut folders: Vec<PathBuf> = ["lib/modules", "usr/lib/modules"]
        .map(|folder| kernel.join(folder))
        .into_iter()
        .filter(|folder| folder.is_dir())
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if names.iter().any(|name| entry.file_name() == name.as_str()) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}
