// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// One round of AES encryption (FIPS 197, 5.1), with its register in front. With ROM its S-boxes are in
// block memory, whose register is that one: eight memories of 18 kbit instead of 512 LUTs.
//
// Promise: state_o is the round of the state of the clock before, with this clock's round key; a round a
// clock.
module aes_round
  import aes_pkg::*;
#(
  parameter bit LAST = 1'b0,           // without MixColumns
  parameter bit ROM  = 1'b0
) (
  input  logic   clk_i,
  input  block_t rkey_i,
  input  block_t state_i,
  output block_t state_o
);

  block_t substituted, shifted;
  if (ROM) begin : gen_rom
    for (genvar i = 0; i < 16; i += 2) begin : gen_octet
      logic [7:0] from [2], to [2];
      assign from = '{state_i[8*i+:8], state_i[8*i+8+:8]};
      aes_sbox_rom u_sbox (.clk_i, .x_i(from), .y_o(to));
      assign substituted[8*i+:16] = {to[1], to[0]};
    end
  end else begin : gen_logic
    block_t state_q;
    always_ff @(posedge clk_i) state_q <= state_i;
    for (genvar i = 0; i < 16; i++) begin : gen_octet
      aes_sbox u_sbox (.x_i(state_q[8*i+:8]), .y_o(substituted[8*i+:8]));
    end
  end
  assign shifted = shift_rows(substituted);
  assign state_o = (LAST ? shifted : mix_columns(shifted)) ^ rkey_i;

endmodule
