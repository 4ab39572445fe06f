// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Rules of one direction, in the order in which they count: the first one that fits a packet. Of inbound
// packets only rules of their own SA count (RFC 4301, 5.2).
//
// Promise: the answer is the first rule that fits, in as many clocks as there are rules in front of it, and three
// more; or none, if none fits (proved). No rule may be written meanwhile.
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

`ifdef FORMAL
  // One place, any, is followed: what was written there, and whether that was found to fit.
  logic                 started_q = 1'b0, written_q, asks_q, looks, looked_q, fitted_q;
  logic [IndexBits-1:0] some_q;
  logic [IndexBits:0]   clocks_q, count_q;       // clocks since the first look
  logic [IndexBits:0]   some, which;             // which is looked at
  rule_t                some_rule_q;
  flow_t                flow_q;
  logic [63:0]          sa, sa_q;
  function automatic logic fits(input rule_t r, input flow_t flow, input logic [63:0] of_sa);
    logic by_address, by_source_port, by_destination_port;
    by_address          = r.is_v6 == flow.is_v6
                          && r.source <= flow.source && flow.source <= r.source_last
                          && r.destination <= flow.destination
                          && flow.destination <= r.destination_last;
    by_source_port      = {r.source_port, r.source_port_last} == 32'h0000_ffff
                          || (flow.has_ports && r.source_port <= flow.source_port
                              && flow.source_port <= r.source_port_last);
    by_destination_port = {r.destination_port, r.destination_port_last} == 32'h0000_ffff
                          || (flow.has_ports && r.destination_port <= flow.destination_port
                              && flow.destination_port <= r.destination_port_last);
    return by_address && by_source_port && by_destination_port
           && (r.protocol == 0 || r.protocol == flow.protocol)
           && (!OF_SA || {r.sa_index, r.sa_generation} == of_sa);
  endfunction
  assign sa    = {sa_index_i, sa_generation_i};
  assign some  = (IndexBits + 1)'(some_q);
  assign which = at_q - 1'b1;
  assign looks = read_q && which == some;
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!started_q) some_q <= index_i;
    asks_q  <= rst_ni && (start_i || (asks_q && !done_o));
    flow_q  <= flow_i;
    count_q <= count_i;
    sa_q    <= sa;
    if (!started_q) begin
      written_q <= 1'b0;
    end else if (write_i && index_i == some_q) begin
      written_q   <= 1'b1;
      some_rule_q <= rule_i;
    end
    clocks_q <= start_i ? '0 : clocks_q + 1'b1;
    looked_q <= !start_i && (looked_q || looks);
    if (looks) fitted_q <= fits(rule, flow_i, sa);
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    // A reset leaves rules where they are.
    if (started_q && written_q) assert (u_rules.memory[some_q] == some_rule_q);
    if (started_q && rst_ni) begin
      // What is asked stays; rules stay meanwhile, and those that count have been written.
      if (asks_q) assume (!start_i && !write_i);
      if (asks_q && clocks_q != 0) assume (flow_i == flow_q && sa == sa_q && count_i == count_q);
      assume (count_i <= (IndexBits + 1)'(RULES));
      if (asks_q && some < count_i) assume (written_q);

      // An answer to each question, and in time.
      if (done_o) assert (asks_q);
      if (asks_q) assert (clocks_q <= count_i + 1'b1);
      if (done_o && match) assert (clocks_q == which + 1'b1 && which < count_i);
      // It is what was written that is looked at, as it should be.
      if (looks) assert (rule == some_rule_q);
      if (read_q) assert (match == fits(rule, flow_i, sa));
      if (done_o && match) begin
        assert (found_o == rule.protect && sa_index_o == rule.sa_index);
        assert (sa_generation_o == rule.sa_generation);
      end
      // None fits, or none in front of the one that does.
      if (done_o && some < count_i && (!match || some < which)) begin
        assert (looks ? !match : looked_q && !fitted_q);
      end
      if (done_o && !match) assert (!found_o);

      // What induction needs to know.
      assert (busy_q == asks_q);
      if (asks_q) begin
        assert (at_q == (clocks_q <= count_i ? clocks_q : count_i));
        assert (read_q == (clocks_q != 0 && clocks_q <= count_i));
        assert (looked_q == (some + (IndexBits + 1)'(read_q) < at_q));
        if (looked_q) assert (!fitted_q);
      end
    end
  end
`endif

endmodule
