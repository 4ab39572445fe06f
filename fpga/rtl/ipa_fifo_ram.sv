// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// First in, first out, with block memory: for what is wide and deep.
//
// Promise: as ipa_fifo, but an entry comes out three clocks after it entered at the earliest; an entry
// a clock in and out. It holds DEPTH entries at least.
module ipa_fifo_ram #(
  parameter  int unsigned WIDTH   = 512,
  parameter  int unsigned DEPTH   = 512,         // a power of two
  localparam int unsigned PtrBits = $clog2(DEPTH)
) (
  input  logic             clk_i,
  input  logic             rst_ni,
  input  logic             in_valid_i,
  output logic             in_ready_o,
  input  logic [WIDTH-1:0] in_data_i,
  output logic             out_valid_o,
  input  logic             out_ready_i,
  output logic [WIDTH-1:0] out_data_o
);

  logic [PtrBits:0] write_q, read_q;
  logic             push, fetch, fetched_q, unused_ready;
  logic [2:0]       count;
  logic [WIDTH-1:0] fetched;

  assign in_ready_o = write_q - read_q != (PtrBits + 1)'(DEPTH);
  assign push       = in_valid_i && in_ready_o;
  // Room for what is on its way out of the memory.
  assign fetch      = write_q != read_q && count + 3'(fetched_q) < 3'd4;

  ram_1w1r #(.WIDTH(WIDTH), .DEPTH(DEPTH)) u_memory (
    .clk_i, .write_i(push), .waddr_i(write_q[PtrBits-1:0]), .wdata_i(in_data_i),
    .raddr_i(read_q[PtrBits-1:0]), .rdata_o(fetched)
  );
  ipa_fifo #(.WIDTH(WIDTH), .DEPTH(4)) u_exit (
    .clk_i, .rst_ni, .in_valid_i(fetched_q), .in_ready_o(unused_ready), .in_data_i(fetched),
    .out_valid_o, .out_ready_i, .out_data_o, .count_o(count)
  );

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      write_q   <= '0;
      read_q    <= '0;
      fetched_q <= 1'b0;
    end else begin
      fetched_q <= fetch;
      if (push)  write_q <= write_q + 1'b1;
      if (fetch) read_q <= read_q + 1'b1;
    end
  end

endmodule
