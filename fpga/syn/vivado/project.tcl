# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# NOT RUN by this project: there is no Vivado where it is built and tested. Written against the
# documented commands of Vivado (UG835, UG903); expect to mend it where your version differs.
#
#   vivado -mode batch -source fpga/syn/vivado/project.tcl [-tclargs LANES OUTPUT-DIRECTORY]
#
# The card's data path and registers (ipa_card) for an Alveo U50, out of context: synthesised, placed,
# routed and timed at 250 MHz. Its ports are no pins: behind them stand a management processor and a shim
# from the bus's lines to the PCI Express block, which are not part of this script. What it gives
# are reports and a checkpoint, no bitstream.

set lanes  [expr {$argc > 0 ? [lindex $argv 0] : 4}]
set output [expr {$argc > 1 ? [lindex $argv 1] : "vivado-out"}]
set here   [file dirname [file normalize [info script]]]
set rtl    [file normalize [file join $here .. .. rtl]]

# The part of the Alveo U50 (DS965).
create_project -in_memory -part xcu50-fsvh2104-2-e

# Packages before those who import them.
foreach name {aes_pkg ghash_pkg ipa_card_pkg ipa_pkg
              generated/ipa_registers_pkg generated/ipa_doorbells_pkg} {
  read_verilog -sv [file join $rtl $name.sv]
}
foreach path [lsort [glob [file join $rtl *.sv] [file join $rtl generated *.sv]]] {
  set name [file rootname [file tail $path]]
  # Layout check and single window are for simulators and proofs.
  if {![string match *_pkg $name] && $name ni {ipa_layout_check replay_window}} {
    read_verilog -sv $path
  }
}
read_xdc -mode out_of_context [file join $here u50.xdc]

file mkdir $output
synth_design -top ipa_card -mode out_of_context -flatten_hierarchy rebuilt \
  -verilog_define SYNTHESIS=1 -generic LANES=$lanes -generic SAS=4096 -generic QUEUES=8
report_utilization -hierarchical -file [file join $output utilization-synthesised.rpt]
opt_design
place_design
phys_opt_design
route_design
report_timing_summary -max_paths 20 -file [file join $output timing.rpt]
report_utilization -hierarchical -file [file join $output utilization.rpt]
report_drc -file [file join $output drc.rpt]
write_checkpoint -force [file join $output ipa_card.dcp]

set slack [get_property SLACK [get_timing_paths -delay_type max]]
puts "worst slack at 4 ns: $slack ns"
if {$slack < 0} { exit 1 }
