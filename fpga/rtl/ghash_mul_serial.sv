// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// GF(2^128) multiplier, a bit a clock: for the powers of a hash key, which are made once for each
// SA.
//
// Promise: done_o is high for one clock, 128 clocks after the clock with start_i; p_o is the
// product then, and zero otherwise.
module ghash_mul_serial
  import ghash_pkg::*;
(
  input  logic  clk_i,
  input  logic  rst_ni,
  input  logic  start_i,
  input  poly_t a_i,
  input  poly_t b_i,
  output logic  done_o,
  output poly_t p_o
);

  logic       busy_q;
  logic [6:0] bit_q;
  poly_t      a_q, b_q, sum_q, sum_d;

  // Horner's scheme, from b's highest coefficient down.
  assign sum_d = times_x(sum_q) ^ (a_q & {128{b_q[127]}});

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      busy_q <= 1'b0;
      bit_q  <= '0;
      a_q    <= '0;
      b_q    <= '0;
      sum_q  <= '0;
    end else if (start_i) begin
      busy_q <= 1'b1;
      bit_q  <= '0;
      a_q    <= a_i;
      b_q    <= b_i;
      sum_q  <= '0;
    end else if (busy_q) begin
      bit_q <= bit_q + 7'd1;
      sum_q <= done_o ? '0 : sum_d;
      a_q   <= done_o ? '0 : a_q;
      b_q   <= done_o ? '0 : {b_q[126:0], 1'b0};
      if (done_o) busy_q <= 1'b0;
    end
  end

  assign done_o = busy_q && bit_q == 7'd127;
  assign p_o    = done_o ? sum_d : '0;

endmodule
