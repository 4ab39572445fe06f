// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Sum of TERMS carry-less products: Karatsuba, KARATSUBA times, over schoolbook leaves. The terms are
// summed in the leaves, so that what joins the leaves is there once.
//
// Promise: p_o is the sum of the products of the operands of the clock before (one register, behind the
// leaves); a sum a clock.
module clmul #(
  parameter int unsigned WIDTH     = 128,
  parameter int unsigned KARATSUBA = 3,
  parameter int unsigned TERMS     = 1
) (
  input  logic               clk_i,
  input  logic [WIDTH-1:0]   a_i [TERMS],
  input  logic [WIDTH-1:0]   b_i [TERMS],
  output logic [2*WIDTH-2:0] p_o
);

  if (KARATSUBA == 0) begin : gen_leaf
    clmul_leaf #(.WIDTH(WIDTH), .TERMS(TERMS)) u_leaf (.clk_i, .a_i, .b_i, .p_o);
  end else begin : gen_split
    localparam int unsigned Half = WIDTH / 2;
    logic [Half-1:0]   a_low [TERMS], a_high [TERMS], a_both [TERMS];
    logic [Half-1:0]   b_low [TERMS], b_high [TERMS], b_both [TERMS];
    logic [2*Half-2:0] low, high, both, middle;
    for (genvar t = 0; t < TERMS; t++) begin : gen_term
      assign a_low[t]  = a_i[t][Half-1:0];
      assign a_high[t] = a_i[t][WIDTH-1:Half];
      assign a_both[t] = a_low[t] ^ a_high[t];
      assign b_low[t]  = b_i[t][Half-1:0];
      assign b_high[t] = b_i[t][WIDTH-1:Half];
      assign b_both[t] = b_low[t] ^ b_high[t];
    end
    clmul #(.WIDTH(Half), .KARATSUBA(KARATSUBA - 1), .TERMS(TERMS)) u_low (
      .clk_i, .a_i(a_low), .b_i(b_low), .p_o(low)
    );
    clmul #(.WIDTH(Half), .KARATSUBA(KARATSUBA - 1), .TERMS(TERMS)) u_high (
      .clk_i, .a_i(a_high), .b_i(b_high), .p_o(high)
    );
    clmul #(.WIDTH(Half), .KARATSUBA(KARATSUBA - 1), .TERMS(TERMS)) u_both (
      .clk_i, .a_i(a_both), .b_i(b_both), .p_o(both)
    );
    assign middle = both ^ low ^ high;
    assign p_o    = {high, 1'b0, low} ^ {{Half{1'b0}}, middle, {Half{1'b0}}};
  end

endmodule
