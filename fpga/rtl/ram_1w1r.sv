// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Memory with a write port and a read port.
//
// Promise: rdata_o is what raddr_i of the clock before held before that clock's write. Contents are
// undefined until written.
module ram_1w1r #(
  parameter  int unsigned WIDTH    = 128,
  parameter  int unsigned DEPTH    = 512,
  localparam int unsigned AddrBits = $clog2(DEPTH)
) (
  input  logic                clk_i,
  input  logic                write_i,
  input  logic [AddrBits-1:0] waddr_i,
  input  logic [WIDTH-1:0]    wdata_i,
  input  logic [AddrBits-1:0] raddr_i,
  output logic [WIDTH-1:0]    rdata_o
);

  logic [WIDTH-1:0] memory [DEPTH];

  always_ff @(posedge clk_i) begin
    if (write_i) memory[waddr_i] <= wdata_i;
    rdata_o <= memory[raddr_i];
  end

endmodule
