// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Makes of a packet's beats the stream that AES-GCM works on: ESP header and IV, text, trailer. Of an
// inbound packet it cuts off what is in front and takes the ICV out.
//
// Promise: a beat a clock, no bubble between packets whose stream begins at a multiple of 64 octets,
// one where it does not; it leaves in the clock of the octets that fill it. A packet that is dropped
// leaves by a beat a clock.
module ipa_esp_stream
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS    = 4096,
  localparam int unsigned SaBits = $clog2(SAS)
) (
  input  logic              clk_i,
  input  logic              rst_ni,

  input  logic              cut_valid_i,
  output logic              cut_ready_o,
  input  cut_t              cut_i,
  input  logic              frame_valid_i,
  output logic              frame_ready_o,
  input  frame_t            frame_i,
  input  logic              data_valid_i,
  output logic              data_ready_o,
  input  logic [511:0]      data_i,

  // To AES-GCM
  output logic              m_valid_o,
  input  logic              m_ready_i,
  output logic              m_first_o,
  output logic              m_last_o,
  output logic              m_seal_o,
  output logic [SaBits-1:0] m_sa_o,
  output logic [127:0]      m_aad_o,
  output logic [4:0]        m_aad_bytes_o,
  output logic [6:0]        m_bytes_o,
  output logic [511:0]      m_data_o,

  // With a packet's first beat: which way it goes
  output logic              way_valid_o,
  input  logic              way_ready_i,
  output logic              way_seal_o,

  // The ICV that came with a packet, no later than its tag comes
  output logic              icv_valid_o,
  input  logic              icv_ready_i,
  output logic [127:0]      icv_o
);

  // -- Beats in: skipped, lined up, or dropped ----------------------------------------------------
  logic [8:0] taken_q, line_q;                   // beats of the packet, lines of its stream
  logic       drops, skips, there, line_valid, line_ready, line_last, take, finish;
  assign drops      = cut_i.work == Drop;
  assign skips      = taken_q < 9'(cut_i.skip);
  assign there      = taken_q != cut_i.beats;    // else a line behind the last beat is wanted
  assign line_valid = cut_valid_i && !drops && !skips && (!there || data_valid_i);
  assign line_last  = line_q == cut_i.lines - 9'd1;
  assign take       = cut_valid_i && data_valid_i && there && (drops || skips || line_ready);
  assign finish     = drops ? (take && taken_q == cut_i.beats - 9'd1)
                            : (line_valid && line_ready && line_last);
  assign data_ready_o = take;
  assign cut_ready_o  = finish;

  always_ff @(posedge clk_i) begin
    if (!rst_ni || finish) begin
      taken_q <= '0;
      line_q  <= '0;
    end else begin
      if (take) taken_q <= taken_q + 9'd1;
      if (line_valid && line_ready) line_q <= line_q + 9'd1;
    end
  end

  logic         p_valid, p_ready, p_last, unused_error;
  logic [6:0]   p_bytes;
  logic [511:0] p_data;
  dma_pack u_pack (
    .clk_i, .rst_ni, .s_valid_i(line_valid), .s_ready_o(line_ready), .s_first_i(line_q == 0),
    .s_last_i(line_last), .s_error_i(1'b0), .s_shift_i(cut_i.shift), .s_len_i(16'(cut_i.octets)),
    .s_data_i(there ? data_i : '0), .m_valid_o(p_valid), .m_ready_i(p_ready), .m_data_o(p_data),
    .m_bytes_o(p_bytes), .m_last_o(p_last), .m_error_o(unused_error)
  );

  // -- Header and trailer -------------------------------------------------------------------------
  logic [8:0]    beat_q;
  logic          first, pass;
  logic [551:0]  trailer;
  logic [511:0]  framed;
  logic [127:0]  header;
  assign first   = beat_q == 0;
  assign header  = {frame_i.iv, swap32(frame_i.number[31:0]), swap32(frame_i.spi)};
  assign trailer = 552'(frame_i.trailer) << {frame_i.trailer_at[5:0], 3'b0};
  always_comb begin
    framed = p_data;
    if (frame_i.seal) begin
      if (first) framed[127:0] = header;
      if (beat_q == frame_i.trailer_at[14:6])              framed |= trailer[511:0];
      if (beat_q == frame_i.trailer_at[14:6] + 9'd1)       framed[39:0] |= trailer[551:512];
    end
  end

  // -- Text and ICV -------------------------------------------------------------------------------
  logic [14:0]  text_end, text_last;
  logic         is_text, is_last;
  assign text_end  = frame_i.octets - (frame_i.seal ? 15'd0 : 15'd16);
  assign text_last = text_end - 15'd1;
  assign is_text   = beat_q <= text_last[14:6];
  assign is_last   = beat_q == text_last[14:6];

  assign m_valid_o = p_valid && frame_valid_i && is_text && (!first || way_ready_i);
  assign m_first_o = first;
  assign m_last_o  = is_last;
  assign m_seal_o  = frame_i.seal;
  assign m_sa_o    = SaBits'(frame_i.sa_index);
  assign m_bytes_o = is_last ? {1'b0, text_last[5:0]} + 7'd1 : 7'd64;
  assign m_data_o  = framed;
  always_comb begin
    m_aad_o = '0;
    m_aad_o[31:0] = swap32(frame_i.spi);
    if (frame_i.esn) begin
      m_aad_o[63:32] = swap32(frame_i.number[63:32]);
      m_aad_o[95:64] = swap32(frame_i.number[31:0]);
    end else begin
      m_aad_o[63:32] = swap32(frame_i.number[31:0]);
    end
  end
  assign m_aad_bytes_o = frame_i.esn ? 5'd12 : 5'd8;

  assign way_valid_o = m_valid_o && m_ready_i && first;
  assign way_seal_o  = frame_i.seal;

  assign pass          = p_valid && p_ready;
  assign p_ready       = frame_valid_i && (!p_last || frame_i.seal || icv_ready_i)
                         && (!is_text || (m_ready_i && (!first || way_ready_i)));
  assign frame_ready_o = pass && p_last;

  // The ICV's first part, if its octets lie in two beats.
  logic [127:0] icv_q, icv_here;
  logic [511:0] shifted;
  assign shifted  = p_data >> {text_end[5:0], 3'b0};
  assign icv_here = beat_q == text_end[14:6] ? shifted[127:0]
                    : icv_q | 128'(p_data[127:0] << {7'd64 - {1'b0, text_end[5:0]}, 3'b0});
  assign icv_valid_o = pass && p_last && !frame_i.seal;
  assign icv_o       = icv_here;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      beat_q <= '0;
    end else if (pass) begin
      beat_q <= p_last ? '0 : beat_q + 9'd1;
    end
    if (pass) icv_q <= shifted[127:0];
  end

  logic unused;
  assign unused = ^{p_bytes, shifted[511:128], unused_error};

endmodule
