// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Two rounds of AES behind each other, so that there is a path from register to register to be timed.
//
// Promise: state_o is two rounds of the state of three clocks before.
module two_rounds
  import aes_pkg::*;
(
  input  logic   clk_i,
  input  block_t rkey_i [2],
  input  block_t state_i,
  output block_t state_o
);

  block_t between, made;
  aes_round u_first  (.clk_i, .rkey_i(rkey_i[0]), .state_i, .state_o(between));
  aes_round u_second (.clk_i, .rkey_i(rkey_i[1]), .state_i(between), .state_o(made));
  always_ff @(posedge clk_i) state_o <= made;

endmodule
