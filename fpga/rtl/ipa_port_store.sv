// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Frames of a port, kept until all of each is there, so that what one says of its length can be compared
// with what it has.
//
// Promise: a beat a clock in and out, unchanged and in order, at the earliest four clocks after it came. What
// is known of a frame is offered once, a clock after its last beat. Of a frame that is longer than the card
// takes the first MaxPacket octets are kept, and it counts as damaged.
module ipa_port_store
  import ipa_card_pkg::*;
#(
  parameter int unsigned SKIP  = 0,              // octets in front of the IP packet
  parameter int unsigned BEATS = 512             // that are stored: two of the longest frames
) (
  input  logic                    clk_i,
  input  logic                    rst_ni,

  input  logic                    s_valid_i,
  output logic                    s_ready_o,
  input  logic                    s_last_i,
  input  logic                    s_error_i,     // with the last beat
  input  logic [6:0]              s_bytes_i,     // of the beat, 1 to 64
  input  logic [511:0]            s_data_i,

  output logic                    m_valid_o,
  input  logic                    m_ready_i,
  output logic                    m_last_o,
  output logic [6:0]              m_bytes_o,
  output logic [511:0]            m_data_o,

  output logic                    frame_valid_o,
  input  logic                    frame_ready_i,
  output stored_t                 frame_o
);

  localparam int unsigned MaxBeats = MaxPacket / 64;
  localparam int unsigned First    = 8 * (64 - SKIP);      // bits of the head in the first beat
  localparam int unsigned Frames   = 8;
  // Those of all frames that are offered, and of the one that comes.
  localparam int unsigned Heads    = 2 * Frames;

  if (BEATS < 2 * MaxBeats) begin : gen_too_few
    $fatal(1, "a frame of MaxPacket octets must fit twice");
  end

  logic         beats_ready, frames_ready, take, cut, ends, swallow_q;
  logic [8:0]   beat_q;                          // number of the beat in its frame
  // Its rest is not stored.
  assign cut       = beat_q == 9'(MaxBeats - 1) && !s_last_i;
  assign ends      = s_last_i || cut;
  assign s_ready_o = swallow_q || (beats_ready && (!ends || frames_ready));
  assign take      = s_valid_i && s_ready_o && !swallow_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      beat_q    <= '0;
      swallow_q <= 1'b0;
    end else begin
      if (take) beat_q <= ends ? '0 : beat_q + 9'd1;
      if (take && cut) swallow_q <= 1'b1;
      else if (s_valid_i && s_last_i) swallow_q <= 1'b0;
    end
  end

  // Heads go to their place as they come: nothing of them moves while no frame begins.
  logic [First-1:0]              first [Heads];
  logic [8*HeadOctets-First-1:0] second [Heads];
  logic [15:0]                   kind [Heads];
  logic [$clog2(Heads)-1:0]      write_q, read_q;
  always_ff @(posedge clk_i) begin
    if (take && beat_q == 9'd0) begin
      first[write_q]  <= s_data_i[511:8*SKIP];
      second[write_q] <= '0;
      kind[write_q]   <= swap16(s_data_i[111:96]);
    end else if (take && beat_q == 9'd1) begin
      second[write_q] <= s_data_i[8*HeadOctets-First-1:0];
    end
    if (!rst_ni) begin
      write_q <= '0;
      read_q  <= '0;
    end else begin
      if (take && ends)                   write_q <= write_q + 1'b1;
      if (frame_valid_o && frame_ready_i) read_q <= read_q + 1'b1;
    end
  end
  assign frame_o.head = {second[read_q], first[read_q]};
  assign frame_o.kind = kind[read_q];

  ipa_fifo_ram #(.WIDTH(520), .DEPTH(BEATS)) u_beats (
    .clk_i, .rst_ni, .in_valid_i(s_valid_i && !swallow_q && (!ends || frames_ready)),
    .in_ready_o(beats_ready), .in_data_i({ends, s_bytes_i, s_data_i}), .out_valid_o(m_valid_o),
    .out_ready_i(m_ready_i), .out_data_o({m_last_o, m_bytes_o, m_data_o})
  );
  logic [14:0] octets;
  logic [$clog2(Frames):0] unused_frames;
  assign octets = 15'({beat_q, 6'b0}) + 15'(s_bytes_i);
  ipa_fifo #(.WIDTH(16), .DEPTH(Frames)) u_frames (
    .clk_i, .rst_ni, .in_valid_i(take && ends), .in_ready_o(frames_ready),
    .in_data_i({s_error_i || cut, octets}), .out_valid_o(frame_valid_o),
    .out_ready_i(frame_ready_i), .out_data_o({frame_o.damaged, frame_o.octets}),
    .count_o(unused_frames)
  );

endmodule
