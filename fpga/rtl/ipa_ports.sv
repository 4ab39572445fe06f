// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// The card's three ports (docs/device-abi.md, inline mode): wire, host and exception port, each a stream of
// frames with valid and ready, octets of the beat, and a frame's last beat, as in AXI4-Stream.
//
//   wire      > steer > ESP with a known SPI > jobs > (data path) > out > rules > host
//                     > everything else > exception
//   host      > rules > jobs > (data path) > out > wire
//   exception > wire
//
// The management writes who takes an SA's packets on, which it learns from the frames of the exception port,
// and the rules. It tells unknown SPIs from the rest by what is said of them.
//
// Promise: frames of each way stay in order, and whole; none is lost but those that are counted.
module ipa_ports
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS       = 4096,
  parameter  int unsigned RULES     = MaxRules,
  localparam int unsigned SaBits    = $clog2(SAS),
  localparam int unsigned IndexBits = $clog2(RULES)
) (
  input  logic              clk_i,
  input  logic              rst_ni,
  input  logic              run_i,               // else no packet is begun

  // The ports
  input  logic              wire_in_valid_i,
  output logic              wire_in_ready_o,
  input  logic              wire_in_last_i,
  input  logic              wire_in_error_i,
  input  logic [6:0]        wire_in_bytes_i,
  input  logic [511:0]      wire_in_data_i,
  output logic              wire_out_valid_o,
  input  logic              wire_out_ready_i,
  output logic              wire_out_last_o,
  output logic [6:0]        wire_out_bytes_o,
  output logic [511:0]      wire_out_data_o,
  input  logic              host_in_valid_i,
  output logic              host_in_ready_o,
  input  logic              host_in_last_i,
  input  logic [6:0]        host_in_bytes_i,
  input  logic [511:0]      host_in_data_i,
  output logic              host_out_valid_o,
  input  logic              host_out_ready_i,
  output logic              host_out_last_o,
  output logic [6:0]        host_out_bytes_o,
  output logic [511:0]      host_out_data_o,
  input  logic              exception_in_valid_i,
  output logic              exception_in_ready_o,
  input  logic              exception_in_last_i,
  input  logic [6:0]        exception_in_bytes_i,
  input  logic [511:0]      exception_in_data_i,
  output logic              exception_out_valid_o,
  input  logic              exception_out_ready_i,
  output logic              exception_out_last_o,
  output logic              exception_out_unknown_o,
  output logic [6:0]        exception_out_bytes_o,
  output logic [511:0]      exception_out_data_o,

  // The data path: what is to be done, and what was
  output logic              job_valid_o,
  input  logic              job_ready_i,
  output job_t              job_o,
  output logic              data_valid_o,
  input  logic              data_ready_i,
  output logic              data_last_o,
  output logic [511:0]      data_o,
  input  logic              line_valid_i,
  output logic              line_ready_o,
  input  logic [8:0]        line_number_i,
  input  logic [511:0]      line_data_i,
  input  logic [63:0]       line_strobe_i,
  input  logic              line_last_i,
  input  logic              done_valid_i,
  output logic              done_ready_o,
  input  logic              done_good_i,
  input  done_t             done_i,

  // Management
  input  logic              sa_write_i,
  input  logic [SaBits-1:0] sa_index_i,
  input  logic              sa_valid_i,
  input  sa_config_t        sa_config_i,
  input  logic              spi_valid_i,
  output logic              spi_ready_o,
  input  logic              spi_add_i,
  input  logic [31:0]       spi_i,
  output logic              spi_done_o,
  output logic              spi_full_o,
  input  logic [47:0]       mac_i,
  input  logic [15:0]       mtu_i,
  input  logic              way_write_i,         // of sa_index_i
  input  logic              way_known_i,
  input  logic [47:0]       way_mac_i,
  input  logic              rule_write_i,
  input  logic              rule_inbound_i,
  input  logic [IndexBits-1:0] rule_index_i,
  input  rule_t             rule_i,
  input  logic [IndexBits:0] outbound_rules_i,
  input  logic [IndexBits:0] inbound_rules_i,

  output port_counts_t      wire_counts_o,
  output path_counts_t      path_counts_o,
  output logic              idle_o               // no frame is under way
);

  // -- In -----------------------------------------------------------------------------------------
  logic              esp_valid, esp_ready, steered_last, steer_dropped;
  logic [SaBits-1:0] esp_sa;
  logic [7:0]        unused_esp_at;
  logic [14:0]       esp_end;
  logic [6:0]        steered_bytes;
  logic [511:0]      steered;
  ipa_port_steer #(.SAS(SAS)) u_steer (
    .clk_i, .rst_ni, .s_valid_i(wire_in_valid_i), .s_ready_o(wire_in_ready_o),
    .s_last_i(wire_in_last_i), .s_error_i(wire_in_error_i), .s_bytes_i(wire_in_bytes_i),
    .s_data_i(wire_in_data_i), .card_valid_o(esp_valid), .card_ready_i(esp_ready),
    .card_sa_o(esp_sa), .card_esp_at_o(unused_esp_at), .card_end_o(esp_end),
    .host_valid_o(exception_out_valid_o), .host_ready_i(exception_out_ready_i),
    .host_unknown_o(exception_out_unknown_o), .m_last_o(steered_last), .m_bytes_o(steered_bytes),
    .m_data_o(steered), .dropped_o(steer_dropped), .set_valid_i(spi_valid_i),
    .set_ready_o(spi_ready_o), .set_add_i(spi_add_i), .set_spi_i(spi_i), .set_index_i(sa_index_i),
    .set_done_o(spi_done_o), .set_full_o(spi_full_o), .counts_o(wire_counts_o)
  );
  assign exception_out_last_o  = steered_last;
  assign exception_out_bytes_o = steered_bytes;
  assign exception_out_data_o  = steered;

  logic         clear_valid, clear_ready, clear_last, host_dropped;
  logic [511:0] clear;
  logic [14:0]  clear_octets;
  logic [31:0]  clear_sa, clear_generation;
  ipa_port_host #(.RULES(RULES)) u_host (
    .clk_i, .rst_ni, .s_valid_i(host_in_valid_i), .s_ready_o(host_in_ready_o),
    .s_last_i(host_in_last_i), .s_bytes_i(host_in_bytes_i), .s_data_i(host_in_data_i),
    .m_valid_o(clear_valid), .m_ready_i(clear_ready), .m_last_o(clear_last), .m_data_o(clear),
    .m_octets_o(clear_octets), .m_sa_index_o(clear_sa), .m_sa_generation_o(clear_generation),
    .dropped_o(host_dropped), .rule_write_i(rule_write_i && !rule_inbound_i), .rule_index_i,
    .rule_i, .rules_i(outbound_rules_i), .received_o(path_counts_o.host_received),
    .received_bytes_o(path_counts_o.host_received_bytes), .no_rule_o(path_counts_o.host_no_rule),
    .too_big_o(path_counts_o.host_too_big)
  );

  ipa_port_jobs #(.SAS(SAS)) u_jobs (
    .clk_i, .rst_ni, .run_i, .sa_write_i, .sa_index_i, .sa_valid_i, .sa_config_i,
    .wire_valid_i(esp_valid), .wire_ready_o(esp_ready), .wire_last_i(steered_last),
    .wire_data_i(steered), .wire_sa_i(esp_sa), .wire_end_i(esp_end), .host_valid_i(clear_valid),
    .host_ready_o(clear_ready), .host_last_i(clear_last), .host_data_i(clear),
    .host_octets_i(clear_octets), .host_sa_index_i(clear_sa),
    .host_sa_generation_i(clear_generation), .job_valid_o, .job_ready_i, .job_o,
    .m_valid_o(data_valid_o), .m_ready_i(data_ready_i), .m_last_o(data_last_o), .m_data_o(data_o)
  );

  // -- Out ----------------------------------------------------------------------------------------
  logic         sealed_valid, sealed_ready, made_last, out_dropped;
  logic [6:0]   made_bytes;
  logic [511:0] made;
  ipa_port_out #(.SAS(SAS), .RULES(RULES)) u_out (
    .clk_i, .rst_ni, .line_valid_i, .line_ready_o, .line_number_i, .line_data_i, .line_strobe_i,
    .line_last_i, .done_valid_i, .done_ready_o, .done_good_i, .done_wire_i(done_i.job.wire_in),
    .done_v6_i(done_i.job.sa.outer_v6), .done_next_header_i(done_i.next_header),
    .done_len_i(done_i.len), .done_sa_index_i(done_i.job.sa_index),
    .done_sa_generation_i(done_i.job.sa_generation), .wire_valid_o(sealed_valid),
    .wire_ready_i(sealed_ready), .host_valid_o(host_out_valid_o), .host_ready_i(host_out_ready_i),
    .m_last_o(made_last), .m_bytes_o(made_bytes), .m_data_o(made), .dropped_o(out_dropped),
    .mac_i, .mtu_i, .way_write_i, .way_index_i(sa_index_i), .way_known_i, .way_mac_i,
    .rule_write_i(rule_write_i && rule_inbound_i), .rule_index_i, .rule_i,
    .rules_i(inbound_rules_i), .wire_no_rule_o(path_counts_o.wire_no_rule),
    .wire_refused_o(path_counts_o.wire_refused), .host_refused_o(path_counts_o.host_refused),
    .too_big_o(path_counts_o.too_big), .no_neighbour_o(path_counts_o.no_neighbour)
  );
  assign host_out_last_o  = made_last;
  assign host_out_bytes_o = made_bytes;
  assign host_out_data_o  = made;

  logic unused_source;
  ipa_port_merge #(.WIDTH(519)) u_merge (
    .clk_i, .rst_ni, .s_valid_i({exception_in_valid_i, sealed_valid}),
    .s_ready_o({exception_in_ready_o, sealed_ready}), .s_last_i({exception_in_last_i, made_last}),
    .s_data_i({{exception_in_bytes_i, exception_in_data_i}, {made_bytes, made}}),
    .m_valid_o(wire_out_valid_o), .m_ready_i(wire_out_ready_i), .m_last_o(wire_out_last_o),
    .m_source_o(unused_source), .m_data_o({wire_out_bytes_o, wire_out_data_o})
  );

  // -- Whether anything is under way --------------------------------------------------------------
  // Those of the exception port leave in the clock in which they come.
  logic [11:0] under_way_q;
  logic [2:0]  come;
  logic [2:0]  gone;
  assign come = 3'(wire_in_valid_i && wire_in_ready_o && wire_in_last_i)
                + 3'(host_in_valid_i && host_in_ready_o && host_in_last_i);
  assign gone = 3'(exception_out_valid_o && exception_out_ready_i && steered_last)
                + 3'(steer_dropped) + 3'(host_dropped) + 3'(out_dropped)
                + 3'(sealed_valid && sealed_ready && made_last)
                + 3'(host_out_valid_o && host_out_ready_i && made_last);
  always_ff @(posedge clk_i) begin
    if (!rst_ni) under_way_q <= '0;
    else         under_way_q <= under_way_q + 12'(come) - 12'(gone);
  end
  assign idle_o = under_way_q == '0;

  logic unused;
  assign unused = ^done_i;

endmodule
