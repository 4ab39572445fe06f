// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// One round of AES encryption (FIPS 197, 5.1) in a pipe that serves both key sizes: an AES-128 block
// has its last round at 10 and rides through the others unchanged.
//
// Promise: state_o is the round of the inputs of the clock before.
module aes_round
  import aes_pkg::*;
#(
  parameter int unsigned ROUND = 1     // 1 to 14
) (
  input  logic   clk_i,
  input  logic   is_256_i,
  input  block_t rkey_i,
  input  block_t state_i,
  output block_t state_o
);

  block_t shifted, inner, outer, state_d;
  assign shifted = shift_rows(sub_bytes(state_i));
  assign inner   = mix_columns(shifted) ^ rkey_i;
  assign outer   = shifted ^ rkey_i;

  if (ROUND < 10) begin : gen_inner
    assign state_d = inner;
    logic unused_size;
    assign unused_size = ^{is_256_i, outer};
  end else if (ROUND == 10) begin : gen_tenth
    assign state_d = is_256_i ? inner : outer;
  end else if (ROUND < 14) begin : gen_only_256
    assign state_d = is_256_i ? inner : state_i;
    logic unused_outer;
    assign unused_outer = ^outer;
  end else begin : gen_last
    assign state_d = is_256_i ? outer : state_i;
    logic unused_inner;
    assign unused_inner = ^inner;
  end

  always_ff @(posedge clk_i) state_o <= state_d;

endmodule
