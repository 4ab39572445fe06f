// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// AES's S-box (FIPS 197, 5.1.1) for two octets, in one block memory with two read ports.
//
// Promise: y_o is the substitute of the octets of the clock before; two octets a clock.
(* keep_hierarchy = "yes" *)
module aes_sbox_rom
  import aes_pkg::*;
(
  input  logic       clk_i,
  input  logic [7:0] x_i [2],
  output logic [7:0] y_o [2]
);

  (* rom_style = "block" *) logic [7:0] rom [256];
  initial begin
    for (int i = 0; i < 256; i++) rom[i] = SBOX[i];
  end

  always_ff @(posedge clk_i) begin
    y_o[0] <= rom[x_i[0]];
    y_o[1] <= rom[x_i[1]];
  end

endmodule
