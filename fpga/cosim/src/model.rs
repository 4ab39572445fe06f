// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One simulated design. Ports are octets, least significant first.
#![expect(
    unsafe_code,
    reason = "calls into a verilated model, copies to and from its ports"
)]

use std::ffi::c_void;
use std::ptr;

use crate::designs::Design;

/// An instance of a design with one clock, `clk_i` or `clk`.
#[derive(Debug)]
pub struct Model {
    design: &'static Design,
    raw: *mut c_void,
    clock: Input,
    clocks: u64,
}

/// An input port.
#[derive(Clone, Copy, Debug)]
pub struct Input(Place);

/// An output port.
#[derive(Clone, Copy, Debug)]
pub struct Output(Place);

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Points into the model with this address.
    owner: *mut c_void,
    at: *mut u8,
    octets: usize,
}

impl Model {
    /// A new one, all inputs zero.
    pub fn new(design: &'static Design) -> Self {
        // SAFETY: the design's own constructor, without preconditions.
        let raw = unsafe { (design.new)() };
        assert!(!raw.is_null(), "out of memory");
        let clock = ["clk_i", "clk"]
            .into_iter()
            .find_map(|name| find(design, raw, name, true));
        let clock = Input(clock.unwrap_or_else(|| panic!("no clock")));
        let mut model = Self {
            design,
            raw,
            clock,
            clocks: 0,
        };
        for port in design.ports.iter().filter(|port| port.input) {
            let input = model.input(port.name);
            model.set(input, &[]);
        }
        model.settle();
        model
    }

    /// The input of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn input(&self, name: &str) -> Input {
        match find(self.design, self.raw, name, true) {
            Some(place) => Input(place),
            None => panic!("no input {name}"),
        }
    }

    /// The output of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn output(&self, name: &str) -> Output {
        match find(self.design, self.raw, name, false) {
            Some(place) => Output(place),
            None => panic!("no output {name}"),
        }
    }

    /// Sets an input; octets that are not given are zero. Bits beyond the port's width must be zero.
    pub fn set(&mut self, port: Input, octets: &[u8]) {
        let place = self.own(port.0);
        assert!(octets.len() <= place.octets, "the port is narrower");
        // SAFETY: `place` is `place.octets` octets of this model's memory, which lives as long as
        // the model and is touched only under `&mut self`, by one thread.
        unsafe {
            ptr::copy_nonoverlapping(octets.as_ptr(), place.at, octets.len());
            ptr::write_bytes(place.at.add(octets.len()), 0, place.octets - octets.len());
        }
    }

    /// Sets an input of up to 64 bits.
    pub fn put(&mut self, port: Input, value: u64) {
        let octets = port.0.octets.min(8);
        self.set(port, &value.to_le_bytes()[..octets]);
    }

    /// Copies an output's first octets.
    pub fn copy(&self, port: Output, octets: &mut [u8]) {
        let place = self.own(port.0);
        assert!(octets.len() <= place.octets, "the port is narrower");
        // SAFETY: as in `set`; nothing writes while `&self` is held.
        unsafe { ptr::copy_nonoverlapping(place.at, octets.as_mut_ptr(), octets.len()) }
    }

    /// An output of up to 64 bits.
    pub fn value(&self, port: Output) -> u64 {
        let mut octets = [0; 8];
        self.copy(port, &mut octets[..port.0.octets.min(8)]);
        u64::from_le_bytes(octets)
    }

    /// Whether an output of one bit is high.
    pub fn high(&self, port: Output) -> bool {
        self.value(port) != 0
    }

    /// Lets the inputs take effect before the clock's edge: outputs are what the edge will see.
    pub fn settle(&mut self) {
        self.put(self.clock, 0);
        self.evaluate();
    }

    /// The rising edge.
    pub fn rise(&mut self) {
        self.put(self.clock, 1);
        self.evaluate();
        self.clocks += 1;
    }

    /// Rising edges so far.
    pub fn clocks(&self) -> u64 {
        self.clocks
    }

    fn evaluate(&mut self) {
        // SAFETY: `raw` came from `new` and is freed only by `drop`.
        unsafe { (self.design.eval)(self.raw) }
    }

    fn own(&self, place: Place) -> Place {
        assert!(ptr::eq(place.owner, self.raw), "another model's port");
        place
    }
}

// SAFETY: a verilated model touches nothing but its own memory: it has no threads (`build.rs` asks for
// none), and what the library keeps for each thread, which model it works on, is set at each call. Ports
// are used only together with their model.
unsafe impl Send for Model {}
// SAFETY: an address, which is dereferenced only through the model that it belongs to.
unsafe impl Send for Input {}
// SAFETY: as for `Input`.
unsafe impl Send for Output {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: `raw` came from `new`, is freed once, and no port reaches it without the model.
        unsafe { (self.design.free)(self.raw) }
    }
}

fn find(design: &Design, raw: *mut c_void, name: &str, input: bool) -> Option<Place> {
    let index = design
        .ports
        .iter()
        .position(|port| port.name == name && port.input == input)?;
    Some(Place {
        owner: raw,
        // SAFETY: `raw` is a live model of this design, and `index` one of its ports.
        at: unsafe { (design.port)(raw, index) }.cast(),
        octets: design.ports[index].octets,
    })
}
