// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Reads the headers of an IPv4 or IPv6 packet: what transport mode leaves in front (RFC 4303, 3.1.1),
// and where the upper layer starts.
//
// Promise: done_o a clock after start_i, and one more for each IPv6 extension header, of which eight
// are followed. head_i and len_i stay until then. Extension headers that don't end fits HeadOctets are bad.
module ipa_ip_parse
  import ipa_card_pkg::*;
(
  input  logic                    clk_i,
  input  logic                    rst_ni,
  input  logic                    start_i,
  input  logic [8*HeadOctets-1:0] head_i,        // octet n in bits 8n+7 to 8n
  input  logic [16:0]             len_i,         // octets of the packet
  output logic                    done_o,        // until the next start
  output facts_t                  facts_o
);

  localparam logic [7:0] HopByHop    = 8'd0;
  localparam logic [7:0] Routing     = 8'd43;
  localparam logic [7:0] FragmentHdr = 8'd44;
  localparam logic [7:0] Options     = 8'd60;
  localparam int unsigned MostHeaders = 8;

  function automatic logic [7:0] octet(input logic [8*HeadOctets-1:0] head, input logic [6:0] n);
    return n < 7'(HeadOctets) ? head[8*n+:8] : 8'd0;
  endfunction
  function automatic logic [7:0] clip(input logic [16:0] offset);
    return offset > 17'd255 ? 8'd255 : offset[7:0];
  endfunction

  facts_t      facts_q;
  logic        walks_q, done_q, first_q;
  logic [16:0] offset_q;
  logic [3:0]  count_q;
  assign facts_o = facts_q;
  assign done_o  = done_q;

  // -- The fixed header ---------------------------------------------------------------------------
  facts_t      start;
  logic [16:0] header_len;
  assign header_len = {11'b0, head_i[3:0], 2'b0};
  always_comb begin
    start = '0;
    unique case (head_i[7:4])
      4'd4: begin
        start.total    = {1'b0, head_i[23:16], head_i[31:24]};
        start.bad      = len_i < 17'd20 || header_len < 17'd20 || start.total < header_len
                         || len_i < start.total;
        start.fragment = {head_i[53:48], head_i[63:56]} != '0;
        start.later    = {head_i[52:48], head_i[63:56]} != '0;
        start.protocol = head_i[79:72];
        start.field    = 8'd9;
        start.kept     = clip(header_len);
        start.upper    = head_i[79:72];
        start.upper_at = clip(header_len);
      end
      4'd6: begin
        start.is_v6    = 1'b1;
        start.total    = {1'b0, head_i[39:32], head_i[47:40]} + 17'd40;
        start.bad      = len_i < 17'd40 || len_i < start.total;
        start.protocol = head_i[55:48];
        start.field    = 8'd6;
        start.kept     = 8'd40;
        start.upper    = head_i[55:48];
        start.upper_at = 8'd40;
      end
      default: start.bad = 1'b1;
    endcase
    if (len_i == 0) start.bad = 1'b1;
  end

  // -- Extension headers --------------------------------------------------------------------------
  logic        is_header, fits;
  logic [16:0] next_offset;
  logic [7:0]  next_protocol, words;
  logic [6:0]  at;
  assign is_header       = facts_q.upper inside {HopByHop, Routing, FragmentHdr, Options};
  assign fits        = offset_q + 17'd8 <= 17'(HeadOctets);
  assign at            = offset_q[6:0];
  assign next_protocol = octet(head_i, at);
  assign words         = facts_q.upper == FragmentHdr ? 8'd0 : octet(head_i, at + 7'd1);
  assign next_offset   = offset_q + {6'b0, words, 3'b0} + 17'd8;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      walks_q <= 1'b0;
      done_q  <= 1'b0;
    end else if (start_i) begin
      facts_q  <= start;
      offset_q <= 17'd40;
      count_q  <= '0;
      first_q  <= 1'b1;
      walks_q  <= start.is_v6 && !start.bad;
      done_q   <= !start.is_v6 || start.bad;
    end else if (walks_q) begin
      if (!is_header || count_q == 4'(MostHeaders) || !first_q) begin
        walks_q <= 1'b0;
        done_q  <= 1'b1;
      end else if (!fits || next_offset > facts_q.total) begin
        facts_q.bad <= 1'b1;
        walks_q     <= 1'b0;
        done_q      <= 1'b1;
      end else begin
        count_q          <= count_q + 1'b1;
        offset_q         <= next_offset;
        facts_q.upper    <= next_protocol;
        facts_q.upper_at <= clip(next_offset);
        if (facts_q.upper != Options) begin
          facts_q.protocol <= next_protocol;
          facts_q.field    <= {1'b0, at};
          facts_q.kept     <= clip(next_offset);
        end
        if (facts_q.upper == FragmentHdr) begin
          facts_q.fragment <= 1'b1;
          facts_q.later    <= {octet(head_i, at + 7'd2), octet(head_i, at + 7'd3)} >= 16'd8;
          first_q          <= {octet(head_i, at + 7'd2), octet(head_i, at + 7'd3)} < 16'd8;
        end
      end
    end
  end

endmodule
