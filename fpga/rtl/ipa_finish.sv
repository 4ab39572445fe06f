// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Completes operations: waits until their octets are written, counts, and writes the completion with
// its phase.
//
// Promise: completions in order, each after its packet's last write has been acknowledged; four
// clocks each. It is told (completed_*) when the completion itself has been acknowledged; none is posted
// while ACKS of them are not. What is offered to the host stays until it is taken.
module ipa_finish
  import ipa_card_pkg::*;
  import ipa_pkg::completion_t;
#(
  parameter  int unsigned SAS       = 4096,
  parameter  int unsigned QUEUES    = 8,
  parameter  int unsigned ACKS      = 128,       // open completions, a power of two
  localparam int unsigned SaBits    = $clog2(SAS),
  localparam int unsigned QueueBits = $clog2(QUEUES)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // Management
  input  logic                 set_valid_i,
  input  logic [QueueBits-1:0] set_queue_i,
  input  logic [63:0]          set_base_i,
  input  logic [3:0]           set_depth_i,      // log2
  input  logic                 state_valid_i,
  output logic                 state_ready_o,
  input  logic                 state_write_i,
  input  logic [SaBits-1:0]    state_index_i,
  input  refused_t             state_i,
  output refused_t             state_o,          // a clock after it was asked for

  input  logic                 done_valid_i,
  output logic                 done_ready_o,
  input  done_t                done_i,
  input  logic                 result_valid_i,
  output logic                 result_ready_o,
  input  logic                 result_error_i,

  output logic [SaBits-1:0]    uncount_index_o,
  output logic [14:0]          uncount_octets_o,
  output logic                 uncount_outbound_valid_o,
  input  logic                 uncount_outbound_ready_i,
  output logic                 uncount_inbound_valid_o,
  input  logic                 uncount_inbound_ready_i,

  // To the ports, instead of a completion
  output logic                 port_valid_o,
  input  logic                 port_ready_i,
  output logic                 port_good_o,
  output status_t              port_status_o,
  output done_t                port_done_o,

  // To the host: 32 octets each
  output logic                 post_valid_o,
  input  logic                 post_ready_i,
  output logic [63:0]          post_addr_o,
  output completion_t          post_data_o,
  output logic [31:0]          post_sa_o,        // whose it is
  output logic [31:0]          post_generation_o,
  input  logic                 ack_valid_i,
  input  logic                 ack_error_i,

  output logic                 completed_valid_o,
  output logic [QueueBits-1:0] completed_queue_o,
  output logic                 event_valid_o,
  input  logic                 event_ready_i,
  output card_event_t          event_o,

  // Counters
  input  logic                 bad_doorbell_i,
  output logic [63:0]          sealed_o,
  output logic [63:0]          sealed_bytes_o,
  output logic [63:0]          opened_o,
  output logic [63:0]          opened_bytes_o,
  output logic [63:0]          errors_o,
  output logic [63:0]          dma_faults_o,
  output logic [63:0]          bad_descriptors_o,
  input  logic [QueueBits-1:0] query_queue_i,
  output logic [31:0]          query_completed_o,
  output logic [31:0]          query_errors_o,
  output logic [63:0]          query_bytes_o
);

  // fpga_regs::admin::ErrorKind
  localparam logic [15:0] KindDma        = 16'd1;
  localparam logic [15:0] KindDescriptor = 16'd3;

  typedef enum logic [2:0] {Idle, Load, Post, Uncount, Tell} state_e;
  state_e state_q;

  job_t                 job;
  logic [QueueBits-1:0] queue_index;
  done_t                done_q;
  logic                 failed_q;
  assign job         = done_q.job;
  assign queue_index = QueueBits'(job.queue_index);

  // -- Refused packets ----------------------------------------------------------------------------
  refused_t          stored, refused, store_data;
  logic              store;
  logic [SaBits-1:0] sa, store_index;
  assign sa            = SaBits'(job.sa_index);
  assign state_ready_o = state_q == Idle;
  assign state_o       = stored;
  ram_1w1r #(.WIDTH($bits(refused_t)), .DEPTH(SAS)) u_refused (
    .clk_i, .write_i(store), .waddr_i(store_index), .wdata_i(store_data),
    .raddr_i(state_valid_i ? state_index_i : SaBits'(done_i.job.sa_index)), .rdata_o(stored)
  );

  // Taken at once, so that whoever waits to hand over the next one is free to be asked.
  logic    go, good, fault, malformed;
  status_t status;
  assign go        = state_q == Idle && !state_valid_i && done_valid_i
                     && (!done_i.writes || result_valid_i);
  assign status    = failed_q ? DmaFault : done_q.status;
  assign good      = status inside {Ok, OkSoftExpired};
  assign fault     = status == DmaFault;
  assign malformed = status inside {BadDescriptor, BadGather};
  always_comb begin
    refused = stored;
    unique case (status)
      BadIcv:           refused.bad_icv  = stored.bad_icv + 64'd1;
      Replayed, TooOld: refused.replayed = stored.replayed + 64'd1;
      default:          refused.errors   = stored.errors + 64'd1;
    endcase
  end

  // -- Completions --------------------------------------------------------------------------------
  logic [63:0] base_q [QUEUES];
  logic [3:0]  depth_q [QUEUES];
  logic [31:0] made_q [QUEUES], errors_q [QUEUES];
  logic [63:0] bytes_q [QUEUES];
  logic [31:0] made, slot;
  logic        phase, post, ported, leaves, ended, acks_room, ack_there;
  assign made  = made_q[queue_index];
  assign slot  = made & ((32'd1 << depth_q[queue_index]) - 32'd1);
  assign phase = !made[{1'b0, depth_q[queue_index]}];

  assign port_valid_o      = state_q == Post && job.port;
  assign port_good_o       = good;
  assign port_status_o     = status;
  assign port_done_o       = done_q;
  assign ported            = port_valid_o && port_ready_i;
  assign leaves            = post || ported;
  assign post_valid_o      = state_q == Post && !job.port && acks_room;
  assign post_addr_o       = base_q[queue_index] + {27'b0, slot, 5'b0};
  assign post_sa_o         = job.sa_index;
  assign post_generation_o = job.sa_generation;
  assign post              = post_valid_o && post_ready_i;
  always_comb begin
    post_data_o                 = '0;
    post_data_o.slot            = job.slot;
    post_data_o.slot_generation = job.slot_generation;
    post_data_o.sequence_number = good ? done_q.number : '0;
    post_data_o.offset          = good ? done_q.offset : job.offset;
    post_data_o.next_header     = good ? done_q.next_header : '0;
    post_data_o.len             = good ? 32'(done_q.len) : '0;
    post_data_o.position        = made[15:0];
    post_data_o.status          = status;
    post_data_o.phase           = {phase, 7'b0};
  end

  logic [QueueBits-1:0] ack_queue;
  logic [63:0]          ack_addr;
  logic [$clog2(ACKS):0] acks;
  ipa_fifo #(.WIDTH(QueueBits + 64), .DEPTH(ACKS)) u_acks (
    .clk_i, .rst_ni, .in_valid_i(post), .in_ready_o(acks_room),
    .in_data_i({queue_index, post_addr_o}), .out_valid_o(ack_there), .out_ready_i(ack_valid_i),
    .out_data_o({ack_queue, ack_addr}), .count_o(acks)
  );
  assign completed_valid_o = ack_valid_i && ack_there;
  assign completed_queue_o = ack_queue;

  // A completion that could not be written is one more line of the error log.
  logic        lost_q;
  logic [63:0] lost_addr_q;
  logic [QueueBits-1:0] lost_queue_q;
  logic        notes;
  assign notes         = !job.port && (fault || malformed);
  assign event_valid_o = lost_q || (state_q == Tell && notes);
  always_comb begin
    event_o       = '0;
    event_o.kind  = Note;
    event_o.what  = malformed ? KindDescriptor : KindDma;
    event_o.index = 32'(queue_index);
    event_o.value = malformed ? 64'(job.opcode) : job.buffer;
    if (lost_q) begin
      event_o.what  = KindDma;
      event_o.index = 32'(lost_queue_q);
      event_o.value = lost_addr_q;
    end
  end

  assign ended          = state_q == Tell && (!notes || (event_ready_i && !lost_q));
  assign done_ready_o   = go;
  assign result_ready_o = go && done_i.writes;
  assign uncount_index_o          = sa;
  assign uncount_octets_o         = done_q.counted;
  assign uncount_outbound_valid_o = state_q == Uncount && job.sa.outbound;
  assign uncount_inbound_valid_o  = state_q == Uncount && !job.sa.outbound;

  always_comb begin
    store       = state_q == Load && !good && job.sa_found;
    store_index = sa;
    store_data  = refused;
    if (state_q == Idle) begin
      store       = state_valid_i && state_write_i;
      store_index = state_index_i;
      store_data  = state_i;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle:    if (go) state_q <= Load;
        Load:    state_q <= failed_q ? Uncount : Post;
        Uncount: begin
          if (job.sa.outbound ? uncount_outbound_ready_i : uncount_inbound_ready_i) state_q <= Post;
        end
        Post:    if (leaves) state_q <= Tell;
        Tell:    if (ended) state_q <= Idle;
        default: state_q <= Idle;
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    if (go) begin
      done_q   <= done_i;
      failed_q <= done_i.writes && result_error_i;
    end
  end

  // -- Counters -----------------------------------------------------------------------------------
  logic lost;
  assign lost = ack_valid_i && ack_there && ack_error_i;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      sealed_o          <= '0;
      sealed_bytes_o    <= '0;
      opened_o          <= '0;
      opened_bytes_o    <= '0;
      errors_o          <= '0;
      dma_faults_o      <= '0;
      bad_descriptors_o <= '0;
      lost_q            <= 1'b0;
      for (int q = 0; q < QUEUES; q++) begin
        made_q[q]   <= '0;
        errors_q[q] <= '0;
        bytes_q[q]  <= '0;
        base_q[q]   <= '0;
        depth_q[q]  <= '0;
      end
    end else begin
      if (post) begin
        made_q[queue_index]  <= made + 32'd1;
        bytes_q[queue_index] <= bytes_q[queue_index] + 64'(job.octets);
        if (!good) errors_q[queue_index] <= errors_q[queue_index] + 32'd1;
      end
      if (leaves) begin
        if (good && job.sa.outbound) begin
          sealed_o       <= sealed_o + 64'd1;
          sealed_bytes_o <= sealed_bytes_o + 64'(done_q.counted);
        end
        if (good && !job.sa.outbound && !(job.port && done_q.next_header == ProtocolNone)) begin
          opened_o       <= opened_o + 64'd1;
          opened_bytes_o <= opened_bytes_o + 64'(done_q.counted);
        end
        if (!good && !job.unfetched) errors_o <= errors_o + 64'd1;
      end
      dma_faults_o      <= dma_faults_o + 64'(post && fault) + 64'(lost);
      bad_descriptors_o <= bad_descriptors_o + 64'(post && malformed) + 64'(bad_doorbell_i);
      if (lost) lost_q <= 1'b1;
      else if (lost_q && event_ready_i) lost_q <= 1'b0;
      if (set_valid_i) begin
        base_q[set_queue_i]   <= set_base_i;
        depth_q[set_queue_i]  <= set_depth_i;
        made_q[set_queue_i]   <= '0;
        errors_q[set_queue_i] <= '0;
        bytes_q[set_queue_i]  <= '0;
      end
    end
    if (lost) begin
      lost_addr_q  <= ack_addr;
      lost_queue_q <= ack_queue;
    end
  end
  assign query_completed_o = made_q[query_queue_i];
  assign query_errors_o    = errors_q[query_queue_i];
  assign query_bytes_o     = bytes_q[query_queue_i];

  logic unused;
  assign unused = ^{job, done_q.writes, acks};

`ifdef FORMAL
  // Each completion that the host has taken is remembered until its acknowledgement, and what is offered
  // stays.
  logic                  started_q = 1'b0, offered_q;
  logic [$clog2(ACKS):0] open_q;
  logic [63:0]           addr_q;
  completion_t           entry_q;
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    offered_q <= rst_ni && post_valid_o && !post_ready_i;
    addr_q    <= post_addr_o;
    entry_q   <= post_data_o;
    if (!rst_ni) open_q <= '0;
    else open_q <= open_q + ($clog2(ACKS) + 1)'(post_valid_o && post_ready_i)
                   - ($clog2(ACKS) + 1)'(ack_valid_i && open_q != 0);
  end
  always_ff @(posedge clk_i) begin
    if (!started_q) begin
      assume (!rst_ni);
    end else if (rst_ni) begin
      // A queue is set up while it rests.
      if (set_valid_i) assume (state_q == Idle);
      assert (open_q == acks && open_q <= ($clog2(ACKS) + 1)'(ACKS));
      assert (completed_valid_o == (ack_valid_i && open_q != 0));
      if (offered_q) assert (post_valid_o && post_addr_o == addr_q && post_data_o == entry_q);
    end
  end
`endif

endmodule
