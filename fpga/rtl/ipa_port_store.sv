// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Frames of a port, kept until all of each is there, so that what one says of its length can be compared
// with what it has.
//
// Promise: a beat a clock in and out, unchanged and in order, at the earliest four clocks after it came. What
// is known of a frame is offered once, a clock after its last beat. Of a frame that is longer than the card
// takes the first LONGEST octets are kept, and it counts as damaged (proved, given ipa_fifo_ram, but for heads).
module ipa_port_store
  import ipa_card_pkg::*;
#(
  parameter int unsigned SKIP    = 0,            // octets in front of the IP packet
  parameter int unsigned LONGEST = MaxPacket,    // octets of a frame
  parameter int unsigned BEATS   = 512           // that are stored: two of the longest frames
) (
`ifdef FORMAL
  input  logic                    some_i,
`endif
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

  localparam int unsigned MaxBeats = LONGEST / 64;
  localparam int unsigned First    = 8 * (64 - SKIP);      // bits of the head in the first beat
  localparam int unsigned Frames   = 8;
  // Those of all frames that are offered, and of the one that comes.
  localparam int unsigned Heads    = 2 * Frames;

  if (BEATS < 2 * MaxBeats) begin : gen_too_few
    $fatal(1, "a frame of LONGEST octets must fit twice");
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

`ifdef FORMAL
  // Beats that came of the frame so far, without those that are too many.
  logic          started_q = 1'b0, held_q, last_q, error_q, taken, stored, told;
  logic [9:0]    beats_q;
  logic [511:0]  data_q;
  logic [6:0]    bytes_q;
  // One frame, any, is followed, from its last beat's coming: `ahead_q` frames are told before it.
  logic          inside_q, left_q, tells;
  logic [3:0]    ahead_q, open_q;
  logic [15:0]   followed_q;                     // whether it is damaged, and its octets
  assign taken  = s_valid_i && s_ready_o;
  assign stored = u_beats.in_valid_i && u_beats.in_ready_o;
  assign told   = u_frames.in_valid_i && u_frames.in_ready_o;
  assign tells  = frame_valid_o && frame_ready_i;
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    held_q    <= rst_ni && s_valid_i && !s_ready_o;
    {last_q, error_q, bytes_q, data_q} <= {s_last_i, s_error_i, s_bytes_i, s_data_i};
    if (!rst_ni) begin
      beats_q  <= '0;
      open_q   <= '0;
      inside_q <= 1'b0;
      left_q   <= 1'b0;
    end else begin
      if (taken) beats_q <= s_last_i ? '0 : beats_q + 10'(beats_q != 10'(MaxBeats));
      open_q <= open_q + 4'(told) - 4'(tells);
      if (some_i && told && !inside_q && !left_q) begin
        inside_q   <= 1'b1;
        ahead_q    <= open_q - 4'(tells);
        followed_q <= {!s_last_i || s_error_i, 15'(64 * beats_q) + 15'(s_bytes_i)};
      end else if (inside_q && tells) begin
        inside_q <= ahead_q != 0;
        left_q   <= ahead_q == 0;
        ahead_q  <= ahead_q - 1'b1;
      end
    end
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      if (held_q) begin
        assume (s_valid_i);
        assume ({s_last_i, s_error_i, s_bytes_i, s_data_i} == {last_q, error_q, bytes_q, data_q});
      end
      if (s_valid_i) assume (s_bytes_i != 0 && s_bytes_i <= 7'd64);

      // Each beat is stored once, unchanged, but for those of a frame that is too long.
      assert (stored == (taken && beats_q < 10'(MaxBeats)));
      if (stored) begin
        assert (u_beats.in_data_i[518:0] == {s_bytes_i, s_data_i});
        assert (u_beats.in_data_i[519] == (s_last_i || beats_q == 10'(MaxBeats - 1)));
      end
      // What is known is told once, in order, from when the last of them is there.
      assert (told == (stored && u_beats.in_data_i[519]));
      assert (frame_valid_o == (open_q != 0));
      if (inside_q && ahead_q == 0) begin
        assert (frame_valid_o && {frame_o.damaged, frame_o.octets} == followed_q);
      end
      // Nobody waits for nothing.
      if (s_valid_i && beats_ready && frames_ready) assert (taken);
      if (s_valid_i && swallow_q) assert (taken);

      // What induction needs to know.
      assert (open_q == unused_frames && open_q <= 4'(Frames) && write_q - read_q == open_q);
      assert (beats_q <= 10'(MaxBeats) && swallow_q == (beats_q == 10'(MaxBeats)));
      if (!swallow_q) assert (beats_q == 10'(beat_q));
      if (swallow_q) assert (beat_q == 0);
      if (inside_q) begin
        assert (ahead_q < open_q);
        assert (u_frames.memory[3'(4'(u_frames.read_q) + ahead_q)] == followed_q);
      end
    end
  end
`endif

endmodule
