// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// The card's data path: from a doorbell to a completion, with no processor in between
// (docs/device-abi.md, docs/rtl.md).
//
//   doorbells > fetch > list > decode > plan > stream > AES-GCM > collect > verdict > write > finish
//
// The management (a processor of the card, which runs the admin and event queues) sets queues up,
// installs keys and SAs, reads and writes what of them moves, and is told of events.
//
// Promise: operations complete in the order in which their descriptors were read. What is asked of
// the host is within the rings that were set, and the buffers that descriptors name. With LANES of
// four and 250 clocks of latency at the host, a packet of 1420 octets in 24 clocks, of one SA or many;
// one of 64 in five to seal it, in six to open it.
module ipa_card
  import ipa_card_pkg::*;
  import ipa_pkg::submission_t;
  import ipa_pkg::completion_t;
#(
  parameter  int unsigned LANES     = 4,
  parameter  int unsigned SAS       = 4096,
  parameter  int unsigned QUEUES    = 8,
  parameter  int unsigned RULES     = MaxRules,  // of inline mode, of each direction
  parameter  int unsigned BEATS     = 512,       // of packets on their way in, and on their way out
  localparam int unsigned SaBits    = $clog2(SAS),
  localparam int unsigned QueueBits = $clog2(QUEUES),
  localparam int unsigned VectorBits = $clog2(QUEUES + 1),
  localparam int unsigned RuleBits  = $clog2(RULES)
) (
  input  logic         clk_i,
  input  logic         bus_rst_ni,               // power-on: the bus has nothing to say
  input  logic         rst_ni,                   // of the function; at any time
  input  logic         table_rst_ni,             // with rst_ni: of the MSI-X table, too
  input  logic         run_i,

  // Registers, doorbell pages, MSI-X table (see ipa_front)
  input  logic         axil_awvalid_i,
  output logic         axil_awready_o,
  input  logic [19:0]  axil_awaddr_i,
  input  logic         axil_wvalid_i,
  output logic         axil_wready_o,
  input  logic [31:0]  axil_wdata_i,
  input  logic [3:0]   axil_wstrb_i,
  output logic         axil_bvalid_o,
  input  logic         axil_bready_i,
  output logic [1:0]   axil_bresp_o,
  input  logic         axil_arvalid_i,
  output logic         axil_arready_o,
  input  logic [19:0]  axil_araddr_i,
  output logic         axil_rvalid_o,
  input  logic         axil_rready_i,
  output logic [31:0]  axil_rdata_o,
  output logic [1:0]   axil_rresp_o,
  input  face_t        face_i,
  output asked_t       asked_o,
  output settings_t    settings_o,
  output logic [QUEUES:0][31:0] moderation_o,

  // Interrupts (see ipa_msix)
  input  logic         msix_mask_i,              // of the capability
  input  logic         raise_valid_i,
  input  logic [VectorBits-1:0] raise_vector_i,
  input  logic [15:0]  raise_count_i,
  input  logic         raise_wants_i,
  output logic         msi_valid_o,
  input  logic         msi_ready_i,
  output logic [63:0]  msi_addr_o,
  output logic [31:0]  msi_data_o,
  output logic [VectorBits-1:0] msi_vector_o,
  output logic [QUEUES:0] held_o,

  // Reads of the host's memory (see ipa_dma_read)
  output logic         read_valid_o,
  input  logic         read_ready_i,
  output logic [63:0]  read_addr_o,
  output logic [9:0]   read_len_o,
  output logic [9:0]   read_tag_o,
  input  logic [4:0]   read_patience_i,          // see ipa_bus_guard
  input  logic         line_valid_i,
  input  logic [9:0]   line_tag_i,
  input  logic [511:0] line_data_i,
  input  logic         line_last_i,
  input  logic         line_error_i,

  // Writes of packets (see ipa_dma_write)
  output logic         write_valid_o,
  input  logic         write_ready_i,
  output logic [63:0]  write_addr_o,
  output logic [511:0] write_data_o,
  output logic [63:0]  write_strobe_o,
  output logic         write_last_o,
  input  logic         write_ack_i,
  input  logic         write_error_i,

  // Writes of completions, 32 octets each: the last eight must not be seen before the others
  output logic         post_valid_o,
  input  logic         post_ready_i,
  output logic [63:0]  post_addr_o,
  output completion_t  post_data_o,
  output logic [31:0]  post_sa_o,                // whose it is, for the management
  output logic [31:0]  post_generation_o,
  input  logic         post_ack_i,
  input  logic         post_error_i,

  // A completion has been written
  output logic         completed_valid_o,
  output logic [7:0]   completed_queue_o,

  // Management: queues
  input  logic         queue_valid_i,
  input  logic [7:0]   queue_index_i,
  input  logic         queue_on_i,
  input  logic [63:0]  queue_submissions_i,
  input  logic [63:0]  queue_completions_i,
  input  logic [3:0]   queue_depth_i,            // log2
  input  logic [1:0]   queue_priority_i,
  output logic [31:0]  queue_head_o,             // of queue_index_i: descriptors asked for
  output logic [31:0]  queue_completed_o,
  output logic [31:0]  queue_errors_o,
  output logic [63:0]  queue_bytes_o,
  output logic         queue_failed_o,

  // Management: the table of SAs, which a reset clears: not before key_ready_o was high behind it
  input  logic         sa_write_i,
  input  logic [31:0]  sa_index_i,               // for keys and state, too
  input  logic         sa_valid_i,
  input  sa_config_t   sa_config_i,
  input  ends_t        sa_ends_i,

  // Management: keys, out of the host's mailbox or its own. They can't be read.
  input  logic         key_valid_i,
  output logic         key_ready_o,
  input  logic         key_erase_i,
  input  logic         key_mailbox_i,            // a key that is there, of the length that it has
  input  logic         key_256_i,
  input  logic [255:0] key_i,
  input  logic [31:0]  salt_i,
  output logic         key_done_o,

  // Management: what moves of an SA. Answered a clock after it was taken.
  input  logic         state_valid_i,
  output logic         state_ready_o,
  input  logic         state_write_i,
  input  logic [1:0]   state_what_i,             // outbound_t, inbound_t, window's word, refused_t
  input  logic [4:0]   state_word_i,
  input  logic [415:0] state_i,
  output logic [415:0] state_o,

  output logic         event_valid_o,
  input  logic         event_ready_i,
  output card_event_t  event_o,

  // Ports (see ipa_ports)
  input  logic         ports_run_i,
  input  logic         wire_in_valid_i,
  output logic         wire_in_ready_o,
  input  logic         wire_in_last_i,
  input  logic         wire_in_error_i,
  input  logic [6:0]   wire_in_bytes_i,
  input  logic [511:0] wire_in_data_i,
  output logic         wire_out_valid_o,
  input  logic         wire_out_ready_i,
  output logic         wire_out_last_o,
  output logic [6:0]   wire_out_bytes_o,
  output logic [511:0] wire_out_data_o,
  input  logic         host_in_valid_i,
  output logic         host_in_ready_o,
  input  logic         host_in_last_i,
  input  logic [6:0]   host_in_bytes_i,
  input  logic [511:0] host_in_data_i,
  output logic         host_out_valid_o,
  input  logic         host_out_ready_i,
  output logic         host_out_last_o,
  output logic [6:0]   host_out_bytes_o,
  output logic [511:0] host_out_data_o,
  input  logic         exception_in_valid_i,
  output logic         exception_in_ready_o,
  input  logic         exception_in_last_i,
  input  logic [6:0]   exception_in_bytes_i,
  input  logic [511:0] exception_in_data_i,
  output logic         exception_out_valid_o,
  input  logic         exception_out_ready_i,
  output logic         exception_out_last_o,
  output logic         exception_out_unknown_o,
  output logic [6:0]   exception_out_bytes_o,
  output logic [511:0] exception_out_data_o,

  // Management: ports; ways as the table of SAs not before key_ready_o was high behind a reset
  input  logic         spi_valid_i,              // of the SA sa_index_i
  output logic         spi_ready_o,
  input  logic         spi_add_i,
  input  logic [31:0]  spi_i,
  output logic         spi_done_o,
  output logic         spi_full_o,
  input  logic [47:0]  mac_i,
  input  logic [15:0]  mtu_i,
  input  logic         way_write_i,              // of the SA sa_index_i
  input  logic         way_known_i,
  input  logic [47:0]  way_mac_i,
  input  logic         rule_write_i,
  input  logic         rule_inbound_i,
  input  logic [RuleBits-1:0] rule_index_i,
  input  rule_t        rule_i,
  input  logic [RuleBits:0] outbound_rules_i,
  input  logic [RuleBits:0] inbound_rules_i,
  output port_counts_t wire_counts_o,
  output path_counts_t path_counts_o,
  output logic         ports_idle_o,

  // A packet of a port is done, for the management
  output logic         passed_valid_o,
  output logic [7:0]   passed_status_o,
  output logic [31:0]  passed_sa_o,
  output logic [31:0]  passed_generation_o,

  output logic [63:0]  sealed_o,
  output logic [63:0]  sealed_bytes_o,
  output logic [63:0]  opened_o,
  output logic [63:0]  opened_bytes_o,
  output logic [63:0]  errors_o,
  output logic [63:0]  dma_faults_o,
  output logic [63:0]  bad_descriptors_o,
  output logic         idle_o                    // nothing is under way
);

  localparam int unsigned DescriptorTags = 64;
  localparam int unsigned PacketTags     = 64;
  localparam int unsigned ListTags       = 32;
  // What a read is of, above its own tag.
  localparam logic [1:0]  Packets = 2'd0, Lists = 2'd1, Descriptors = 2'd2;

  // -- The bus, made reliable ---------------------------------------------------------------------
  logic        read_valid, read_ready, line_valid, line_last, line_error;
  logic [7:0]  read_tag, line_tag;
  logic        write_line_valid, write_line_ready, write_line_last, write_void, write_ack;
  logic [63:0] write_line_strobe;
  logic        post_valid, post_ready, post_ack;
  ipa_bus_guard #(.TAG_BITS(8)) u_guard (
    .clk_i, .bus_rst_ni, .rst_ni, .patience_i(read_patience_i), .read_valid_i(read_valid),
    .read_ready_o(read_ready), .read_tag_i(read_tag), .read_valid_o, .read_ready_i, .read_tag_o,
    .line_valid_i, .line_tag_i, .line_last_i, .line_error_i, .line_valid_o(line_valid),
    .line_tag_o(line_tag), .line_last_o(line_last), .line_error_o(line_error),
    .write_valid_i(write_line_valid), .write_ready_o(write_line_ready),
    .write_last_i(write_line_last), .write_valid_o, .write_ready_i, .write_last_o,
    .write_void_o(write_void), .write_ack_i, .write_ack_o(write_ack), .post_valid_i(post_valid),
    .post_ready_o(post_ready), .post_valid_o, .post_ready_i, .post_ack_i, .post_ack_o(post_ack)
  );
  assign write_strobe_o = write_void ? '0 : write_line_strobe;

  // -- Registers, doorbells, interrupts -----------------------------------------------------------
  logic [31:0] tail [QUEUES];
  counters_t   counters;
  assign counters = '{
    sealed: sealed_o, sealed_bytes: sealed_bytes_o, opened: opened_o, opened_bytes: opened_bytes_o,
    errors: errors_o, dma_faults: dma_faults_o, bad_descriptors: bad_descriptors_o
  };
  // A key on its way from the host to its memory, past the management.
  logic         from_mailbox, mailbox_there, mailbox_256, keys_ready;
  logic [255:0] mailbox_key;
  logic [31:0]  mailbox_salt;
  assign from_mailbox = key_mailbox_i && !key_erase_i;
  assign key_ready_o  = keys_ready && (!from_mailbox || mailbox_there);
  logic                 completed;
  logic [QueueBits-1:0] completed_queue, queue_index;
  ipa_front #(.QUEUES(QUEUES)) u_front (
    .clk_i, .bus_rst_ni, .rst_ni, .table_rst_ni, .axil_awvalid_i, .axil_awready_o,
    .axil_awaddr_i, .axil_wvalid_i, .axil_wready_o, .axil_wdata_i, .axil_wstrb_i,
    .axil_bvalid_o, .axil_bready_i, .axil_bresp_o, .axil_arvalid_i, .axil_arready_o,
    .axil_araddr_i, .axil_rvalid_o, .axil_rready_i, .axil_rdata_o, .axil_rresp_o, .face_i,
    .asked_o, .settings_o, .moderation_o, .mask_all_i(msix_mask_i), .raise_valid_i,
    .raise_vector_i, .raise_count_i, .raise_wants_i, .msi_valid_o, .msi_ready_i, .msi_addr_o,
    .msi_data_o, .msi_vector_o, .held_o, .key_there_o(mailbox_there), .key_256_o(mailbox_256),
    .key_o(mailbox_key), .salt_o(mailbox_salt), .key_take_i(from_mailbox && key_valid_i &&
    key_ready_o), .counters_i(counters), .tail_o(tail), .queue_set_i(queue_valid_i),
    .queue_index_i(queue_index), .done_valid_i(completed), .done_queue_i(completed_queue)
  );

  // -- Descriptors --------------------------------------------------------------------------------
  logic                 fetch_valid, fetch_ready, fail_valid, fail_ready;
  logic [QueueBits-1:0] fetch_queue, fail_queue;
  logic [63:0]          fetch_addr;
  logic [31:0]          fail_tail;
  logic [31:0]          head [QUEUES];
  logic [QUEUES-1:0]    failed;
  assign queue_index    = QueueBits'(queue_index_i);
  assign queue_head_o   = head[queue_index];
  assign queue_failed_o = failed[queue_index];
  ipa_fetch #(.QUEUES(QUEUES)) u_fetch (
    .clk_i, .rst_ni, .run_i, .set_valid_i(queue_valid_i), .set_queue_i(queue_index),
    .set_on_i(queue_on_i), .set_base_i(queue_submissions_i), .set_depth_i(queue_depth_i),
    .set_priority_i(queue_priority_i), .tail_i(tail), .fetch_valid_o(fetch_valid),
    .fetch_ready_i(fetch_ready), .fetch_queue_o(fetch_queue), .fetch_addr_o(fetch_addr),
    .fail_valid_o(fail_valid), .fail_ready_i(fail_ready), .fail_queue_o(fail_queue),
    .fail_tail_o(fail_tail), .head_o(head), .failed_o(failed)
  );

  // Which queue a descriptor on its way in is of.
  logic                 place_in_ready, place_valid, place_ready, d_req_ready;
  logic [QueueBits-1:0] place_queue;
  logic [63:0]          place_addr;
  logic [6:0]           unused_places;
  assign fetch_ready = place_in_ready && d_req_ready;
  ipa_fifo #(.WIDTH(QueueBits + 64), .DEPTH(64)) u_places (
    .clk_i, .rst_ni, .in_valid_i(fetch_valid && d_req_ready), .in_ready_o(place_in_ready),
    .in_data_i({fetch_queue, fetch_addr}), .out_valid_o(place_valid), .out_ready_i(place_ready),
    .out_data_o({place_queue, place_addr}), .count_o(unused_places)
  );

  logic         d_valid, d_ready, d_last, d_error, d_burst_valid, d_burst_ready, list_ready;
  logic [511:0] d_data;
  logic [6:0]   unused_d_bytes;
  logic [63:0]  d_burst_addr;
  logic [9:0]   d_burst_len;
  logic [$clog2(DescriptorTags)-1:0] d_burst_tag;
  ipa_dma_read #(.TAGS(DescriptorTags)) u_read_descriptors (
    .clk_i, .rst_ni, .req_valid_i(fetch_valid && place_in_ready), .req_ready_o(d_req_ready),
    .req_addr_i(fetch_addr), .req_len_i(16'd64), .req_lead_i(1'b0), .m_valid_o(d_valid),
    .m_ready_i(d_ready),
    .m_data_o(d_data), .m_bytes_o(unused_d_bytes), .m_last_o(d_last), .m_error_o(d_error),
    .burst_valid_o(d_burst_valid), .burst_ready_i(d_burst_ready), .burst_addr_o(d_burst_addr),
    .burst_len_o(d_burst_len), .burst_tag_o(d_burst_tag),
    .line_valid_i(line_valid && line_tag[7:6] == Descriptors),
    .line_tag_i($clog2(DescriptorTags)'(line_tag)),
    .line_data_i, .line_last_i(line_last), .line_error_i(line_error)
  );
  assign d_ready     = list_ready && place_valid;
  assign place_ready = list_ready && d_valid;

  // -- Gather lists -------------------------------------------------------------------------------
  logic                 l_req_valid, l_req_ready, l_valid, l_ready, unused_l_last, l_error;
  logic                 l_burst_valid, l_burst_ready, s_valid, s_ready, s_error, s_listed;
  logic [63:0]          l_req_addr, l_burst_addr, s_addr;
  logic [15:0]          l_req_len;
  logic [9:0]           l_burst_len;
  logic [511:0]         l_data, s_descriptor;
  logic [6:0]           unused_l_bytes;
  logic [QueueBits-1:0] s_queue;
  logic [$clog2(ListTags)-1:0] l_burst_tag;
  ipa_list #(.QUEUES(QUEUES)) u_list (
    .clk_i, .rst_ni, .s_valid_i(d_valid && place_valid), .s_ready_o(list_ready),
    .s_descriptor_i(d_data), .s_error_i(d_error), .s_queue_i(place_queue), .s_addr_i(place_addr),
    .read_valid_o(l_req_valid), .read_ready_i(l_req_ready), .read_addr_o(l_req_addr),
    .read_len_o(l_req_len), .m_valid_o(s_valid), .m_ready_i(s_ready), .m_descriptor_o(s_descriptor),
    .m_error_o(s_error), .m_queue_o(s_queue), .m_addr_o(s_addr), .m_listed_o(s_listed)
  );
  ipa_dma_read #(.TAGS(ListTags)) u_read_lists (
    .clk_i, .rst_ni, .req_valid_i(l_req_valid), .req_ready_o(l_req_ready), .req_addr_i(l_req_addr),
    .req_len_i(l_req_len), .req_lead_i(1'b0), .m_valid_o(l_valid), .m_ready_i(l_ready),
    .m_data_o(l_data), .m_bytes_o(unused_l_bytes), .m_last_o(unused_l_last), .m_error_o(l_error),
    .burst_valid_o(l_burst_valid), .burst_ready_i(l_burst_ready), .burst_addr_o(l_burst_addr),
    .burst_len_o(l_burst_len), .burst_tag_o(l_burst_tag),
    .line_valid_i(line_valid && line_tag[7:6] == Lists),
    .line_tag_i($clog2(ListTags)'(line_tag)), .line_data_i, .line_last_i(line_last),
    .line_error_i(line_error)
  );

  logic        job_in_valid, job_in_ready, p_req_valid, p_req_ready, p_req_lead, p_req_more;
  logic        piece_write, slot_free, more_ready;
  piece_t      piece;
  logic [$clog2(GatherSlots*MaxGather)-1:0] piece_index;
  logic [63:0] p_req_addr;
  logic [15:0] p_req_len;
  job_t        job_in;
  ipa_decode #(.SAS(SAS)) u_decode (
    .clk_i, .rst_ni, .sa_write_i, .sa_index_i(SaBits'(sa_index_i)), .sa_valid_i, .sa_config_i,
    .s_valid_i(s_valid), .s_ready_o(s_ready), .s_descriptor_i(s_descriptor),
    .s_error_i(s_error), .s_queue_i(8'(s_queue)), .s_addr_i(s_addr), .s_listed_i(s_listed),
    .list_valid_i(l_valid), .list_ready_o(l_ready), .list_i(l_data), .list_error_i(l_error),
    .piece_write_o(piece_write), .piece_index_o(piece_index), .piece_o(piece),
    .slot_free_i(slot_free), .read_valid_o(p_req_valid),
    .read_ready_i(p_req_ready && more_ready), .read_addr_o(p_req_addr),
    .read_len_o(p_req_len), .read_lead_o(p_req_lead), .read_more_o(p_req_more),
    .job_valid_o(job_in_valid), .job_ready_i(job_in_ready), .job_o(job_in)
  );
  job_t job, port_job, all_job;
  logic job_valid, job_ready, all_job_valid, all_job_ready, port_job_valid, port_job_ready;
  // As many as there are packets on their way in.
  logic [6:0] unused_jobs;
  ipa_fifo #(.WIDTH($bits(job_t)), .DEPTH(64)) u_jobs (
    .clk_i, .rst_ni, .in_valid_i(all_job_valid), .in_ready_o(all_job_ready), .in_data_i(all_job),
    .out_valid_o(job_valid), .out_ready_i(job_ready), .out_data_o(job), .count_o(unused_jobs)
  );

  // -- Packets in ---------------------------------------------------------------------------------
  logic         r_valid, r_ready, r_last, r_error, r_more, more_valid;
  logic         h_valid, h_ready, h_last, h_error, p_valid, p_ready, p_last, p_error;
  logic         p_burst_valid, p_burst_ready, port_valid, port_ready, port_last;
  logic [511:0] r_data, h_data, p_data, port_data;
  logic [6:0]   r_bytes;
  logic [7:0]   unused_more;
  logic [63:0]  p_burst_addr;
  logic [9:0]   p_burst_len;
  logic [$clog2(PacketTags)-1:0] p_burst_tag;
  ipa_dma_read #(.TAGS(PacketTags), .LEAD(LeadOctets)) u_read_packets (
    .clk_i, .rst_ni, .req_valid_i(p_req_valid && more_ready), .req_ready_o(p_req_ready),
    .req_addr_i(p_req_addr), .req_len_i(p_req_len), .req_lead_i(p_req_lead), .m_valid_o(r_valid),
    .m_ready_i(r_ready), .m_data_o(r_data), .m_bytes_o(r_bytes), .m_last_o(r_last),
    .m_error_o(r_error),
    .burst_valid_o(p_burst_valid), .burst_ready_i(p_burst_ready), .burst_addr_o(p_burst_addr),
    .burst_len_o(p_burst_len), .burst_tag_o(p_burst_tag),
    .line_valid_i(line_valid && line_tag[7:6] == Packets),
    .line_tag_i($clog2(PacketTags)'(line_tag)),
    .line_data_i, .line_last_i(line_last), .line_error_i(line_error)
  );
  // Runs of one packet, in a buffer that is in pieces.
  ipa_fifo #(.WIDTH(1), .DEPTH(128)) u_more (
    .clk_i, .rst_ni, .in_valid_i(p_req_valid && p_req_ready), .in_ready_o(more_ready),
    .in_data_i(p_req_more), .out_valid_o(more_valid), .out_ready_i(r_valid && r_ready && r_last),
    .out_data_o(r_more), .count_o(unused_more)
  );
  dma_join u_join (
    .clk_i, .rst_ni, .s_valid_i(r_valid), .s_ready_o(r_ready), .s_data_i(r_data),
    .s_bytes_i(r_bytes), .s_last_i(r_last), .s_error_i(r_error), .s_more_i(r_more),
    .m_valid_o(h_valid), .m_ready_i(h_ready), .m_data_o(h_data), .m_last_o(h_last),
    .m_error_o(h_error)
  );
  ipa_job_merge u_merge (
    .clk_i, .rst_ni, .host_job_valid_i(job_in_valid), .host_job_ready_o(job_in_ready),
    .host_job_i(job_in), .host_valid_i(h_valid), .host_ready_o(h_ready), .host_last_i(h_last),
    .host_error_i(h_error), .host_data_i(h_data), .port_job_valid_i(port_job_valid),
    .port_job_ready_o(port_job_ready), .port_job_i(port_job), .port_valid_i(port_valid),
    .port_ready_o(port_ready), .port_last_i(port_last), .port_data_i(port_data),
    .job_valid_o(all_job_valid), .job_ready_i(all_job_ready), .job_o(all_job),
    .m_valid_o(p_valid), .m_ready_i(p_ready), .m_last_o(p_last), .m_error_o(p_error),
    .m_data_o(p_data)
  );

  // Descriptors first: they are few, and without them there are no packets. Then lists, likewise.
  assign read_valid    = d_burst_valid || l_burst_valid || p_burst_valid;
  assign d_burst_ready = read_ready;
  assign l_burst_ready = read_ready && !d_burst_valid;
  assign p_burst_ready = read_ready && !d_burst_valid && !l_burst_valid;
  always_comb begin
    read_addr_o = p_burst_addr;
    read_len_o  = p_burst_len;
    read_tag    = {Packets, 6'(p_burst_tag)};
    if (d_burst_valid) begin
      read_addr_o = d_burst_addr;
      read_len_o  = d_burst_len;
      read_tag    = {Descriptors, 6'(d_burst_tag)};
    end else if (l_burst_valid) begin
      read_addr_o = l_burst_addr;
      read_len_o  = l_burst_len;
      read_tag    = {Lists, 6'(l_burst_tag)};
    end
  end

  logic         data_in_ready, data_valid, data_ready;
  logic         head_in_ready, head_valid, head_ready, head_error;
  logic [511:0] data;
  logic [8*HeadOctets-1:0] head_in, packet_head;
  logic [3:0]   unused_heads;
  logic [1:0]   beat_q;                          // of the packet: 0, 1, or later
  logic [383:0] head0_q;
  logic [511:0] head1_q;
  assign p_ready = data_in_ready && (!p_last || head_in_ready);
  always_comb begin
    head_in = {head1_q, head0_q};
    if (beat_q == 2'd0)      head_in = {512'b0, p_data[511:128]};
    else if (beat_q == 2'd1) head_in = {p_data, head0_q};
  end
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      beat_q <= '0;
    end else if (p_valid && p_ready) begin
      if (p_last)              beat_q <= '0;
      else if (beat_q != 2'd2) beat_q <= beat_q + 2'd1;
    end
    if (p_valid && p_ready && beat_q == 2'd0) head0_q <= p_data[511:128];
    if (p_valid && p_ready && beat_q == 2'd1) head1_q <= p_data;
  end
  ipa_fifo_ram #(.WIDTH(512), .DEPTH(BEATS)) u_data (
    .clk_i, .rst_ni, .in_valid_i(p_valid && (!p_last || head_in_ready)), .in_ready_o(data_in_ready),
    .in_data_i(p_data), .out_valid_o(data_valid), .out_ready_i(data_ready), .out_data_o(data)
  );
  ipa_fifo #(.WIDTH(1 + 8 * HeadOctets), .DEPTH(8)) u_heads (
    .clk_i, .rst_ni, .in_valid_i(p_valid && p_last && data_in_ready), .in_ready_o(head_in_ready),
    .in_data_i({p_error, head_in}), .out_valid_o(head_valid), .out_ready_i(head_ready),
    .out_data_o({head_error, packet_head}), .count_o(unused_heads)
  );

  // -- State, for the management ------------------------------------------------------------------
  logic      outbound_ready, inbound_ready, refused_ready;
  outbound_t outbound;
  inbound_t  inbound;
  refused_t  refused;
  logic [63:0] word;
  logic [1:0]  what_q;
  always_comb begin
    unique case (state_what_i)
      2'd0:       state_ready_o = outbound_ready;
      2'd1, 2'd2: state_ready_o = inbound_ready;
      default:    state_ready_o = refused_ready;
    endcase
    unique case (what_q)
      2'd0:    state_o = 416'(outbound);
      2'd1:    state_o = 416'(inbound);
      2'd2:    state_o = 416'(word);
      default: state_o = 416'(refused);
    endcase
  end
  always_ff @(posedge clk_i) what_q <= state_what_i;

  // -- The plan -----------------------------------------------------------------------------------
  logic              uncount_ov, uncount_or, uncount_iv, uncount_ir;
  logic [SaBits-1:0] uncount_index;
  logic [14:0]       uncount_octets;
  logic              top_write, word_write;
  logic [SaBits-1:0] top_index;
  logic [63:0]       top, word_data;
  logic [SaBits+4:0] word_index;
  logic   order_in_valid, order_in_ready, cut_in_valid, cut_in_ready;
  logic   frame_in_valid, frame_in_ready;
  order_t order_in, order;
  cut_t   cut_in, cut;
  frame_t frame_in, frame;
  logic        plan_event_valid, plan_event_ready;
  card_event_t plan_event;
  ipa_esp_plan #(.SAS(SAS)) u_plan (
    .clk_i, .rst_ni, .state_valid_i(state_valid_i && state_what_i == 2'd0),
    .state_ready_o(outbound_ready), .state_write_i, .state_index_i(SaBits'(sa_index_i)),
    .state_i(outbound_t'(state_i[$bits(outbound_t)-1:0])), .state_o(outbound),
    .uncount_valid_i(uncount_ov), .uncount_ready_o(uncount_or), .uncount_index_i(uncount_index),
    .uncount_octets_i(uncount_octets), .ends_write_i(sa_write_i),
    .ends_index_i(SaBits'(sa_index_i)), .ends_i(sa_ends_i), .top_write_i(top_write),
    .top_index_i(top_index), .top_i(top),
    .word_write_i(word_write), .word_index_i(word_index), .word_i(word_data),
    .job_valid_i(job_valid), .job_ready_o(job_ready), .job_i(job), .head_valid_i(head_valid),
    .head_ready_o(head_ready), .head_error_i(head_error), .head_i(packet_head),
    .order_valid_o(order_in_valid), .order_ready_i(order_in_ready), .order_o(order_in),
    .cut_valid_o(cut_in_valid), .cut_ready_i(cut_in_ready), .cut_o(cut_in),
    .frame_valid_o(frame_in_valid), .frame_ready_i(frame_in_ready), .frame_o(frame_in),
    .event_valid_o(plan_event_valid), .event_ready_i(plan_event_ready), .event_o(plan_event)
  );

  logic order_valid, order_ready, cut_valid, cut_ready, frame_valid, frame_ready;
  logic [5:0] unused_orders;
  logic [4:0] unused_cuts, unused_frames;
  ipa_fifo #(.WIDTH($bits(order_t)), .DEPTH(32)) u_orders (
    .clk_i, .rst_ni, .in_valid_i(order_in_valid), .in_ready_o(order_in_ready), .in_data_i(order_in),
    .out_valid_o(order_valid), .out_ready_i(order_ready), .out_data_o(order),
    .count_o(unused_orders)
  );
  ipa_fifo #(.WIDTH($bits(cut_t)), .DEPTH(16)) u_cuts (
    .clk_i, .rst_ni, .in_valid_i(cut_in_valid), .in_ready_o(cut_in_ready), .in_data_i(cut_in),
    .out_valid_o(cut_valid), .out_ready_i(cut_ready), .out_data_o(cut), .count_o(unused_cuts)
  );
  ipa_fifo #(.WIDTH($bits(frame_t)), .DEPTH(16)) u_frames (
    .clk_i, .rst_ni, .in_valid_i(frame_in_valid), .in_ready_o(frame_in_ready), .in_data_i(frame_in),
    .out_valid_o(frame_valid), .out_ready_i(frame_ready), .out_data_o(frame),
    .count_o(unused_frames)
  );

  // -- The engine ---------------------------------------------------------------------------------
  logic              g_valid, g_ready, g_first, g_last, g_seal;
  logic [SaBits-1:0] g_sa;
  logic [127:0]      g_aad;
  logic [4:0]        g_aad_bytes;
  logic [6:0]        g_bytes;
  logic [511:0]      g_data;
  logic way_in_valid, way_in_ready, way_in_seal, way_valid, way_ready, way_seal;
  logic icv_in_valid, icv_in_ready, icv_valid, icv_ready;
  logic [127:0] icv_in, icv;
  logic [6:0]   unused_ways, unused_icvs;
  ipa_esp_stream #(.SAS(SAS)) u_stream (
    .clk_i, .rst_ni, .cut_valid_i(cut_valid), .cut_ready_o(cut_ready), .cut_i(cut),
    .frame_valid_i(frame_valid), .frame_ready_o(frame_ready), .frame_i(frame),
    .data_valid_i(data_valid), .data_ready_o(data_ready), .data_i(data), .m_valid_o(g_valid),
    .m_ready_i(g_ready), .m_first_o(g_first), .m_last_o(g_last), .m_seal_o(g_seal), .m_sa_o(g_sa),
    .m_aad_o(g_aad), .m_aad_bytes_o(g_aad_bytes), .m_bytes_o(g_bytes), .m_data_o(g_data),
    .way_valid_o(way_in_valid), .way_ready_i(way_in_ready), .way_seal_o(way_in_seal),
    .icv_valid_o(icv_in_valid), .icv_ready_i(icv_in_ready), .icv_o(icv_in)
  );
  ipa_fifo #(.WIDTH(1), .DEPTH(64)) u_ways (
    .clk_i, .rst_ni, .in_valid_i(way_in_valid), .in_ready_o(way_in_ready), .in_data_i(way_in_seal),
    .out_valid_o(way_valid), .out_ready_i(way_ready), .out_data_o(way_seal), .count_o(unused_ways)
  );
  ipa_fifo #(.WIDTH(128), .DEPTH(64)) u_icvs (
    .clk_i, .rst_ni, .in_valid_i(icv_in_valid), .in_ready_o(icv_in_ready), .in_data_i(icv_in),
    .out_valid_o(icv_valid), .out_ready_i(icv_ready), .out_data_o(icv), .count_o(unused_icvs)
  );

  logic         c_valid, c_ready, c_last;
  logic [6:0]   c_bytes;
  logic [511:0] c_data;
  logic [127:0] c_tag;
  ipa_gcm #(.LANES(LANES), .SAS(SAS)) u_gcm (
    .clk_i, .rst_ni, .zeroise_i(1'b0), .key_valid_i(key_valid_i && key_ready_o),
    .key_ready_o(keys_ready), .key_erase_i, .key_sa_i(SaBits'(sa_index_i)),
    .key_256_i(from_mailbox ? mailbox_256 : key_256_i),
    .key_i(from_mailbox ? mailbox_key : key_i), .salt_i(from_mailbox ? mailbox_salt : salt_i),
    .key_done_o,
    .s_valid_i(g_valid), .s_ready_o(g_ready), .s_first_i(g_first), .s_last_i(g_last),
    .s_seal_i(g_seal), .s_sa_i(g_sa), .s_aad_i(g_aad), .s_aad_bytes_i(g_aad_bytes),
    .s_bytes_i(g_bytes), .s_data_i(g_data), .m_valid_o(c_valid), .m_ready_i(c_ready),
    .m_last_o(c_last), .m_bytes_o(c_bytes), .m_data_o(c_data), .m_tag_o(c_tag)
  );

  // -- Packets out --------------------------------------------------------------------------------
  logic         out_in_valid, out_in_ready, out_valid, out_ready;
  logic [511:0] out_in, out;
  logic         answer_in_valid, answer_in_ready, answer_valid, answer_ready;
  opened_t      answer_in, answer;
  logic [5:0]   unused_answers;
  ipa_esp_collect u_collect (
    .clk_i, .rst_ni, .way_valid_i(way_valid), .way_ready_o(way_ready), .way_seal_i(way_seal),
    .icv_valid_i(icv_valid), .icv_ready_o(icv_ready), .icv_i(icv), .s_valid_i(c_valid),
    .s_ready_o(c_ready), .s_last_i(c_last), .s_bytes_i(c_bytes), .s_data_i(c_data), .s_tag_i(c_tag),
    .m_valid_o(out_in_valid), .m_ready_i(out_in_ready), .m_data_o(out_in),
    .answer_valid_o(answer_in_valid), .answer_ready_i(answer_in_ready), .answer_o(answer_in)
  );
  ipa_fifo_ram #(.WIDTH(512), .DEPTH(BEATS)) u_out (
    .clk_i, .rst_ni, .in_valid_i(out_in_valid), .in_ready_o(out_in_ready), .in_data_i(out_in),
    .out_valid_o(out_valid), .out_ready_i(out_ready), .out_data_o(out)
  );
  ipa_fifo #(.WIDTH($bits(opened_t)), .DEPTH(32)) u_answers (
    .clk_i, .rst_ni, .in_valid_i(answer_in_valid), .in_ready_o(answer_in_ready),
    .in_data_i(answer_in), .out_valid_o(answer_valid), .out_ready_i(answer_ready),
    .out_data_o(answer), .count_o(unused_answers)
  );

  logic   done_in_valid, done_in_ready, done_valid, done_ready;
  done_t  done_in, done;
  logic   write_in_valid, write_in_ready, plain_valid, plain_ready, write_valid, write_ready;
  write_t write_in, plain, write;
  logic   front_in_valid, front_in_ready, front_valid, front_ready;
  logic [8*HeadOctets-1:0] front_in, front;
  logic [6:0] unused_dones;
  logic [4:0] unused_writes;
  logic [2:0] unused_fronts;
  logic        verdict_event_valid, verdict_event_ready;
  card_event_t verdict_event;
  ipa_esp_verdict #(.SAS(SAS)) u_verdict (
    .clk_i, .rst_ni, .state_valid_i(state_valid_i && state_what_i inside {2'd1, 2'd2}),
    .state_ready_o(inbound_ready), .state_write_i, .state_is_word_i(state_what_i == 2'd2),
    .state_index_i(SaBits'(sa_index_i)), .state_word_i,
    .state_i(inbound_t'(state_i[$bits(inbound_t)-1:0])), .state_o(inbound), .word_o(word),
    .uncount_valid_i(uncount_iv), .uncount_ready_o(uncount_ir), .uncount_index_i(uncount_index),
    .uncount_octets_i(uncount_octets), .top_write_o(top_write), .top_index_o(top_index),
    .top_o(top), .word_write_o(word_write), .word_index_o(word_index), .word_data_o(word_data),
    .order_valid_i(order_valid), .order_ready_o(order_ready), .order_i(order),
    .answer_valid_i(answer_valid), .answer_ready_o(answer_ready), .answer_i(answer),
    .done_valid_o(done_in_valid), .done_ready_i(done_in_ready), .done_o(done_in),
    .write_valid_o(write_in_valid), .write_ready_i(write_in_ready), .write_o(write_in),
    .front_valid_o(front_in_valid), .front_ready_i(front_in_ready), .front_o(front_in),
    .event_valid_o(verdict_event_valid), .event_ready_i(verdict_event_ready),
    .event_o(verdict_event)
  );
  // As many as there are packets whose writes are not acknowledged yet.
  ipa_fifo #(.WIDTH($bits(done_t)), .DEPTH(64)) u_dones (
    .clk_i, .rst_ni, .in_valid_i(done_in_valid), .in_ready_o(done_in_ready), .in_data_i(done_in),
    .out_valid_o(done_valid), .out_ready_i(done_ready), .out_data_o(done), .count_o(unused_dones)
  );
  ipa_fifo #(.WIDTH($bits(write_t)), .DEPTH(16)) u_writes (
    .clk_i, .rst_ni, .in_valid_i(write_in_valid), .in_ready_o(write_in_ready),
    .in_data_i(write_in), .out_valid_o(plain_valid), .out_ready_i(plain_ready), .out_data_o(plain),
    .count_o(unused_writes)
  );
  ipa_scatter u_scatter (
    .clk_i, .rst_ni, .piece_write_i(piece_write), .piece_index_i(piece_index), .piece_i(piece),
    .s_valid_i(plain_valid), .s_ready_o(plain_ready), .s_write_i(plain), .m_valid_o(write_valid),
    .m_ready_i(write_ready), .m_write_o(write), .free_o(slot_free)
  );
  ipa_fifo #(.WIDTH(8 * HeadOctets), .DEPTH(4)) u_fronts (
    .clk_i, .rst_ni, .in_valid_i(front_in_valid), .in_ready_o(front_in_ready),
    .in_data_i(front_in), .out_valid_o(front_valid), .out_ready_i(front_ready), .out_data_o(front),
    .count_o(unused_fronts)
  );

  logic result_valid, result_ready, result_error, any_line_valid, line_of_port, line_ends;
  logic port_line_ready;
  assign write_line_valid = any_line_valid && !line_of_port;
  ipa_dma_write u_write (
    .clk_i, .rst_ni, .write_valid_i(write_valid), .write_ready_o(write_ready), .write_i(write),
    .data_valid_i(out_valid), .data_ready_o(out_ready), .data_i(out), .front_valid_i(front_valid),
    .front_ready_o(front_ready), .front_i(front), .line_valid_o(any_line_valid),
    .line_ready_i(line_of_port ? port_line_ready : write_line_ready), .line_addr_o(write_addr_o),
    .line_data_o(write_data_o), .line_strobe_o(write_line_strobe), .line_last_o(write_line_last),
    .line_port_o(line_of_port), .line_ends_o(line_ends), .ack_valid_i(write_ack),
    .ack_error_i(write_error_i), .result_valid_o(result_valid), .result_ready_i(result_ready),
    .result_error_o(result_error)
  );

  // -- Completions --------------------------------------------------------------------------------
  logic                 passed_valid, passed_ready, passed_good;
  status_t              passed_status;
  done_t                passed;
  logic                 finish_event_valid, finish_event_ready;
  card_event_t          finish_event;
  assign completed_valid_o = completed;
  assign completed_queue_o = 8'(completed_queue);
  ipa_finish #(.SAS(SAS), .QUEUES(QUEUES)) u_finish (
    .clk_i, .rst_ni, .set_valid_i(queue_valid_i), .set_queue_i(queue_index),
    .set_base_i(queue_completions_i), .set_depth_i(queue_depth_i),
    .state_valid_i(state_valid_i && state_what_i == 2'd3), .state_ready_o(refused_ready),
    .state_write_i, .state_index_i(SaBits'(sa_index_i)),
    .state_i(refused_t'(state_i[$bits(refused_t)-1:0])), .state_o(refused),
    .done_valid_i(done_valid), .done_ready_o(done_ready), .done_i(done),
    .result_valid_i(result_valid), .result_ready_o(result_ready), .result_error_i(result_error),
    .uncount_index_o(uncount_index), .uncount_octets_o(uncount_octets),
    .uncount_outbound_valid_o(uncount_ov), .uncount_outbound_ready_i(uncount_or),
    .uncount_inbound_valid_o(uncount_iv), .uncount_inbound_ready_i(uncount_ir),
    .port_valid_o(passed_valid), .port_ready_i(passed_ready), .port_good_o(passed_good),
    .port_status_o(passed_status), .port_done_o(passed),
    .post_valid_o(post_valid), .post_ready_i(post_ready), .post_addr_o, .post_data_o, .post_sa_o,
    .post_generation_o, .ack_valid_i(post_ack),
    .ack_error_i(post_error_i), .completed_valid_o(completed),
    .completed_queue_o(completed_queue),
    .event_valid_o(finish_event_valid), .event_ready_i(finish_event_ready), .event_o(finish_event),
    .bad_doorbell_i(fail_valid && fail_ready), .sealed_o, .sealed_bytes_o, .opened_o,
    .opened_bytes_o, .errors_o, .dma_faults_o, .bad_descriptors_o, .query_queue_i(queue_index),
    .query_completed_o(queue_completed_o), .query_errors_o(queue_errors_o),
    .query_bytes_o(queue_bytes_o)
  );

  // -- Ports --------------------------------------------------------------------------------------
  ipa_ports #(.SAS(SAS), .RULES(RULES)) u_ports (
    .clk_i, .rst_ni, .run_i(ports_run_i), .wire_in_valid_i, .wire_in_ready_o, .wire_in_last_i,
    .wire_in_error_i, .wire_in_bytes_i, .wire_in_data_i, .wire_out_valid_o, .wire_out_ready_i,
    .wire_out_last_o, .wire_out_bytes_o, .wire_out_data_o, .host_in_valid_i, .host_in_ready_o,
    .host_in_last_i, .host_in_bytes_i, .host_in_data_i, .host_out_valid_o, .host_out_ready_i,
    .host_out_last_o, .host_out_bytes_o, .host_out_data_o, .exception_in_valid_i,
    .exception_in_ready_o, .exception_in_last_i, .exception_in_bytes_i, .exception_in_data_i,
    .exception_out_valid_o, .exception_out_ready_i, .exception_out_last_o,
    .exception_out_unknown_o, .exception_out_bytes_o, .exception_out_data_o,
    .job_valid_o(port_job_valid), .job_ready_i(port_job_ready), .job_o(port_job),
    .data_valid_o(port_valid), .data_ready_i(port_ready), .data_last_o(port_last),
    .data_o(port_data), .line_valid_i(any_line_valid && line_of_port),
    .line_ready_o(port_line_ready), .line_number_i(write_addr_o[14:6]), .line_data_i(write_data_o),
    .line_strobe_i(write_line_strobe), .line_last_i(line_ends), .done_valid_i(passed_valid),
    .done_ready_o(passed_ready), .done_good_i(passed_good), .done_i(passed), .sa_write_i,
    .sa_index_i(SaBits'(sa_index_i)), .sa_valid_i, .sa_config_i, .spi_valid_i, .spi_ready_o,
    .spi_add_i, .spi_i, .spi_done_o, .spi_full_o, .mac_i, .mtu_i, .way_write_i, .way_known_i,
    .way_mac_i, .rule_write_i, .rule_inbound_i, .rule_index_i, .rule_i, .outbound_rules_i,
    .inbound_rules_i, .wire_counts_o, .path_counts_o, .idle_o(ports_idle_o)
  );
  assign passed_valid_o      = passed_valid && passed_ready;
  assign passed_status_o     = passed_status;
  assign passed_sa_o         = passed.job.sa_index;
  assign passed_generation_o = passed.job.sa_generation;

  // -- Events: one at a time ----------------------------------------------------------------------
  logic        plan_told_valid, plan_told_ready, verdict_told_valid, verdict_told_ready;
  card_event_t plan_told, verdict_told;
  logic [2:0]  unused_plan_told, unused_verdict_told;
  ipa_fifo #(.WIDTH($bits(card_event_t)), .DEPTH(4)) u_plan_events (
    .clk_i, .rst_ni, .in_valid_i(plan_event_valid), .in_ready_o(plan_event_ready),
    .in_data_i(plan_event), .out_valid_o(plan_told_valid), .out_ready_i(plan_told_ready),
    .out_data_o(plan_told), .count_o(unused_plan_told)
  );
  ipa_fifo #(.WIDTH($bits(card_event_t)), .DEPTH(4)) u_verdict_events (
    .clk_i, .rst_ni, .in_valid_i(verdict_event_valid), .in_ready_o(verdict_event_ready),
    .in_data_i(verdict_event), .out_valid_o(verdict_told_valid), .out_ready_i(verdict_told_ready),
    .out_data_o(verdict_told), .count_o(unused_verdict_told)
  );
  logic        event_in_valid, event_in_ready;
  card_event_t event_in;
  logic [4:0]  unused_events;
  always_comb begin
    event_in            = '0;
    event_in.kind       = QueueFailed;
    event_in.index      = 32'(fail_queue);
    event_in.value      = 64'(fail_tail);
    finish_event_ready  = 1'b0;
    verdict_told_ready = 1'b0;
    plan_told_ready    = 1'b0;
    fail_ready          = 1'b0;
    if (finish_event_valid) begin
      event_in           = finish_event;
      finish_event_ready = event_in_ready;
    end else if (verdict_told_valid) begin
      event_in            = verdict_told;
      verdict_told_ready = event_in_ready;
    end else if (plan_told_valid) begin
      event_in         = plan_told;
      plan_told_ready = event_in_ready;
    end else begin
      fail_ready = event_in_ready;
    end
  end
  assign event_in_valid = finish_event_valid || verdict_told_valid || plan_told_valid || fail_valid;
  ipa_fifo #(.WIDTH($bits(card_event_t)), .DEPTH(16)) u_events (
    .clk_i, .rst_ni, .in_valid_i(event_in_valid), .in_ready_o(event_in_ready),
    .in_data_i(event_in), .out_valid_o(event_valid_o), .out_ready_i(event_ready_i),
    .out_data_o(event_o), .count_o(unused_events)
  );

  logic unused;
  assign unused = ^{queue_index_i, sa_index_i, d_last, more_valid};

  // -- Whether anything is under way --------------------------------------------------------------
  logic [9:0] under_way_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) under_way_q <= '0;
    else begin
      under_way_q <= under_way_q + 10'(fetch_valid && fetch_ready) - 10'(completed)
                     + 10'(port_job_valid && port_job_ready) - 10'(passed_valid && passed_ready);
    end
  end
  assign idle_o = under_way_q == '0;

endmodule
