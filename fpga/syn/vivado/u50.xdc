# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# NOT RUN by this project (see project.tcl). The user clock of the PCI Express block: 250 MHz with 512 bits is
# what Gen3 x16 and Gen4 x8 have.
create_clock -name clk -period 4.000 [get_ports clk_i]
set_clock_uncertainty 0.100 [get_clocks clk]

# Buffered where it will stand in a whole design.
set_property HD.CLK_SRC BUFGCE_X0Y0 [get_ports clk_i]

# What is around takes registers of its own: half of the clock is for the way there.
set_input_delay  -clock clk 2.000 [filter [all_inputs] {NAME != clk_i}]
set_output_delay -clock clk 2.000 [all_outputs]

# Resets come from registers of this clock and may take several clocks to reach everything: each is held
# for four at least.
set_multicycle_path -setup 4 -from [get_ports {rst_ni bus_rst_ni}]
set_multicycle_path -hold  3 -from [get_ports {rst_ni bus_rst_ni}]
