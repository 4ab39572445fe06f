// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Rules of one direction, in the order in which they count: the first one that fits a packet. Of inbound
// packets only rules of their own SA count (RFC 4301, 5.2).
//
// Promise: an answer in as many clocks as there are rules in front of the one that fits, and three more. No rule
// may be written meanwhile.
module ipa_rules
  import ipa_card_pkg::*;
#(
  parameter  int unsigned RULES     = MaxRules,       // a power of two
  parameter  bit          OF_SA     = 1'b0,      // inbound
  localparam int unsigned IndexBits = $clog2(RULES)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // Management
  input  logic                 write_i,
  input  logic [IndexBits-1:0] index_i,
  input  rule_t                rule_i,
  input  logic [IndexBits:0]   count_i,          // that are there

  input  logic                 start_i,          // what is asked stays until done_o
  input  flow_t                flow_i,
  input  logic [31:0]          sa_index_i,
  input  logic [31:0]          sa_generation_i,
  output logic                 done_o,           // for a clock
  output logic                 found_o,          // and it protects
  output logic [31:0]          sa_index_o,
  output logic [31:0]          sa_generation_o
);

  logic                 busy_q, read_q;
  logic [IndexBits:0]   at_q;
  logic                 reads, match, of_sa, same, from, to, any_from, any_to;
  rule_t                rule;
  ram_1w1r #(.WIDTH($bits(rule_t)), .DEPTH(RULES)) u_rules (
    .clk_i, .write_i, .waddr_i(index_i), .wdata_i(rule_i), .raddr_i(at_q[IndexBits-1:0]),
    .rdata_o(rule)
  );
  assign reads = busy_q && at_q < count_i;
  assign of_sa = !OF_SA || (rule.sa_index == sa_index_i && rule.sa_generation == sa_generation_i);
  assign match = read_q && of_sa && same && from && to;

  assign any_from = rule.source_port == '0 && rule.source_port_last == '1;
  assign any_to   = rule.destination_port == '0 && rule.destination_port_last == '1;
  assign same     = rule.is_v6 == flow_i.is_v6
                    && (rule.protocol == '0 || rule.protocol == flow_i.protocol);
  assign from     = rule.source <= flow_i.source && flow_i.source <= rule.source_last
                    && (any_from || (flow_i.has_ports && rule.source_port <= flow_i.source_port
                                     && flow_i.source_port <= rule.source_port_last));
  assign to       = rule.destination <= flow_i.destination
                    && flow_i.destination <= rule.destination_last
                    && (any_to || (flow_i.has_ports
                                   && rule.destination_port <= flow_i.destination_port
                                   && flow_i.destination_port <= rule.destination_port_last));

  assign done_o          = busy_q && (match || (!read_q && !reads));
  assign found_o         = match && rule.protect;
  assign sa_index_o      = rule.sa_index;
  assign sa_generation_o = rule.sa_generation;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      busy_q <= 1'b0;
      read_q <= 1'b0;
    end else begin
      busy_q <= start_i || (busy_q && !done_o);
      read_q <= reads && !done_o;
    end
    if (start_i)    at_q <= '0;
    else if (reads) at_q <= at_q + 1'b1;
  end

  logic unused;
  assign unused = ^{rule.reserved, sa_index_i, sa_generation_i};

endmodule
