// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Asks for the gather lists of descriptors ahead of their turn, so that several are under way.
//
// Promise: descriptors leave in order, a clock after they came, sixteen of them with or without a list ahead of
// ipa_decode. A list is asked for once, of 1 to MaxGather entries that don't wrap around.
module ipa_list
  import ipa_card_pkg::*;
  import ipa_pkg::submission_t;
#(
  parameter  int unsigned QUEUES    = 8,
  localparam int unsigned QueueBits = $clog2(QUEUES)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // Descriptors, as they were read
  input  logic                 s_valid_i,
  output logic                 s_ready_o,
  input  submission_t          s_descriptor_i,
  input  logic                 s_error_i,
  input  logic [QueueBits-1:0] s_queue_i,
  input  logic [63:0]          s_addr_i,

  // Lists wanted
  output logic                 read_valid_o,
  input  logic                 read_ready_i,
  output logic [63:0]          read_addr_o,
  output logic [15:0]          read_len_o,

  output logic                 m_valid_o,
  input  logic                 m_ready_i,
  output submission_t          m_descriptor_o,
  output logic                 m_error_o,
  output logic [QueueBits-1:0] m_queue_o,
  output logic [63:0]          m_addr_o,
  output logic                 m_listed_o        // its list was asked for
);

  localparam logic [7:0] OpProcess = 8'd1;

  // Whatever else is wrong with it is told when the list is there, as far as it is told at all.
  logic        lists, room;
  logic [64:0] list_end;
  logic [4:0]  unused_count;
  assign read_addr_o  = s_descriptor_i.buffer;
  assign read_len_o   = {7'b0, s_descriptor_i.entries[4:0], 4'b0};
  assign list_end     = {1'b0, s_descriptor_i.buffer} + 65'(read_len_o);
  assign lists        = !s_error_i && s_descriptor_i.opcode == OpProcess
                        && s_descriptor_i.flags[7:1] == 7'd1 && s_descriptor_i.entries != '0
                        && s_descriptor_i.entries <= 16'(MaxGather)
                        && s_descriptor_i.buffer[3:0] == '0 && list_end <= {1'b1, 64'b0};
  assign read_valid_o = s_valid_i && lists && room;
  assign s_ready_o    = room && (!lists || read_ready_i);
  ipa_fifo #(.WIDTH($bits(submission_t) + QueueBits + 66), .DEPTH(16)) u_descriptors (
    .clk_i, .rst_ni, .in_valid_i(s_valid_i && (!lists || read_ready_i)), .in_ready_o(room),
    .in_data_i({s_descriptor_i, s_error_i, s_queue_i, s_addr_i, lists}), .out_valid_o(m_valid_o),
    .out_ready_i(m_ready_i),
    .out_data_o({m_descriptor_o, m_error_o, m_queue_o, m_addr_o, m_listed_o}),
    .count_o(unused_count)
  );

endmodule
