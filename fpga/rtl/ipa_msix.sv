// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Interrupts: the MSI-X table and its pending bits (PCI Express Base, 7.7.2) behind AXI4-Lite, which
// vectors are wanted, and how often they may fire. Vector 0 is the management's, vector 1 + q that of
// queue pair q.
//
// A queue's vector is wanted when the host has asked for it (ARM) and there are completions beyond its
// HEAD. Asking ends with this; asking too late is no loss, for it is looked at again and again. A wanted
// vector fires when as much time has gone by since its last message as its moderation says, or when so
// many completions wait. If it is masked then, it is pending, and fires once when the mask ends.
//
// The table is the bus's and outlives a reset by the driver, but not one by the bus (table_rst_ni with
// rst_ni). A message that is offered outlives both: it is not withdrawn. What is read of the table is read behind the messages that were sent before.
//
// Promise: no vector that was wanted is lost, none fires that was not, none fires twice for it, nor
// while it is masked, nor sooner than its moderation allows (proved). A message is offered within as
// many clocks as there are vectors after it may be, and one clock for each one that is taken before
// it; one message a clock.
module ipa_msix #(
  parameter  int unsigned QUEUES     = 8,
  parameter  int unsigned TIME_BITS  = 64,
  parameter  int unsigned TICK       = 1000,     // of now_i, in a microsecond
  localparam int unsigned Vectors    = QUEUES + 1,
  localparam int unsigned VectorBits = $clog2(Vectors),
  localparam int unsigned QueueBits  = $clog2(QUEUES)
) (
  input  logic                  clk_i,
  input  logic                  bus_rst_ni,
  input  logic                  rst_ni,
  input  logic                  table_rst_ni,    // function-level reset
  input  logic [TIME_BITS-1:0]  now_i,           // nanoseconds
  input  logic                  mask_all_i,      // by the capability: masked, or not enabled
  input  logic [QUEUES:0][31:0] moderation_i,    // interrupt.MODERATION

  // Table and pending bits
  input  logic                  axil_awvalid_i,  // with axil_wvalid_i
  output logic                  axil_awready_o,
  input  logic [13:0]           axil_awaddr_i,
  input  logic [31:0]           axil_wdata_i,
  input  logic [3:0]            axil_wstrb_i,
  output logic                  axil_bvalid_o,
  input  logic                  axil_bready_i,
  output logic [1:0]            axil_bresp_o,
  input  logic                  axil_arvalid_i,
  output logic                  axil_arready_o,
  input  logic [13:0]           axil_araddr_i,
  output logic                  axil_rvalid_o,
  input  logic                  axil_rready_i,
  output logic [31:0]           axil_rdata_o,
  output logic [1:0]            axil_rresp_o,

  // Completions that the host can see, and its doorbell pages
  input  logic                  queue_set_i,     // this queue starts anew
  input  logic [QueueBits-1:0]  queue_index_i,
  input  logic                  done_valid_i,
  input  logic [QueueBits-1:0]  done_queue_i,
  input  logic [31:0]           head_i [QUEUES],
  input  logic [QUEUES-1:0]     arm_i,
  output logic [QUEUES-1:0]     disarm_o,

  // Management: so many entries for a vector, which count where it is wanted, or make it so
  input  logic                  raise_valid_i,
  input  logic [VectorBits-1:0] raise_vector_i,
  input  logic [15:0]           raise_count_i,
  input  logic                  raise_wants_i,

  // Messages, posted writes of a word
  output logic                  msi_valid_o,
  input  logic                  msi_ready_i,
  output logic [63:0]           msi_addr_o,
  output logic [31:0]           msi_data_o,
  output logic [VectorBits-1:0] msi_vector_o,

  output logic [QUEUES:0]       held_o,          // wanted, and not yet fired
  output logic [63:0]           fired_o
);

  if (Vectors > 32) begin : gen_too_many
    $fatal(1, "more vectors than one word of pending bits");
  end

  localparam logic [1:0] Okay = 2'b00, SlaveError = 2'b10;

  // -- The table ----------------------------------------------------------------------------------
  logic [Vectors-1:0][61:0] addr_q;              // without the two bits that are always zero
  logic [Vectors-1:0][31:0] data_q;
  logic [Vectors-1:0]       mask_q, pending_q;

  function automatic logic [31:0] merge(input logic [31:0] old, input logic [31:0] word,
                                        input logic [3:0] strobe);
    for (int b = 0; b < 4; b++) merge[8*b +: 8] = strobe[b] ? word[8*b +: 8] : old[8*b +: 8];
  endfunction

  logic [8:0]            write_entry, read_entry;
  logic [VectorBits-1:0] write_at, read_at;
  logic                  writes, write_there, reads, read_there;
  logic [63:0]           address;
  logic [31:0]           word;
  assign write_entry    = axil_awaddr_i[12:4];
  assign read_entry     = axil_araddr_i[12:4];
  assign write_at       = VectorBits'(write_entry);
  assign read_at        = VectorBits'(read_entry);
  assign write_there    = !axil_awaddr_i[13] && write_entry < 9'(Vectors);
  assign axil_awready_o = !axil_bvalid_o;
  assign writes         = axil_awvalid_i && axil_awready_o;
  assign axil_arready_o = !axil_rvalid_o && !msi_valid_o;
  assign reads          = axil_arvalid_i && axil_arready_o;
  assign address        = {addr_q[read_at], 2'b00};
  always_comb begin
    read_there = 1'b1;
    word       = '0;
    if (axil_araddr_i[13]) begin
      read_there = axil_araddr_i[12:3] == '0;
      if (axil_araddr_i[12:2] == '0) word = 32'(pending_q);
    end else if (read_entry < 9'(Vectors)) begin
      unique case (axil_araddr_i[3:2])
        2'd0:    word = address[31:0];
        2'd1:    word = address[63:32];
        2'd2:    word = data_q[read_at];
        default: word = {31'b0, mask_q[read_at]};
      endcase
    end else begin
      read_there = 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!bus_rst_ni || !table_rst_ni) begin
      addr_q <= '0;
      data_q <= '0;
      mask_q <= '1;
    end else if (writes && write_there) begin
      unique case (axil_awaddr_i[3:2])
        2'd0: begin
          addr_q[write_at][29:0] <= 30'(merge({addr_q[write_at][29:0], 2'b00}, axil_wdata_i,
                                              axil_wstrb_i) >> 2);
        end
        2'd1: begin
          addr_q[write_at][61:30] <= merge(addr_q[write_at][61:30], axil_wdata_i, axil_wstrb_i);
        end
        2'd2:    data_q[write_at] <= merge(data_q[write_at], axil_wdata_i, axil_wstrb_i);
        default: if (axil_wstrb_i[0]) mask_q[write_at] <= axil_wdata_i[0];
      endcase
    end
  end
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      axil_bvalid_o <= 1'b0;
      axil_rvalid_o <= 1'b0;
    end else begin
      if (writes)             axil_bvalid_o <= 1'b1;
      else if (axil_bready_i) axil_bvalid_o <= 1'b0;
      if (reads)              axil_rvalid_o <= 1'b1;
      else if (axil_rready_i) axil_rvalid_o <= 1'b0;
    end
    if (writes) axil_bresp_o <= write_there ? Okay : SlaveError;
    if (reads) begin
      axil_rdata_o <= word;
      axil_rresp_o <= read_there ? Okay : SlaveError;
    end
  end

  // -- What is wanted -----------------------------------------------------------------------------
  logic [Vectors-1:0]       wants_q, wanted, still, cleared;
  logic [Vectors-1:0][15:0] waiting_q, waiting;  // completions since it was first wanted
  logic [31:0]              done_q [QUEUES];

  function automatic logic [15:0] at_most(input logic [31:0] count);
    return count > 32'h0000_ffff ? 16'hffff : count[15:0];
  endfunction

  // Those that were there when the host asked.
  logic [Vectors-1:0][31:0] behind;
  for (genvar q = 0; q < QUEUES; q++) begin : gen_queue
    assign disarm_o[q]   = arm_i[q] && done_q[q] != head_i[q];
    assign behind[q + 1] = disarm_o[q] ? done_q[q] - head_i[q] : '0;
  end
  assign behind[0] = '0;

  always_comb begin
    for (int v = 0; v < Vectors; v++) begin
      logic done, raised;
      logic [31:0] more;
      done      = v != 0 && done_valid_i && 32'(done_queue_i) + 32'd1 == 32'(v);
      raised    = raise_valid_i && 32'(raise_vector_i) == 32'(v);
      wanted[v] = behind[v] != '0 || (raised && raise_wants_i);
      still[v]  = wants_q[v] && !cleared[v];
      more      = 32'(done) + (raised ? 32'(raise_count_i) : '0);
      waiting[v] = '0;
      if (still[v])       waiting[v] = at_most(32'(waiting_q[v]) + more);
      else if (wanted[v]) waiting[v] = at_most(32'(at_most(behind[v])) + more);
    end
  end

  // -- When it fires: one vector's turn a clock ---------------------------------------------------
  logic [VectorBits-1:0]    turn_q;
  logic [Vectors-1:0][TIME_BITS-1:0] last_q;
  logic [Vectors-1:0]       fired_q;             // there was a last one
  logic [TIME_BITS-1:0]     interval;
  logic                     cooled, enough, fires, masked, room, sends, sent;
  assign interval = TIME_BITS'(moderation_i[turn_q][15:0]) * TIME_BITS'(TICK);
  assign cooled   = !fired_q[turn_q] || now_i - last_q[turn_q] >= interval;
  assign enough   = moderation_i[turn_q][31:16] != '0
                    && waiting_q[turn_q] >= moderation_i[turn_q][31:16];
  assign fires    = wants_q[turn_q] && (cooled || enough);
  assign masked   = mask_all_i || mask_q[turn_q];
  assign room     = !msi_valid_o || msi_ready_i;
  assign sends    = !masked && (fires || pending_q[turn_q]);
  assign sent     = sends && room;
  always_comb begin
    cleared         = '0;
    cleared[turn_q] = sent || (masked && fires);
  end

  assign held_o = wants_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      wants_q   <= '0;
      pending_q <= '0;
      waiting_q <= '0;
      fired_q   <= '0;
      turn_q    <= '0;
      fired_o   <= '0;
      for (int q = 0; q < QUEUES; q++) done_q[q] <= '0;
    end else begin
      wants_q   <= still | wanted;
      waiting_q <= waiting;
      if (masked && fires) pending_q[turn_q] <= 1'b1;
      if (sent) begin
        pending_q[turn_q] <= 1'b0;
        fired_q[turn_q]   <= 1'b1;
        fired_o           <= fired_o + 64'd1;
      end
      if (!sends || room) turn_q <= turn_q == VectorBits'(QUEUES) ? '0 : turn_q + 1'b1;
      if (done_valid_i) done_q[done_queue_i] <= done_q[done_queue_i] + 32'd1;
      if (queue_set_i) done_q[queue_index_i] <= '0;
    end
    if (sent) last_q[turn_q] <= now_i;
  end

  always_ff @(posedge clk_i) begin
    if (!bus_rst_ni)      msi_valid_o <= 1'b0;
    else if (rst_ni && sent) msi_valid_o <= 1'b1;
    else if (msi_ready_i) msi_valid_o <= 1'b0;
    if (rst_ni && sent) begin
      msi_addr_o   <= {addr_q[turn_q], 2'b00};
      msi_data_o   <= data_q[turn_q];
      msi_vector_o <= turn_q;
    end
  end

  logic unused;
  assign unused = ^{axil_awaddr_i[1:0], axil_araddr_i[1:0]};

`ifdef FORMAL
  // One vector, any, is followed.
  logic                    begun_q, owed_q, fired_before_q, offered_q;
  logic [VectorBits-1:0]   some_q;
  logic [QUEUES:0][31:0]   set_q;                // moderation, as it stays
  logic [TIME_BITS-1:0]    now_q, fired_at_q, apart;
  logic [63:0]             addr_before_q;
  logic [31:0]             data_before_q, wait_q, away;
  logic                    ripe;
  initial begun_q = 1'b0;
  // It may fire, and the bus takes messages.
  assign ripe = msi_ready_i && !mask_all_i && !mask_q[some_q]
                && (pending_q[some_q]
                    || (wants_q[some_q] && (!fired_q[some_q]
                                            || now_i - last_q[some_q] >= apart)));
  assign apart = TIME_BITS'(set_q[some_q][15:0]) * TIME_BITS'(TICK);
  // Turns until its own.
  assign away  = some_q >= turn_q ? 32'(some_q) - 32'(turn_q)
                                  : 32'(some_q) + 32'(Vectors) - 32'(turn_q);
  always_ff @(posedge clk_i) begin
    begun_q       <= 1'b1;
    now_q         <= now_i;
    offered_q     <= bus_rst_ni && msi_valid_o && !msi_ready_i;
    addr_before_q <= msi_addr_o;
    data_before_q <= msi_data_o;
    if (!begun_q) begin
      some_q <= raise_vector_i;
      set_q  <= moderation_i;
    end
    if (!rst_ni) begin
      owed_q         <= 1'b0;
      fired_before_q <= 1'b0;
      wait_q         <= '0;
    end else begin
      wait_q <= ripe && !(sent && turn_q == some_q) ? wait_q + 32'd1 : '0;
      if (sent && turn_q == some_q) begin
        owed_q         <= 1'b0;
        fired_before_q <= 1'b1;
        fired_at_q     <= now_i;
      end
      if (wanted[some_q]) owed_q <= 1'b1;
    end
  end
  always_comb begin
    if (!begun_q) assume (!bus_rst_ni && !rst_ni && raise_vector_i < VectorBits'(Vectors));
    if (!bus_rst_ni || !table_rst_ni) assume (!rst_ni);
    if (begun_q) begin
      // Time goes on, and nobody changes the moderation.
      assume (now_i >= now_q && moderation_i == set_q);

      assert (some_q < VectorBits'(Vectors));
      if (bus_rst_ni && offered_q) begin
        assert (msi_valid_o && msi_addr_o == addr_before_q && msi_data_o == data_before_q);
      end
    end
    if (begun_q && rst_ni) begin
      assert (turn_q < VectorBits'(Vectors));
      // What was wanted is there until it fires, and nothing else is.
      assert (owed_q == (wants_q[some_q] || pending_q[some_q]));
      if (sent && turn_q == some_q) begin
        assert (owed_q && !mask_all_i && !mask_q[some_q]);
        // Without a count there is nothing but time that ends a wait.
        if (set_q[some_q][31:16] == '0 && fired_before_q) assert (now_i - fired_at_q >= apart);
      end
      // Sent in its turn.
      assert (wait_q + away < 32'(Vectors));

      assert (fired_before_q == fired_q[some_q]);
      if (fired_before_q) assert (fired_at_q == last_q[some_q] && now_q >= fired_at_q);
      if (pending_q[some_q] && fired_before_q && set_q[some_q][31:16] == '0) begin
        assert (now_i - fired_at_q >= apart);
      end
    end
  end
`endif

endmodule
