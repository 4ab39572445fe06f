// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Redirection (RFC 5685) with strongSwan: either end is the gateway that sends the other elsewhere. The
//! other gateway is the same one's second address.

mod gateway;

use gateway::{Gateway, Wire, ours, theirs};

const SUITE: (&str, &str) = ("aes256gcm16-prfsha384-x25519", "aes128gcm16");

fn wire() -> Wire {
    let wire = Wire::new();
    wire.b.address("wire", "10.77.0.3/24").unwrap();
    wire
}

/// Waits until all is with the gateway of this address, and nothing with the other.
fn wait_for(a: &Gateway, there: &str, gone: &str) {
    a.wait_sas(there, |sas| {
        sas.contains(there) && sas.contains("INSTALLED") && !sas.contains(gone)
    });
}

/// B22, §5: we go where strongSwan sends us, with our tunnel.
#[test]
fn strongswan_sends_us_to_another_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let (wire, (ike, esp)) = (wire(), SUITE);
    let its = theirs(2, ike, esp).replace("10.77.0.2", "10.77.0.2, 10.77.0.3");
    let Some(b) = Gateway::strongswan(&wire.b, &directory.path().join("b"), &its) else {
        return;
    };
    let mine = ours(1, ike, esp, "follow_redirects = true", "");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &mine);
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("before");
    b.swanctl(&["--redirect", "--ike", "gw", "--gateway", "10.77.0.3"]);
    wait_for(&a, "10.77.0.3", "10.77.0.2");
    wire.assert_passes("redirected");
}

/// B22, §3, §5: strongSwan goes where we send it, in IKE_SA_INIT and later.
#[test]
fn strongswan_goes_where_we_send_it() {
    let directory = tempfile::tempdir().unwrap();
    let (wire, (ike, esp)) = (wire(), SUITE);
    let mine = ours(2, ike, esp, "redirect_to = \"10.77.0.3\"", "");
    let both = "local_addrs = [\"10.77.0.2\", \"10.77.0.3\"]";
    let mine = mine.replace("local_addrs = [\"10.77.0.2\"]", both);
    let b = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &mine);
    let its = theirs(1, ike, esp);
    let Some(a) = Gateway::strongswan(&wire.a, &directory.path().join("a"), &its) else {
        return;
    };
    a.swanctl(&["--initiate", "--child", "net"]);
    wait_for(&a, "10.77.0.3", "10.77.0.2");
    wire.assert_passes("redirected by the first answer");
    b.swanctl(&["--redirect", "--ike", "gw", "--gateway", "10.77.0.2"]);
    wait_for(&a, "10.77.0.2", "10.77.0.3");
    wire.assert_passes("redirected later");
}
