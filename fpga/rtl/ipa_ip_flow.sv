// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// What rules look at in an IP packet: addresses as numbers, the upper layer's protocol, and ports, which are those
// of TCP, UDP and SCTP, and of the first fragment.
//
// Promise: in the same clock. Ports that are not all there, or not within HeadOctets, are none.
module ipa_ip_flow
  import ipa_card_pkg::*;
(
  input  logic [8*HeadOctets-1:0] head_i,        // octet n in bits 8n+7 to 8n
  input  facts_t                  facts_i,
  input  logic [16:0]             octets_i,      // of the packet
  output flow_t                   flow_o
);

  localparam logic [7:0] Tcp = 8'd6, Sctp = 8'd132;

  function automatic logic [127:0] swap128(input logic [127:0] value);
    return {swap64(value[63:0]), swap64(value[127:64])};
  endfunction

  logic [31:0] ports;
  logic        there;
  assign ports = 32'(head_i >> {facts_i.upper_at[6:0], 3'b0});
  assign there = facts_i.upper_at <= 8'(HeadOctets - 4)
                 && octets_i >= 17'(facts_i.upper_at) + 17'd4;
  always_comb begin
    flow_o.is_v6            = facts_i.is_v6;
    flow_o.protocol         = facts_i.upper;
    flow_o.has_ports        = facts_i.upper inside {Tcp, ProtocolUdp, Sctp} && !facts_i.later
                              && there;
    flow_o.source_port      = swap16(ports[15:0]);
    flow_o.destination_port = swap16(ports[31:16]);
    flow_o.source           = 128'(swap32(head_i[96+:32]));
    flow_o.destination      = 128'(swap32(head_i[128+:32]));
    if (facts_i.is_v6) begin
      flow_o.source      = swap128(head_i[64+:128]);
      flow_o.destination = swap128(head_i[192+:128]);
    end
  end

  logic unused;
  assign unused = ^facts_i;

endmodule
