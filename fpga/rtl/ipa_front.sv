// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// What the host sees of the card: BAR 0's registers and BAR 2's doorbell pages, both generated from
// fpga/regs/ipa.rdl, and BAR 4's MSI-X table (ipa_msix), behind one AXI4-Lite port whose highest two
// address bits tell which of them. And its interrupts.
//
// The management tells what registers say of its work (face_t), and is told when one of those is
// written that it has to act upon (asked_t). What the data path counts, registers say themselves.
//
// Promise: one access at a time, done three clocks after it was asked for (a look at the table waits
// for messages in front of it, too); addresses behind which there is nothing read as zero and take no
// write, with SLVERR.
module ipa_front
  import ipa_card_pkg::*;
  import ipa_registers_pkg::*;
  import ipa_doorbells_pkg::*;
#(
  parameter  int unsigned QUEUES     = 8,        // what ipa.rdl is generated for
  localparam int unsigned QueueBits  = $clog2(QUEUES),
  localparam int unsigned VectorBits = $clog2(QUEUES + 1)
) (
  input  logic         clk_i,
  input  logic         bus_rst_ni,
  input  logic         rst_ni,
  input  logic         table_rst_ni,             // see ipa_msix

  // Highest two bits of an address: 0 is BAR 0, 1 is BAR 2, 2 is BAR 4
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

  // Management
  input  face_t        face_i,
  output asked_t       asked_o,                  // for a clock
  output settings_t    settings_o,
  output logic [QUEUES:0][31:0] moderation_o,

  // Interrupts (see ipa_msix)
  input  logic         mask_all_i,
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

  // A key that the host has left (see ipa_mailbox)
  output logic         key_there_o,
  output logic         key_256_o,
  output logic [255:0] key_o,                    // octet 0 in bits 255 to 248
  output logic [31:0]  salt_o,                   // octet 0 in bits 31 to 24
  input  logic         key_take_i,

  // Data path
  input  counters_t    counters_i,
  output logic [31:0]  tail_o [QUEUES],
  input  logic         queue_set_i,
  input  logic [QueueBits-1:0] queue_index_i,
  input  logic         done_valid_i,
  input  logic [QueueBits-1:0] done_queue_i
);

  // -- Which of them ------------------------------------------------------------------------------
  localparam int unsigned Blocks = 3;
  logic [Blocks-1:0]       awready, wready, bvalid, arready, rvalid, write_to, read_from;
  logic [Blocks-1:0][1:0]  bresp, rresp;
  logic [Blocks-1:0][31:0] rdata;
  // The last one's, where there is none.
  always_comb begin
    write_to = '0;
    read_from = '0;
    for (int b = 0; b < Blocks; b++) begin
      write_to[b]  = axil_awaddr_i[19:18] == 2'(b);
      read_from[b] = axil_araddr_i[19:18] == 2'(b);
    end
    write_to[Blocks-1]  |= axil_awaddr_i[19];
    read_from[Blocks-1] |= axil_araddr_i[19];
  end
  // An address is taken together with its data, so that both go to the same block.
  logic writes;
  assign writes         = axil_awvalid_i && axil_wvalid_i && |(write_to & awready & wready);
  assign axil_awready_o = writes;
  assign axil_wready_o  = writes;
  assign axil_arready_o = |(read_from & arready);
  assign axil_bvalid_o  = |bvalid;
  assign axil_rvalid_o  = |rvalid;
  logic [Blocks-1:0] bready, rready;             // the highest one answers first
  always_comb begin
    bready       = '0;
    rready       = '0;
    axil_bresp_o = '0;
    axil_rresp_o = '0;
    axil_rdata_o = '0;
    for (int b = 0; b < Blocks; b++) begin
      if (bvalid[b]) begin
        bready       = '0;
        bready[b]    = axil_bready_i;
        axil_bresp_o = bresp[b];
      end
      if (rvalid[b]) begin
        rready       = '0;
        rready[b]    = axil_rready_i;
        axil_rresp_o = rresp[b];
        axil_rdata_o = rdata[b];
      end
    end
  end

  // Beyond what a block decodes there is nothing, not the same again.
  localparam logic [14:0] Nowhere = 15'h7ffc;
  logic [14:0] waddr, raddr;
  assign waddr = axil_awaddr_i[17:15] == '0 ? axil_awaddr_i[14:0] : Nowhere;
  assign raddr = axil_araddr_i[17:15] == '0 ? axil_araddr_i[14:0] : Nowhere;

  // -- Registers ----------------------------------------------------------------------------------
  localparam logic [63:0] BuildId = 64'h00_31_2e_30_20_6c_74_72;  // "rtl 0.1"
  // Bits of identity.SUITES: AES-128-GCM and AES-256-GCM.
  localparam logic [63:0] Suites  = 64'h110;

  ipa_registers__in_t  told;
  ipa_registers__out_t set;
  ipa_registers u_registers (
    .clk(clk_i), .rst_n(rst_ni), .s_axil_awready(awready[0]),
    .s_axil_awvalid(writes && write_to[0]), .s_axil_awaddr(waddr),
    .s_axil_awprot('0), .s_axil_wready(wready[0]), .s_axil_wvalid(writes && write_to[0]),
    .s_axil_wdata(axil_wdata_i), .s_axil_wstrb(axil_wstrb_i),
    .s_axil_bready(bready[0]), .s_axil_bvalid(bvalid[0]), .s_axil_bresp(bresp[0]),
    .s_axil_arready(arready[0]), .s_axil_arvalid(axil_arvalid_i && read_from[0]),
    .s_axil_araddr(raddr), .s_axil_arprot('0),
    .s_axil_rready(rready[0]), .s_axil_rvalid(rvalid[0]), .s_axil_rdata(rdata[0]),
    .s_axil_rresp(rresp[0]), .hwif_in(told), .hwif_out(set)
  );

  logic        fatal, mailbox_zeroise;
  logic [1:0]  mailbox_state;
  logic [63:0] fired;
  assign fatal = face_i.error_cause != '0;
  always_comb begin
    told = '0;
    told.identity.BUILD.value.next  = BuildId;
    told.identity.SUITES.value.next = Suites;
    told.identity.FEATURES.ESN.next                = 1'b1;
    told.identity.FEATURES.TUNNEL.next             = 1'b1;
    told.identity.FEATURES.TRANSPORT.next          = 1'b1;
    told.identity.FEATURES.OUTER_HEADERS.next      = 1'b1;
    told.identity.FEATURES.OUTER_IPV6.next         = 1'b1;
    told.identity.FEATURES.UDP_ENCAPSULATION.next  = 1'b1;
    told.identity.FEATURES.EXPLICIT_NUMBERING.next = 1'b1;
    told.identity.FEATURES.LIFETIMES.next          = 1'b1;
    told.identity.FEATURES.MODERATION.next         = 1'b1;
    told.identity.FEATURES.PRIORITIES.next         = 1'b1;
    told.identity.FEATURES.KEY_MAILBOX.next        = 1'b1;
    told.identity.FEATURES.SLEEPS.next             = face_i.sleeps[0];
    told.identity.FEATURES.INLINE.next             = face_i.ports != '0;
    told.identity.PORTS.value.next                 = face_i.ports;
    told.identity.MAX_RULES.value.next = face_i.ports != '0 ? 32'(MaxRules) : '0;
    told.identity.MAX_SAS.value.next    = face_i.max_sas;
    told.identity.MAX_QUEUES.value.next = face_i.max_queues;
    told.identity.MAX_DEPTH.value.next  = MaxDepth;
    told.identity.MAX_PACKET.value.next = MaxPacket;
    told.identity.MAX_WINDOW.value.next = MaxWindow;
    told.identity.MAX_GATHER.value.next = MaxGather;
    told.identity.VECTORS.value.next    = face_i.max_queues + 32'd1;
    told.identity.TIME.value.next       = face_i.now;
    told.identity.FUNCTIONS.value.next  = 32'd1;
    told.control.STATUS.READY.next      = set.control.CONTROL.ENABLE.value && !fatal;
    told.control.STATUS.FATAL.next      = fatal;
    told.control.HEARTBEAT.value.next   = face_i.heartbeat;
    told.control.ERROR_CAUSE.cause.next = face_i.error_cause;
    told.control.ERROR_INFO.value.next  = face_i.error_info;
    told.control.ERRORS_LOGGED.value.next        = face_i.errors_logged;
    told.statistics.SEALED.value.next            = counters_i.sealed;
    told.statistics.SEALED_BYTES.value.next      = counters_i.sealed_bytes;
    told.statistics.OPENED.value.next            = counters_i.opened;
    told.statistics.OPENED_BYTES.value.next      = counters_i.opened_bytes;
    told.statistics.ERRORS.value.next            = counters_i.errors + face_i.errors;
    told.statistics.DMA_FAULTS.value.next        = counters_i.dma_faults + face_i.dma_faults;
    told.statistics.BAD_DESCRIPTORS.value.next   = counters_i.bad_descriptors
                                                   + face_i.bad_descriptors;
    told.statistics.SAS.value.next               = 64'(face_i.sas);
    told.statistics.INTERRUPTS.value.next        = fired;
    told.event_queue.DROPPED.value.next          = face_i.events_dropped;
    told.key_mailbox.STATUS.state.next               = 32'(mailbox_state);
    told.key_mailbox.SALT.value.hwclr                = mailbox_zeroise;
    for (int w = 0; w < 8; w++) told.key_mailbox.KEY[w].value.hwclr = mailbox_zeroise;
  end

  assign asked_o = '{
    wake:       set.control.WAKE.value.swmod,
    resets:     set.control.CONTROL.RESET.value,
    zeroise:    set.control.CONTROL.ZEROISE.value,
    detach:     set.control.CONTROL.DETACH.value,
    admin_tail: set.admin_queue.TAIL.value.swmod
  };
  assign settings_o = '{
    enable:            {31'b0, set.control.CONTROL.ENABLE.value},
    admin_submissions: {set.admin_queue.SUBMISSION_BASE.high.value,
                        set.admin_queue.SUBMISSION_BASE.low.value},
    admin_completions: {set.admin_queue.COMPLETION_BASE.high.value,
                        set.admin_queue.COMPLETION_BASE.low.value},
    admin_depth:       set.admin_queue.DEPTH.value.value,
    admin_tail:        32'(set.admin_queue.TAIL.value.value),
    events_base:       {set.event_queue.BASE.high.value, set.event_queue.BASE.low.value},
    events_depth:      set.event_queue.DEPTH.value.value,
    events_head:       32'(set.event_queue.HEAD.value.value)
  };
  for (genvar v = 0; v <= QUEUES; v++) begin : gen_vector
    assign moderation_o[v] = {set.interrupt.MODERATION[v].COUNT.value,
                              set.interrupt.MODERATION[v].TIME.value};
  end

  // -- Keys ---------------------------------------------------------------------------------------
  logic [8:0] key_written;
  for (genvar w = 0; w < 8; w++) begin : gen_key
    assign key_written[w]           = set.key_mailbox.KEY[w].value.swmod;
    assign key_o[32*(7 - w) +: 32] = swap32(set.key_mailbox.KEY[w].value.value);
  end
  assign key_written[8] = set.key_mailbox.SALT.value.swmod;
  assign salt_o         = swap32(set.key_mailbox.SALT.value.value);
  ipa_mailbox u_mailbox (
    .clk_i, .rst_ni, .written_i(key_written), .load_128_i(set.key_mailbox.COMMAND.LOAD_128.value),
    .load_256_i(set.key_mailbox.COMMAND.LOAD_256.value),
    .clear_i(set.key_mailbox.COMMAND.CLEAR.value || set.control.CONTROL.ZEROISE.value
             || set.control.CONTROL.DETACH.value),
    .zeroise_o(mailbox_zeroise), .state_o(mailbox_state), .loaded_o(key_there_o),
    .is_256_o(key_256_o), .take_i(key_take_i)
  );

  // -- Doorbells ----------------------------------------------------------------------------------
  ipa_doorbells__in_t  bells_told;
  ipa_doorbells__out_t bells;
  logic [31:0]         head [QUEUES];
  logic [QUEUES-1:0]   arm, disarm;
  ipa_doorbells u_doorbells (
    .clk(clk_i), .rst_n(rst_ni), .s_axil_awready(awready[1]),
    .s_axil_awvalid(writes && write_to[1]), .s_axil_awaddr(waddr),
    .s_axil_awprot('0), .s_axil_wready(wready[1]), .s_axil_wvalid(writes && write_to[1]),
    .s_axil_wdata(axil_wdata_i), .s_axil_wstrb(axil_wstrb_i), .s_axil_bready(bready[1]),
    .s_axil_bvalid(bvalid[1]), .s_axil_bresp(bresp[1]), .s_axil_arready(arready[1]),
    .s_axil_arvalid(axil_arvalid_i && read_from[1]), .s_axil_araddr(raddr),
    .s_axil_arprot('0), .s_axil_rready(rready[1]), .s_axil_rvalid(rvalid[1]),
    .s_axil_rdata(rdata[1]), .s_axil_rresp(rresp[1]), .hwif_in(bells_told), .hwif_out(bells)
  );
  for (genvar q = 0; q < QUEUES; q++) begin : gen_bell
    assign tail_o[q] = bells.doorbell[q].TAIL.value.value;
    assign head[q]   = bells.doorbell[q].HEAD.value.value;
    assign arm[q]    = bells.doorbell[q].ARM.value.value;
    assign bells_told.doorbell[q].ARM.value.hwclr = disarm[q];
  end

  // -- Interrupts ---------------------------------------------------------------------------------
  // Beyond the table, but for what its own block knows.
  logic [13:0] table_waddr, table_raddr;
  assign table_waddr = waddr[14] ? 14'h3ffc : waddr[13:0];
  assign table_raddr = raddr[14] ? 14'h3ffc : raddr[13:0];
  assign wready[2] = awready[2];
  ipa_msix #(.QUEUES(QUEUES)) u_msix (
    .clk_i, .bus_rst_ni, .rst_ni, .table_rst_ni, .now_i(face_i.now), .mask_all_i,
    .moderation_i(moderation_o),
    .axil_awvalid_i(writes && write_to[2]), .axil_awready_o(awready[2]),
    .axil_awaddr_i(table_waddr), .axil_wdata_i, .axil_wstrb_i, .axil_bvalid_o(bvalid[2]),
    .axil_bready_i(bready[2]), .axil_bresp_o(bresp[2]),
    .axil_arvalid_i(axil_arvalid_i && read_from[2]), .axil_arready_o(arready[2]),
    .axil_araddr_i(table_raddr), .axil_rvalid_o(rvalid[2]), .axil_rready_i(rready[2]),
    .axil_rdata_o(rdata[2]), .axil_rresp_o(rresp[2]), .queue_set_i, .queue_index_i, .done_valid_i,
    .done_queue_i, .head_i(head), .arm_i(arm), .disarm_o(disarm), .raise_valid_i, .raise_vector_i,
    .raise_count_i, .raise_wants_i, .msi_valid_o, .msi_ready_i, .msi_addr_o, .msi_data_o,
    .msi_vector_o, .held_o, .fired_o(fired)
  );

  logic unused;
  assign unused = ^{bells, set.event_queue.HEAD.value.swmod, set.control.WAKE.value.value,
                    face_i.sleeps};

endmodule
