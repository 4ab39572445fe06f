// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Carry-less multiplier: Karatsuba, KARATSUBA times, over schoolbook leaves.
//
// Promise: p_o is the product of the operands of the clock before (one register, behind the
// leaves); one product a clock.
module clmul #(
  parameter int unsigned WIDTH     = 128,
  parameter int unsigned KARATSUBA = 2
) (
  input  logic               clk_i,
  input  logic [WIDTH-1:0]   a_i,
  input  logic [WIDTH-1:0]   b_i,
  output logic [2*WIDTH-2:0] p_o
);

  if (KARATSUBA == 0) begin : gen_leaf
    logic [2*WIDTH-2:0] product_d, product_q;
    always_comb begin
      product_d = '0;
      for (int i = 0; i < WIDTH; i++) begin
        product_d ^= {{(WIDTH - 1) {1'b0}}, a_i & {WIDTH{b_i[i]}}} << i;
      end
    end
    always_ff @(posedge clk_i) product_q <= product_d;
    assign p_o = product_q;
  end else begin : gen_split
    localparam int unsigned Half = WIDTH / 2;
    logic [2*Half-2:0] low, high, both, middle;
    clmul #(.WIDTH(Half), .KARATSUBA(KARATSUBA - 1)) u_low (
      .clk_i, .a_i(a_i[Half-1:0]), .b_i(b_i[Half-1:0]), .p_o(low)
    );
    clmul #(.WIDTH(Half), .KARATSUBA(KARATSUBA - 1)) u_high (
      .clk_i, .a_i(a_i[WIDTH-1:Half]), .b_i(b_i[WIDTH-1:Half]), .p_o(high)
    );
    clmul #(.WIDTH(Half), .KARATSUBA(KARATSUBA - 1)) u_both (
      .clk_i,
      .a_i(a_i[Half-1:0] ^ a_i[WIDTH-1:Half]),
      .b_i(b_i[Half-1:0] ^ b_i[WIDTH-1:Half]),
      .p_o(both)
    );
    assign middle = both ^ low ^ high;
    assign p_o    = {high, 1'b0, low} ^ {{Half{1'b0}}, middle, {Half{1'b0}}};
  end

endmodule
