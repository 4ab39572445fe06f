// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a card's lives begin: with a card that seals, and with nobody kept waiting.
#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::time::Duration;

use driver::DeviceAddress;
use driver::ipa::IpaCard;
use driver::transport::Transport;
use driver::transport::user::UserTransport;
use offload_api::capability::Features;
use offload_api::device::{Accelerator, Health};
use offload_api::error::DeviceError;
use sim::{CardConfig, RunningCard};

const SEALS_NOTHING: &str = "seals nothing";

fn start(socket: PathBuf, null_crypto: bool) -> RunningCard {
    let mut config = CardConfig::new(socket);
    config.null_crypto = null_crypto;
    RunningCard::start(&config).unwrap()
}

fn connect(path: &Path) -> Result<Box<dyn Transport>, DeviceError> {
    Ok(Box::new(UserTransport::connect(path)?))
}

#[test]
fn a_card_that_seals_nothing_is_refused_however_it_is_come_by() {
    let dir = tempfile::tempdir().unwrap();
    let card = start(dir.path().join("card"), true);
    let address = DeviceAddress::User(card.socket().to_owned());
    let refused = |error: Option<DeviceError>| {
        let error = error.expect("a card that seals nothing").to_string();
        assert!(error.contains(SEALS_NOTHING), "{error}");
    };
    refused(driver::open(&address).err());
    refused(driver::open_card(&address).err());
    // An earlier process's connection.
    let first = UserTransport::connect(card.socket()).unwrap();
    let kept = first.kept().into_iter().map(|(name, fd)| {
        let fd: OwnedFd = fd.try_clone_to_owned().unwrap();
        (name.to_owned(), fd)
    });
    let kept = kept.collect();
    drop(first);
    refused(driver::attach(&address, kept).err());

    // For measuring, it is there.
    let open = driver::open_null_crypto(&address).unwrap();
    let features = open.capabilities().features;
    assert!(features.contains(Features::NULL_CRYPTO));
    open.reset().unwrap();
    assert_eq!(open.health(), Health::Ok);
}

#[test]
fn a_card_that_comes_back_sealing_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card");
    let sealing = start(path.clone(), false);
    let card = driver::open(&DeviceAddress::User(path.clone())).unwrap();
    sealing.stop().unwrap();
    let idle = start(path.clone(), true);
    let error = card.reset().unwrap_err().to_string();
    assert!(error.contains(SEALS_NOTHING), "{error}");
    assert!(matches!(card.health(), Health::Lost { .. }));
    idle.stop().unwrap();
    let _sealing = start(path, false);
    card.reset().unwrap();
    assert_eq!(card.health(), Health::Ok);
}

#[test]
fn nobody_waits_for_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path().join("card"), false);
    let path = running.socket().to_owned();
    // The card, for a look at it from within its reset, and whether that came to an end. It keeps what
    // reconnects it, which must not keep it in turn.
    let this: Arc<OnceLock<Weak<IpaCard>>> = Arc::default();
    let answered = Arc::new(AtomicBool::new(false));
    let (seen, told) = (this.clone(), answered.clone());
    let reconnect = move || {
        if let Some(card) = seen.get().and_then(Weak::upgrade) {
            let (done, all) = mpsc::channel();
            std::thread::spawn(move || {
                card.poll_events(&mut Vec::new());
                let _ = (card.counters(), card.health(), card.info(), card.kept());
                let _ = done.send(());
            });
            let answered = all.recv_timeout(Duration::from_secs(30)).is_ok();
            told.store(answered, Ordering::Relaxed);
        }
        connect(&path)
    };
    let card = Arc::new(IpaCard::open("card".to_owned(), Box::new(reconnect)).unwrap());
    this.set(Arc::downgrade(&card)).unwrap();
    card.reset().unwrap();
    assert!(answered.load(Ordering::Relaxed), "somebody waits");
    assert_eq!((card.health(), card.lives()), (Health::Ok, 2));
}
