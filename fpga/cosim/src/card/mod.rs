// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card (`fpga/rtl/ipa_card.sv`), clock by clock: what a management processor and the bus are to it. Whoever has a [`HostMemory`] can run it.

mod front;
mod host;
mod interrupts;
mod ports;
mod state;

use std::collections::VecDeque;

pub use crate::designs::SAS;

use crate::designs::CARD;
use crate::{Input, Model, Output};

pub use front::{Asked, Face, Settings};
pub use host::{HostMemory, HostTiming};
pub use interrupts::{Message, VECTORS};
pub use ports::{MAX_RULES, Port, PortCounts, PortTraffic, Rule};
pub use state::{
    CardEvent, Counters, Ends, Inbound, Moved, Notices, Outbound, QueueSetup, QueueView, Refused,
    SaConfig, Told, WINDOW_WORDS,
};

use host::Host;
use ports::Streams;

/// Queue pairs that it has.
pub const QUEUES: u16 = 8;
/// Largest packet, sealed or not (`ipa_card_pkg::MaxPacket`).
pub const MAX_PACKET: u32 = 16384;
/// Largest replay window.
pub const MAX_WINDOW: u32 = 1024;

/// Clocks that anything asked for by the management may take. A packet of the largest size needs some
/// hundreds; what doesn't come by then never will.
const PATIENCE: u64 = 10_000_000;

/// An operation that was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Its queue.
    pub queue: u16,
    /// Its status.
    pub status: u8,
    /// Index and generation of the SA that its descriptor named.
    pub sa: (u32, u32),
}

/// The RTL does not do what it promises: a defect of it, or of the host model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck;

/// A bus without memory behind it.
struct NoMemory;

impl HostMemory for NoMemory {
    fn read(&mut self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn write(&mut self, _: u64, _: &[u8]) -> bool {
        false
    }

    fn post(&mut self, _: u64, _: &[u8; 32]) -> bool {
        false
    }
}

/// The card.
#[derive(Debug)]
pub struct RtlCard {
    model: Model,
    ports: Ports,
    host: Host,
    events: VecDeque<CardEvent>,
    completed: VecDeque<Completed>,
    messages: VecDeque<Message>,
    /// Packets of the ports that are done.
    passed: VecDeque<Completed>,
    streams: Streams,
    /// What registers say of the management's work.
    face: Face,
    /// What the host has asked for by a register, since that was looked at.
    asked: Asked,
    runs: bool,
}

macro_rules! find {
    (Input, $model:ident, $name:ident) => {
        $model.input(concat!(stringify!($name), "_i"))
    };
    (Output, $model:ident, $name:ident) => {
        $model.output(concat!(stringify!($name), "_o"))
    };
}

macro_rules! ports {
    ($($kind:ident { $($name:ident),* $(,)? })*) => {
        #[derive(Debug)]
        pub(crate) struct Ports { $($( pub(crate) $name: $kind, )*)* }

        impl Ports {
            fn of(model: &Model) -> Self {
                Self { $($( $name: find!($kind, model, $name), )*)* }
            }
        }
    };
}

ports! {
    Input {
        run, read_patience, axil_awvalid, axil_awaddr, axil_wvalid, axil_wdata, axil_wstrb,
        axil_bready, axil_arvalid, axil_araddr, axil_rready, face, read_ready, line_valid, line_tag, line_data,
        line_last, line_error, write_ready, write_ack, write_error, post_ready, post_ack,
        post_error, queue_valid, queue_index, queue_on, queue_submissions, queue_completions,
        queue_depth, queue_priority, sa_write, sa_index, sa_valid, sa_config, sa_ends, key_valid, key_erase,
        key_256, key_mailbox, key, salt, state_valid, state_write, state_what, state_word, event_ready,
        msix_mask, raise_valid, raise_vector, raise_count, raise_wants, msi_ready,
        ports_run, wire_in_valid, wire_in_last, wire_in_bytes, wire_in_data, wire_out_ready,
        host_in_valid, host_in_last, host_in_bytes, host_in_data, host_out_ready,
        exception_in_valid, exception_in_last, exception_in_bytes, exception_in_data,
        exception_out_ready, spi_valid, spi_add, spi, mac, mtu, way_write, way_known, way_mac,
        rule_write, rule_inbound, rule_index, rule, outbound_rules, inbound_rules,
    }
    Output {
        axil_awready, axil_bvalid, axil_arready, axil_rvalid, axil_rdata, asked, settings,
        moderation, read_valid, read_addr, read_len, read_tag, write_valid, write_addr, write_data,
        write_strobe, write_last, post_valid, post_addr, post_data, post_sa, post_generation,
        completed_valid, completed_queue, queue_head, queue_completed, queue_errors, queue_bytes,
        queue_failed, key_ready, key_done, state_ready, event_valid, event, sealed, sealed_bytes,
        opened, opened_bytes, errors, dma_faults, bad_descriptors, idle,
        msi_valid, msi_addr, msi_data, msi_vector, held,
        wire_in_ready, wire_out_valid, wire_out_last, wire_out_bytes, wire_out_data,
        host_in_ready, host_out_valid, host_out_last, host_out_bytes, host_out_data,
        exception_in_ready, exception_out_valid, exception_out_last, exception_out_unknown,
        exception_out_bytes, exception_out_data, spi_ready, spi_done, spi_full, wire_counts,
        path_counts, ports_idle, passed_valid, passed_status, passed_sa, passed_generation,
    }
}

impl RtlCard {
    /// A card out of reset.
    pub fn new(timing: HostTiming) -> Self {
        let model = Model::new(&CARD);
        let ports = Ports::of(&model);
        let bus_reset = model.input("bus_rst_ni");
        let mut card = Self {
            model,
            ports,
            host: Host::new(timing),
            events: VecDeque::new(),
            completed: VecDeque::new(),
            messages: VecDeque::new(),
            passed: VecDeque::new(),
            streams: Streams::default(),
            face: Face::default(),
            asked: Asked::empty(),
            runs: false,
        };
        let patience = u64::from(timing.patience);
        card.model.put(card.ports.read_patience, patience);
        for level in [0, 1] {
            card.model.put(bus_reset, level);
            card.reset_with_table(&mut NoMemory);
        }
        card
    }

    /// As [`reset`](Self::reset), and the MSI-X table is as at power-on: a function-level reset.
    pub fn reset_with_table(&mut self, memory: &mut dyn HostMemory) {
        let reset = self.model.input("table_rst_ni");
        self.model.put(reset, 0);
        self.reset(memory);
        self.model.put(reset, 1);
    }

    /// Back to power-on: keys zeroised, queues gone, whatever was under way forgotten. The bus goes on:
    /// it answers what it was asked before, and takes what was on its way to it.
    pub fn reset(&mut self, memory: &mut dyn HostMemory) {
        let reset = self.model.input("rst_ni");
        self.model.put(reset, 0);
        self.host.abandon();
        for port in [
            self.ports.axil_arvalid,
            self.ports.axil_awvalid,
            self.ports.axil_wvalid,
            self.ports.queue_valid,
            self.ports.sa_write,
            self.ports.raise_valid,
            self.ports.spi_valid,
            self.ports.way_write,
            self.ports.rule_write,
            self.ports.outbound_rules,
            self.ports.inbound_rules,
        ] {
            self.model.put(port, 0);
        }
        for port in [self.ports.key_valid, self.ports.state_valid, self.ports.run] {
            self.model.put(port, 0);
        }
        for always in [
            self.ports.event_ready,
            self.ports.axil_bready,
            self.ports.axil_rready,
            self.ports.ports_run,
        ] {
            self.model.put(always, 1);
        }
        for _ in 0..4 {
            self.clock(memory);
        }
        self.model.put(reset, 1);
        self.events.clear();
        self.completed.clear();
        self.passed.clear();
        self.forget_frames();
        self.asked = Asked::empty();
        self.runs = false;
    }

    /// How the bus behaves from now on.
    pub fn set_timing(&mut self, timing: HostTiming) {
        self.host.set_timing(timing);
        self.model
            .put(self.ports.read_patience, timing.patience.into());
    }

    /// Clocks so far.
    pub fn clocks(&self) -> u64 {
        self.model.clocks()
    }

    /// One clock.
    pub fn clock(&mut self, memory: &mut dyn HostMemory) {
        self.clock_with(memory, |_| ());
    }

    /// One clock, and a look at what its edge will see.
    fn clock_with(&mut self, memory: &mut dyn HostMemory, look: impl FnOnce(&mut Self)) {
        self.host.offer(&mut self.model, &self.ports, memory);
        self.model.settle();
        self.host
            .take(&self.model, &self.ports, memory, &mut self.completed);
        self.messages
            .extend(self.host.take_message(&self.model, &self.ports));
        if self.model.high(self.ports.event_valid) {
            let mut octets = [0; 20];
            self.model.copy(self.ports.event, &mut octets);
            self.events.push_back(CardEvent::read(&octets));
        }
        self.asked |= Asked::from_bits_truncate(self.model.value(self.ports.asked) as u8);
        if self.model.high(self.ports.passed_valid) {
            let value = |port| self.model.value(port);
            self.passed.push_back(Completed {
                queue: 0,
                status: value(self.ports.passed_status) as u8,
                sa: (
                    value(self.ports.passed_sa) as u32,
                    value(self.ports.passed_generation) as u32,
                ),
            });
        }
        look(self);
        self.model.rise();
    }

    /// Whether nothing is under way: neither a descriptor nor a packet nor a completion.
    pub fn is_idle(&self) -> bool {
        self.model.high(self.ports.idle)
    }

    /// Whether descriptors are fetched.
    pub fn set_running(&mut self, runs: bool) {
        self.runs = runs;
        self.model.put(self.ports.run, runs.into());
    }

    /// Finishes what was begun and begins nothing, then goes on as before.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn rest(&mut self, memory: &mut dyn HostMemory) -> Result<(), Stuck> {
        self.model.put(self.ports.run, 0);
        // Two clocks until a descriptor that was asked for counts.
        self.clock(memory);
        self.clock(memory);
        let rested = self.until(memory, |card| card.is_idle());
        self.model.put(self.ports.run, self.runs.into());
        rested
    }

    /// Does all that was rung for.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn finish(&mut self, memory: &mut dyn HostMemory) -> Result<(), Stuck> {
        // As long as a queue's turn may take to come around.
        let mut quiet = 0;
        self.until(memory, |card| {
            quiet = if card.is_idle() { quiet + 1 } else { 0 };
            quiet > 4 * u32::from(QUEUES)
        })
    }

    fn until(
        &mut self,
        memory: &mut dyn HostMemory,
        mut reached: impl FnMut(&Self) -> bool,
    ) -> Result<(), Stuck> {
        for _ in 0..PATIENCE {
            if reached(self) {
                return Ok(());
            }
            self.clock(memory);
        }
        Err(Stuck)
    }

    /// Rings a queue's doorbell.
    pub fn ring(&mut self, queue: u16, tail: u32, memory: &mut dyn HostMemory) {
        self.write_bell(u64::from(queue) << 12 | front::TAIL, tail, memory);
    }

    fn pulse(&mut self, port: Input, memory: &mut dyn HostMemory) {
        self.model.put(port, 1);
        self.clock(memory);
        self.model.put(port, 0);
    }

    /// Sets a queue up, or takes it away. It must rest.
    pub fn set_queue(
        &mut self,
        queue: u16,
        setup: Option<&QueueSetup>,
        memory: &mut dyn HostMemory,
    ) {
        for word in [front::ARM, front::HEAD, front::TAIL] {
            self.write_bell(u64::from(queue) << 12 | word, 0, memory);
        }
        let none = QueueSetup::default();
        let given = setup.unwrap_or(&none);
        let ports = &self.ports;
        self.model.put(ports.queue_index, queue.into());
        self.model.put(ports.queue_on, setup.is_some().into());
        self.model.put(ports.queue_submissions, given.submissions);
        self.model.put(ports.queue_completions, given.completions);
        self.model.put(ports.queue_depth, given.depth_log2.into());
        self.model.put(ports.queue_priority, given.priority.into());
        self.pulse(self.ports.queue_valid, memory);
    }

    /// What a queue has done.
    pub fn queue(&mut self, queue: u16) -> QueueView {
        self.model.put(self.ports.queue_index, queue.into());
        self.model.settle();
        QueueView {
            fetched: self.model.value(self.ports.queue_head) as u32,
            completed: self.model.value(self.ports.queue_completed) as u32,
            errors: self.model.value(self.ports.queue_errors) as u32,
            bytes: self.model.value(self.ports.queue_bytes),
            failed: self.model.high(self.ports.queue_failed),
        }
    }

    /// Puts an SA's fixed part into the table, or takes it out: descriptors that are decoded from here on
    /// find it, or don't. Behind a reset the table is cleared first, for as long as no key is taken.
    pub fn set_sa(&mut self, index: u32, config: Option<&SaConfig>, memory: &mut dyn HostMemory) {
        self.model.put(self.ports.sa_index, index.into());
        self.model.put(self.ports.sa_valid, config.is_some().into());
        let octets = config.map(SaConfig::octets);
        let octets = octets.as_ref().map_or(&[][..], |octets| &octets[..]);
        self.model.set(self.ports.sa_config, octets);
        let ends = config.and_then(|config| config.outer.as_ref().map(Ends::octets));
        let ends = ends.as_ref().map_or(&[][..], |octets| &octets[..]);
        self.model.set(self.ports.sa_ends, ends);
        self.pulse(self.ports.sa_write, memory);
    }

    /// Installs an SA's key and salt. No packet of the SA may be under way.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn set_key(
        &mut self,
        index: u32,
        key: &[u8],
        salt: [u8; 4],
        memory: &mut dyn HostMemory,
    ) -> Result<(), Stuck> {
        // Octet 0 is the most significant one.
        let mut swapped = zeroize::Zeroizing::new([0; 32]);
        for (to, from) in swapped.iter_mut().rev().zip(key) {
            *to = *from;
        }
        self.model.put(self.ports.key_erase, 0);
        self.model.put(self.ports.key_256, (key.len() == 32).into());
        self.model.set(self.ports.key, &swapped[..]);
        self.model
            .put(self.ports.salt, u32::from_be_bytes(salt).into());
        let done = self.key_command(index, memory);
        self.model.set(self.ports.key, &[]);
        self.model.set(self.ports.salt, &[]);
        done
    }

    /// Installs the key and salt that the host has left in its mailbox, which gives them away by this: who
    /// manages the card does not see them. The mailbox must hold a key, and no packet of the SA may be
    /// under way.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn set_key_from_mailbox(
        &mut self,
        index: u32,
        memory: &mut dyn HostMemory,
    ) -> Result<(), Stuck> {
        self.model.put(self.ports.key_erase, 0);
        self.model.put(self.ports.key_mailbox, 1);
        let done = self.key_command(index, memory);
        self.model.put(self.ports.key_mailbox, 0);
        done
    }

    /// Zeroises an SA's keys. No packet of the SA may be under way.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn erase_key(&mut self, index: u32, memory: &mut dyn HostMemory) -> Result<(), Stuck> {
        self.model.put(self.ports.key_erase, 1);
        self.key_command(index, memory)
    }

    fn key_command(&mut self, index: u32, memory: &mut dyn HostMemory) -> Result<(), Stuck> {
        self.model.put(self.ports.sa_index, index.into());
        self.until(memory, |card| card.model.high(card.ports.key_ready))?;
        self.pulse(self.ports.key_valid, memory);
        self.until(memory, |card| card.model.high(card.ports.key_done))
    }

    /// Reads what of an SA moves.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn load<T: Moved>(&mut self, index: u32, memory: &mut dyn HostMemory) -> Result<T, Stuck> {
        let octets = self.access(T::WHAT, index, 0, None, memory)?;
        Ok(T::read(&octets))
    }

    /// Writes what of an SA moves.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn store<T: Moved>(
        &mut self,
        index: u32,
        value: &T,
        memory: &mut dyn HostMemory,
    ) -> Result<(), Stuck> {
        self.access(T::WHAT, index, 0, Some(&value.write()), memory)
            .map(drop)
    }

    /// Reads an inbound SA's window: bit `n % 64` of word `n / 64 % 32` is number `n`'s.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn load_window(
        &mut self,
        index: u32,
        memory: &mut dyn HostMemory,
    ) -> Result<[u64; WINDOW_WORDS], Stuck> {
        let mut words = [0; WINDOW_WORDS];
        for (place, word) in words.iter_mut().enumerate() {
            let octets = self.access(state::WORD, index, place as u64, None, memory)?;
            *word = state::word(&octets, 0);
        }
        Ok(words)
    }

    /// Writes an inbound SA's window.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn store_window(
        &mut self,
        index: u32,
        words: &[u64; WINDOW_WORDS],
        memory: &mut dyn HostMemory,
    ) -> Result<(), Stuck> {
        for (place, word) in words.iter().enumerate() {
            let mut octets = [0; state::LEN];
            octets[..8].copy_from_slice(&word.to_le_bytes());
            self.access(state::WORD, index, place as u64, Some(&octets), memory)?;
        }
        Ok(())
    }

    fn access(
        &mut self,
        what: u64,
        index: u32,
        word: u64,
        write: Option<&[u8; state::LEN]>,
        memory: &mut dyn HostMemory,
    ) -> Result<[u8; state::LEN], Stuck> {
        self.model.put(self.ports.sa_index, index.into());
        self.model.put(self.ports.state_what, what);
        self.model.put(self.ports.state_word, word);
        self.model
            .put(self.ports.state_write, write.is_some().into());
        let input = self.model.input("state_i");
        self.model
            .set(input, write.map_or(&[][..], |octets| &octets[..]));
        self.model.put(self.ports.state_valid, 1);
        self.model.settle();
        let taken = self.until(memory, |card| card.model.high(card.ports.state_ready));
        if taken.is_ok() {
            self.clock(memory);
        }
        self.model.put(self.ports.state_valid, 0);
        taken?;
        self.model.settle();
        let mut octets = [0; state::LEN];
        let output = self.model.output("state_o");
        self.model.copy(output, &mut octets);
        Ok(octets)
    }

    /// Whether there is anything to tell.
    pub fn has_news(&self) -> bool {
        !self.events.is_empty() || !self.completed.is_empty()
    }

    /// What the card has to tell its management.
    pub fn take_event(&mut self) -> Option<CardEvent> {
        self.events.pop_front()
    }

    /// Packets of the ports that are done: of no queue.
    pub fn take_passed(&mut self) -> Option<Completed> {
        self.passed.pop_front()
    }

    /// Completions that the host can see.
    pub fn take_completed(&mut self) -> Option<Completed> {
        self.completed.pop_front()
    }

    /// The card's counters.
    pub fn counters(&self) -> Counters {
        let value = |port| self.model.value(port);
        let ports = &self.ports;
        Counters {
            sealed: value(ports.sealed),
            sealed_bytes: value(ports.sealed_bytes),
            opened: value(ports.opened),
            opened_bytes: value(ports.opened_bytes),
            errors: value(ports.errors),
            dma_faults: value(ports.dma_faults),
            bad_descriptors: value(ports.bad_descriptors),
        }
    }
}
