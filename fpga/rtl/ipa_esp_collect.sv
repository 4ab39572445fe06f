// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Takes what comes out of AES-GCM: appends the tag of a sealed packet; compares an opened one's, looks
// at its padding, and keeps the head of its plaintext.
//
// Promise: a beat a clock, in the clock in which it came, and one more for a tag that does not fit the
// last beat. An answer comes with each packet's last beat, and no earlier.
module ipa_esp_collect
  import ipa_card_pkg::*;
(
  input  logic         clk_i,
  input  logic         rst_ni,

  input  logic         way_valid_i,
  output logic         way_ready_o,
  input  logic         way_seal_i,
  input  logic         icv_valid_i,
  output logic         icv_ready_o,
  input  logic [127:0] icv_i,

  input  logic         s_valid_i,
  output logic         s_ready_o,
  input  logic         s_last_i,
  input  logic [6:0]   s_bytes_i,
  input  logic [511:0] s_data_i,
  input  logic [127:0] s_tag_i,

  output logic         m_valid_o,
  input  logic         m_ready_i,
  output logic [511:0] m_data_o,

  output logic         answer_valid_o,
  input  logic         answer_ready_i,
  output opened_t      answer_o
);

  // -- Tag of a sealed packet ---------------------------------------------------------------------
  logic         spill_q, spills, known, take, last;
  logic [127:0] rest_q;
  logic [639:0] sealed;                          // from the last octet's word of the beat on
  assign known  = way_valid_i && (way_seal_i || !s_last_i || icv_valid_i);
  assign sealed = 640'(s_data_i) | 640'(s_tag_i) << {s_bytes_i, 3'b0};
  assign spills = way_seal_i && s_last_i && s_bytes_i > 7'd48;

  assign m_valid_o   = spill_q || (s_valid_i && known && (!s_last_i || answer_ready_i));
  assign s_ready_o   = !spill_q && known && m_ready_i && (!s_last_i || answer_ready_i);
  assign take        = s_valid_i && s_ready_o;
  assign last        = take && s_last_i;
  assign way_ready_o = last;
  assign icv_ready_o = last && !way_seal_i;
  always_comb begin
    m_data_o = s_data_i;
    if (spill_q)                     m_data_o = 512'(rest_q);
    else if (way_seal_i && s_last_i) m_data_o = sealed[511:0];
  end

  // -- Padding: 1, 2, 3, ... up to its own length (RFC 4303, 2.4) ---------------------------------
  // rises[i]: octet i of the text is the one before plus one.
  logic [1:0]   beat_q;                          // 0, 1, or later
  logic [7:0]   before_q;
  logic [63:0]  rises, counted;
  logic [8:0]   run_q, run;                      // rises without a break, up to the last pad octet
  logic [7:0]   pad_len, pad_last;
  logic [5:0]   pad_end;
  always_comb begin
    for (int unsigned i = 0; i < 64; i++) begin
      rises[i] = s_data_i[8*i+:8] == (i == 0 ? before_q : s_data_i[8*(i == 0 ? 0 : i-1)+:8]) + 8'd1;
      // The plaintext starts behind header and IV.
      if (beat_q == 0 && i <= 16) rises[i] = 1'b0;
    end
  end
  // An ESP packet's text is of whole words, so padding length and next header are in one beat with
  // the octet in front of them.
  assign pad_end  = s_last_i ? 6'(s_bytes_i - 7'd3) : 6'd63;
  assign pad_len  = s_data_i[8*6'(s_bytes_i - 7'd2)+:8];
  assign pad_last = s_data_i[8*pad_end+:8];
  assign counted  = rises | ~(64'hffff_ffff_ffff_ffff >> (6'd63 - pad_end));
  always_comb begin
    run = (counted == '1) ? run_q + 9'(pad_end) + 9'd1 : 9'd0;
    for (int unsigned i = 0; i < 64; i++) begin
      if (!counted[i]) run = 9'(pad_end) - 9'(i);
    end
    if (run > 9'd256) run = 9'd256;
  end

  // -- Head of the plaintext ----------------------------------------------------------------------
  logic [383:0] head0_q;
  logic [511:0] head1_q;
  logic [8*HeadOctets-1:0] head;
  always_comb begin
    head = {head1_q, head0_q};
    if (beat_q == 2'd0)      head = {512'b0, s_data_i[511:128]};
    else if (beat_q == 2'd1) head = {s_data_i, head0_q};
  end

  assign answer_valid_o       = last;
  assign answer_o.icv_good    = s_tag_i == icv_i;
  assign answer_o.pad_len     = pad_len;
  assign answer_o.pad_good    = pad_len == 8'd0
                                || (pad_last == pad_len && run >= 9'(pad_len) - 9'd1);
  assign answer_o.next_header = s_data_i[8*6'(s_bytes_i - 7'd1)+:8];
  assign answer_o.head        = head;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      spill_q <= 1'b0;
      beat_q  <= '0;
      run_q   <= '0;
    end else begin
      if (spill_q && m_ready_i) spill_q <= 1'b0;
      if (take) begin
        spill_q <= spills;
        run_q   <= s_last_i ? '0 : run;
        if (s_last_i)            beat_q <= '0;
        else if (beat_q != 2'd2) beat_q <= beat_q + 2'd1;
      end
    end
    if (take) begin
      rest_q   <= sealed[639:512];
      before_q <= s_data_i[511:504];
      if (beat_q == 2'd0) head0_q <= s_data_i[511:128];
      if (beat_q == 2'd1) head1_q <= s_data_i;
    end
  end

endmodule
