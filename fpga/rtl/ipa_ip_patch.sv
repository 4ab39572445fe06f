// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Makes an IP header announce another protocol and length, with a new checksum; and puts a UDP header
// behind it, where that is wanted, without a checksum (RFC 3948, 2.1).
//
// Promise: head_o is right two clocks after start_i, and stays while the inputs do.
module ipa_ip_patch
  import ipa_card_pkg::*;
(
  input  logic                    clk_i,
  input  logic                    start_i,
  input  logic [8*HeadOctets-1:0] head_i,
  input  facts_t                  facts_i,
  input  logic [7:0]              protocol_i,
  input  logic [15:0]             len_i,         // octets of the packet
  input  logic                    udp_i,         // the header must leave eight octets of HeadOctets
  input  logic [31:0]             ports_i,
  output logic [8*HeadOctets-1:0] head_o
);

  // IPv4 has at most 60 octets of header.
  localparam int unsigned Words = 30;

  logic [8*HeadOctets-1:0] changed, changed_q;
  logic [20:0]             sum, sum_q;
  logic [16:0]             folded;
  logic [15:0]             checksum, payload, udp_len;
  assign payload = len_i - 16'd40;
  assign udp_len = len_i - 16'(facts_i.kept);
  always_comb begin
    changed = head_i;
    for (int unsigned i = 0; i < HeadOctets; i++) begin
      if (facts_i.field == 8'(i)) changed[8*i+:8] = protocol_i;
    end
    if (facts_i.is_v6) changed[47:32] = swap16(payload);
    else               changed[31:16] = swap16(len_i);
    for (int unsigned i = 5; i <= HeadOctets / 4 - 2; i++) begin
      if (udp_i && facts_i.kept == 8'(4 * i)) begin
        changed[32*i+:64] = {16'b0, swap16(udp_len), ports_i};
      end
    end
    sum = '0;
    for (int unsigned i = 0; i < Words; i++) begin
      if (i != 5 && 8'(2 * i) < facts_i.kept) sum += 21'(swap16(changed[16*i+:16]));
    end
  end
  always_ff @(posedge clk_i) begin
    if (start_i) begin
      changed_q <= changed;
      sum_q     <= sum;
    end
  end
  assign folded   = {1'b0, sum_q[15:0]} + {12'b0, sum_q[20:16]};
  assign checksum = ~(folded[15:0] + {15'b0, folded[16]});
  always_comb begin
    head_o = changed_q;
    if (!facts_i.is_v6) head_o[95:80] = swap16(checksum);
  end

  logic unused;
  assign unused = ^facts_i;

endmodule
