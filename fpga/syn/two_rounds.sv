// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Two rounds of AES behind each other, so that there is a path from register to register to be timed.
module two_rounds
  import aes_pkg::*;
(
  input  logic   clk_i,
  input  logic   is_256_i,
  input  block_t rkey_i [2],
  input  block_t state_i,
  output block_t state_o
);

  block_t between;
  aes_round #(.ROUND(1)) u_first (
    .clk_i, .is_256_i, .rkey_i(rkey_i[0]), .state_i, .state_o(between)
  );
  aes_round #(.ROUND(2)) u_second (
    .clk_i, .is_256_i, .rkey_i(rkey_i[1]), .state_i(between), .state_o
  );

endmodule
