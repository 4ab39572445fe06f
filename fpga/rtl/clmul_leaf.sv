// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Sum of TERMS carry-less products, schoolbook. By itself it is mapped better than together with what
// Karatsuba puts around it.
//
// Promise: p_o is the sum of the products of the operands of the clock before; a sum a clock.
(* keep_hierarchy = "yes" *)
module clmul_leaf #(
  parameter int unsigned WIDTH = 16,
  parameter int unsigned TERMS = 1
) (
  input  logic               clk_i,
  input  logic [WIDTH-1:0]   a_i [TERMS],
  input  logic [WIDTH-1:0]   b_i [TERMS],
  output logic [2*WIDTH-2:0] p_o
);

  logic [2*WIDTH-2:0] sum;
  always_comb begin
    sum = '0;
    for (int t = 0; t < TERMS; t++) begin
      for (int i = 0; i < WIDTH; i++) begin
        sum ^= {{(WIDTH - 1) {1'b0}}, a_i[t] & {WIDTH{b_i[t][i]}}} << i;
      end
    end
  end
  always_ff @(posedge clk_i) p_o <= sum;

endmodule
