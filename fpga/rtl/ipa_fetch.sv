// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Submission rings: which descriptor is read next.
//
// Promise: each entry that was rung for is asked for once, in order, and none beyond the tail
// (proved); queues that are all busy share the card 1 : 2 : 4 : 8 by priority. A doorbell beyond the
// ring stops its queue until it is configured anew. A descriptor a clock, but for one when
// the turn passes on; the first one as many clocks after its tail moved as there are queues, at the latest,
// while the others rest.
module ipa_fetch #(
  parameter  int unsigned QUEUES = 8,            // a power of two
  localparam int unsigned QueueBits = $clog2(QUEUES)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,
  input  logic                 run_i,

  // Management
  input  logic                 set_valid_i,
  input  logic [QueueBits-1:0] set_queue_i,
  input  logic                 set_on_i,
  input  logic [63:0]          set_base_i,
  input  logic [3:0]           set_depth_i,      // log2
  input  logic [1:0]           set_priority_i,

  input  logic [31:0]          tail_i [QUEUES],

  // Descriptors wanted
  output logic                 fetch_valid_o,
  input  logic                 fetch_ready_i,
  output logic [QueueBits-1:0] fetch_queue_o,
  output logic [63:0]          fetch_addr_o,

  // A queue that stopped
  output logic                 fail_valid_o,
  input  logic                 fail_ready_i,
  output logic [QueueBits-1:0] fail_queue_o,
  output logic [31:0]          fail_tail_o,

  output logic [31:0]          head_o [QUEUES],  // descriptors asked for
  output logic [QUEUES-1:0]    failed_o
);

  localparam int unsigned TurnBits = 7;
  localparam logic [TurnBits-1:0] Turn = TurnBits'(8);   // descriptors, at the lowest priority

  logic [QUEUES-1:0]    on_q, failed_q;
  logic [63:0]          base_q [QUEUES];
  logic [3:0]           depth_q [QUEUES];
  logic [1:0]           priority_q [QUEUES];
  logic [31:0]          head_q [QUEUES];
  logic [QueueBits-1:0] turn_q;
  logic [TurnBits-1:0]  left_q;

  logic [31:0] head, pending, depth, slot;
  logic        serves, beyond, there, fetch, next;
  assign head    = head_q[turn_q];
  assign pending = tail_i[turn_q] - head;
  assign depth   = 32'd1 << depth_q[turn_q];
  assign slot    = head & (depth - 32'd1);
  assign serves  = run_i && on_q[turn_q] && !failed_q[turn_q];
  assign beyond  = serves && pending > depth;
  assign there   = serves && pending != 0 && !beyond;

  assign fetch_valid_o = there && left_q != 0;
  assign fetch_queue_o = turn_q;
  assign fetch_addr_o  = base_q[turn_q] + {26'b0, slot, 6'b0};
  assign fetch         = fetch_valid_o && fetch_ready_i;
  assign fail_valid_o  = beyond;
  assign fail_queue_o  = turn_q;
  assign fail_tail_o   = tail_i[turn_q];
  assign next          = !there || left_q == 0;
  assign head_o        = head_q;
  assign failed_o      = failed_q;

  logic [QueueBits-1:0] turn_next;
  assign turn_next = turn_q == QueueBits'(QUEUES - 1) ? '0 : turn_q + 1'b1;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      on_q     <= '0;
      failed_q <= '0;
      turn_q   <= '0;
      left_q   <= '0;
      for (int q = 0; q < QUEUES; q++) begin
        base_q[q]     <= '0;
        depth_q[q]    <= '0;
        priority_q[q] <= '0;
        head_q[q]     <= '0;
      end
    end else begin
      if (fetch) begin
        head_q[turn_q] <= head + 32'd1;
        left_q         <= left_q - 1'b1;
      end
      if (beyond && fail_ready_i) failed_q[turn_q] <= 1'b1;
      if (next) begin
        turn_q <= turn_next;
        left_q <= Turn << priority_q[turn_next];
      end
      if (set_valid_i) begin
        on_q[set_queue_i]       <= set_on_i;
        failed_q[set_queue_i]   <= 1'b0;
        base_q[set_queue_i]     <= set_base_i;
        depth_q[set_queue_i]    <= set_depth_i;
        priority_q[set_queue_i] <= set_priority_i;
        head_q[set_queue_i]     <= '0;
      end
    end
  end

`ifdef FORMAL
  // One queue, any, is followed: what set it, and how many of its entries were asked for.
  logic                 started_q = 1'b0;
  logic [QueueBits-1:0] watched_q;
  logic [31:0]          count_q, tail_q;
  logic [63:0]          start_q;
  logic [3:0]           log_q;
  logic                 set_q;
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    tail_q    <= tail_i[watched_q];
    if (!rst_ni) begin
      watched_q <= set_queue_i;
      set_q     <= 1'b0;
      count_q   <= '0;
      start_q   <= '0;
      log_q     <= '0;
    end else if (set_valid_i && set_queue_i == watched_q) begin
      set_q   <= set_on_i;
      count_q <= '0;
      start_q <= set_base_i;
      log_q   <= set_depth_i;
    end else if (fetch && fetch_queue_o == watched_q) begin
      count_q <= count_q + 32'd1;
    end
  end
  always_ff @(posedge clk_i) begin
    if (!started_q) begin
      assume (!rst_ni);
    end else if (rst_ni) begin
      assert (turn_q < QUEUES);
      assert (head_q[watched_q] == count_q && base_q[watched_q] == start_q);
      assert (depth_q[watched_q] == log_q && on_q[watched_q] == set_q);
      if (fetch_valid_o && fetch_queue_o == watched_q) begin
        assert (set_q && run_i);
        // In order, each once, in its own slot.
        assert (fetch_addr_o == start_q + {26'b0, count_q & ((32'd1 << log_q) - 32'd1), 6'b0});
        // Never beyond the tail, nor with more than a ring outstanding.
        assert (tail_i[watched_q] != count_q);
        assert (tail_i[watched_q] - count_q <= (32'd1 << log_q));
      end
      if (fail_valid_o && fail_queue_o == watched_q) begin
        assert (tail_i[watched_q] - count_q > (32'd1 << log_q));
        assert (!fetch_valid_o);
      end
    end
  end
`endif

endmodule
