// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Binding and unbinding, over a tree of files for sysfs and a kernel made of a closure.

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
        if path.ends_with("bind") {
            let driver = path.parent().and_then(Path::file_name).unwrap();
            tree.driver(CARD, driver.to_str().unwrap());
            return Ok(());
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
fn whom_vfio_pci_does_not_take_its_earlier_driver_has_again() {
    // By itself, or where it had been bound by hand.
    for native in [Some("ipa-kernel"), None] {
        let tree = tree();
        tree.driver(CARD, "ipa-kernel");
        let host = tree.host();
        let plan = host.plan_bind(CARD, BindOptions::default()).unwrap();
        let mut unused = Vec::new();
        let mut works = kernel(&tree, native, &mut unused);
        let path = format!("sys/bus/pci/devices/{CARD}/driver_override");
        let error = host
            .apply_by(&plan, &mut |at, text| {
                // Its probe fails, as the kernel's log would tell.
                if at.ends_with("drivers_probe") && tree.text(&path).trim() == VFIO_PCI {
                    return Ok(());
                }
                works(at, text)
            })
            .unwrap_err();
        assert!(matches!(error, PciError::NotBound { .. }), "{error}");
        let function = host.function(CARD).unwrap();
        assert_eq!(function.driver.as_deref(), Some("ipa-kernel"), "{native:?}");
        assert_eq!(function.driver_override, None);
    }
}

#[test]
fn where_no_rule_can_be_written_the_earlier_driver_is_given_back() {
    let tree = tree();
    tree.driver(CARD, "ipa-kernel");
    let host = tree.host();
    let options = BindOptions {
        persist: true,
        ..BindOptions::default()
    };
    let plan = host.plan_bind(CARD, options).unwrap();
    let mut written = Vec::new();
    // There is no directory for rules.
    let error = host
        .apply_by(&plan, &mut kernel(&tree, Some("ipa-kernel"), &mut written))
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
