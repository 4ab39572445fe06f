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

`ifdef FORMAL
  // One entry, any, is followed: `ahead_q` entries leave before it. The first ones are in the exit, then
  // there may be one between it and the memory.
  localparam int unsigned CountBits = PtrBits + 2;
  logic                 started_q = 1'b0, inside_q, left_q, pop;
  logic [CountBits-1:0] ahead_q, total, stored, in_front;
  logic [WIDTH-1:0]     followed_q;
  assign pop    = out_valid_o && out_ready_i;
  assign stored = CountBits'((PtrBits + 1)'(write_q - read_q));
  assign in_front = CountBits'(count) + CountBits'(fetched_q);
  assign total  = stored + in_front;
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!rst_ni) begin
      inside_q <= 1'b0;
      left_q   <= 1'b0;
    end else if (push && in_data_i[0] && !inside_q && !left_q) begin
      inside_q   <= 1'b1;
      followed_q <= in_data_i;
      ahead_q    <= total - CountBits'(pop);
    end else if (inside_q && pop) begin
      inside_q <= ahead_q != 0;
      left_q   <= ahead_q == 0;
      ahead_q  <= ahead_q - 1'b1;
    end
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      if (inside_q && ahead_q == 0 && pop) assert (out_data_o == followed_q);
      assert (in_ready_o || total >= CountBits'(DEPTH));
      // What comes out of the memory finds room.
      assert (!fetched_q || unused_ready);

      // What induction needs to know.
      assert (stored <= CountBits'(DEPTH) && in_front <= CountBits'(4));
      if (inside_q) begin
        assert (ahead_q < total);
        if (ahead_q < CountBits'(count)) begin
          assert (u_exit.memory[2'(u_exit.read_q + 3'(ahead_q))] == followed_q);
        end else if (ahead_q < in_front) begin
          assert (fetched == followed_q);
        end else begin
          assert (u_memory.memory[PtrBits'(CountBits'(read_q) + ahead_q - in_front)]
                  == followed_q);
        end
      end
    end
  end
`endif

endmodule
