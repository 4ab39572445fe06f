// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Writes packets to the host's memory, from where they begin in their beats to wherever they go; and, as lines of
// frames, to the ports.
//
// The host's side is AXI-like: lines of 64 octets at multiples of 64, with a strobe for each octet, in
// bursts that lie within 512 octets at a multiple of 512, and so within a page; bursts are
// acknowledged in order.
//
// Promise: a line a clock, in the clock of the octets that fill it, and one before the first line of a
// transfer that needs two beats for it; no bubble between transfers. An operation's result comes a clock after
// its last burst was acknowledged. Only octets of the transfer are ever strobed (proved).
module ipa_dma_write
  import ipa_card_pkg::*;
#(
  parameter int unsigned BURSTS = 128            // not acknowledged, at most
) (
  input  logic                    clk_i,
  input  logic                    rst_ni,

  input  logic                    write_valid_i,
  output logic                    write_ready_o,
  input  write_t                  write_i,
  input  logic                    data_valid_i,
  output logic                    data_ready_o,
  input  logic [511:0]            data_i,
  input  logic                    front_valid_i,
  output logic                    front_ready_o,
  input  logic [8*HeadOctets-1:0] front_i,

  // To the host
  output logic                    line_valid_o,
  input  logic                    line_ready_i,
  output logic [63:0]             line_addr_o,
  output logic [511:0]            line_data_o,
  output logic [63:0]             line_strobe_o,
  output logic                    line_last_o,   // of the burst
  output logic                    line_port_o,   // not to the host: nobody acknowledges it
  output logic                    line_ends_o,   // the last one of its operation
  input  logic                    ack_valid_i,
  input  logic                    ack_error_i,

  // What came of each operation
  output logic                    result_valid_o,
  input  logic                    result_ready_i,
  output logic                    result_error_o
);

  logic [8:0]   taken_q, line_q, lines;
  logic         primed_q, written_q;
  logic [511:0] prev_q, beat, cur;
  logic [5:0]   first, up;
  logic [15:0]  stop;                            // octets from the first line's start to the end
  logic         there, beat_valid, primes, priming, dropping;
  logic         lines_go, last_line, line, take, stays, finish;
  logic         room;
  logic [8:0]   taken;

  assign first      = write_i.addr[5:0];
  assign up         = first - write_i.skip;
  assign stop       = 16'(first) + 16'(write_i.octets);
  assign lines      = 9'((stop + 16'd63) >> 6);
  assign beat_valid = write_i.front ? front_valid_i : data_valid_i;
  always_comb begin
    beat = data_i;
    if (write_i.front) begin
      beat = taken_q == 0 && !write_i.second ? front_i[511:0] : 512'(front_i[8*HeadOctets-1:512]);
    end
  end
  assign there      = taken_q != write_i.beats;
  assign primes     = first < write_i.skip;
  assign priming    = write_valid_i && write_i.octets != '0 && primes && !primed_q;
  assign dropping   = write_valid_i && (write_i.octets == '0 || written_q);
  assign lines_go   = write_valid_i && !priming && !dropping && (!there || beat_valid);
  assign last_line  = line_q == lines - 9'd1;

  assign cur           = there ? beat : '0;
  assign line_data_o   = (cur << {up, 3'b0})
                         | (prev_q & {512{up != 0 && (line_q != 0 || primed_q)}})
                           >> {7'd64 - {1'b0, up}, 3'b0};
  assign line_addr_o   = {write_i.addr[63:6] + 58'(line_q), 6'b0};
  assign line_last_o   = last_line || line_addr_o[8:6] == 3'd7;
  assign line_valid_o  = lines_go && (room || write_i.port);
  assign line_port_o   = write_i.port;
  assign line_ends_o   = last_line && write_i.last;
  assign line          = line_valid_o && line_ready_i;
  logic [63:0] lower, upper;
  assign lower         = line_q == 0 ? 64'hffff_ffff_ffff_ffff << first : '1;
  assign upper         = last_line && stop[5:0] != 0 ? ~(64'hffff_ffff_ffff_ffff << stop[5:0]) : '1;
  assign line_strobe_o = lower & upper;

  assign take          = beat_valid && there && (priming || line || dropping);
  assign taken         = taken_q + 9'(take);
  assign finish        = ((line && last_line) || dropping) && taken == write_i.beats;
  assign write_ready_o = finish;
  assign stays         = write_i.keep && taken_q == write_i.beats - 9'd1;
  assign data_ready_o  = take && !write_i.front && !stays;
  assign front_ready_o = finish && write_i.front && !write_i.keep;

  always_ff @(posedge clk_i) begin
    if (!rst_ni || finish) begin
      taken_q   <= '0;
      line_q    <= '0;
      primed_q  <= 1'b0;
      written_q <= 1'b0;
    end else begin
      taken_q <= taken;
      if (take && priming)   primed_q  <= 1'b1;
      if (line)              line_q    <= line_q + 9'd1;
      if (line && last_line) written_q <= 1'b1;
    end
    if (take) prev_q <= beat;
  end

  // -- Acknowledgements ---------------------------------------------------------------------------
  logic there_burst, burst_ends, error_q, unused_result_ready;
  logic [$clog2(BURSTS):0] unused_bursts;
  logic [7:0] unused_results;
  ipa_fifo #(.WIDTH(1), .DEPTH(BURSTS)) u_bursts (
    .clk_i, .rst_ni, .in_valid_i(line && line_last_o && !write_i.port), .in_ready_o(room),
    .in_data_i(last_line && write_i.last), .out_valid_o(there_burst), .out_ready_i(ack_valid_i),
    .out_data_o(burst_ends), .count_o(unused_bursts)
  );
  ipa_fifo #(.WIDTH(1), .DEPTH(128)) u_results (
    .clk_i, .rst_ni, .in_valid_i(ack_valid_i && there_burst && burst_ends),
    .in_ready_o(unused_result_ready), .in_data_i(error_q || ack_error_i),
    .out_valid_o(result_valid_o), .out_ready_i(result_ready_i), .out_data_o(result_error_o),
    .count_o(unused_results)
  );
  always_ff @(posedge clk_i) begin
    if (!rst_ni)          error_q <= 1'b0;
    else if (ack_valid_i) error_q <= !burst_ends && (error_q || ack_error_i);
  end

  logic unused;
  assign unused = write_i.gather;

`ifdef FORMAL
  // `watched` is any octet of memory: what front_i is in reset. It is strobed once at most for each
  // transfer, only if it is the transfer's, and by no line of a burst that began elsewhere.
  logic        started_q = 1'b0;
  logic [63:0] watched_q, base_q;
  logic        mine, hit, was_hit_q, begun_q, open_q;   // a burst is open
  write_t      held_q;
  assign mine = watched_q - write_i.addr < 64'(write_i.octets);
  assign hit    = line && line_addr_o[63:6] == watched_q[63:6] && line_strobe_o[watched_q[5:0]];
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    held_q    <= write_i;
    begun_q   <= rst_ni && write_valid_i && !finish;
    if (!rst_ni) begin
      watched_q <= front_i[63:0];
      was_hit_q <= 1'b0;
      base_q    <= '0;
      open_q    <= 1'b0;
    end else begin
      if (finish)   was_hit_q <= 1'b0;
      else if (hit) was_hit_q <= 1'b1;
      if (line)     base_q <= line_addr_o;
      if (line)     open_q <= !line_last_o;
    end
  end
  always_ff @(posedge clk_i) begin
    if (!started_q) begin
      assume (!rst_ni);
    end else if (rst_ni) begin
      // A transfer stays until it is taken, and doesn't wrap around.
      if (begun_q) assume (write_valid_i && write_i == held_q);
      assume (write_i.addr <= ~64'h7fff && write_i.octets <= 15'(MaxPacket) + 15'd64);
      assume (write_i.skip < 6'd63 && write_i.beats != 0);
      if (hit) assert (mine && !was_hit_q);
      if (line) assert (line_q == 0 || line_addr_o == base_q + 64'd64);
      // A burst ends with its transfer and at multiples of 512.
      if (line && open_q) assert (line_q != 0 && line_addr_o[8:6] != 0);
      if (open_q) assert (line_q != 0 && base_q[8:6] != 3'd7 && !written_q);
      if (write_valid_i && line_q != 0 && !written_q) assert (line_q < lines);
      if (finish && write_i.octets != 0 && mine) assert (was_hit_q || hit);
      // What induction needs to know.
      if (was_hit_q) assert (write_valid_i);
      if (line_q != 0 || written_q || primed_q) assert (begun_q);
      if (line_q != 0) assert (base_q == {write_i.addr[63:6] + 58'(line_q) - 58'd1, 6'b0});
      if (written_q) assert (line_q == lines && write_i.octets != 0);
      if (write_valid_i)
        assert (was_hit_q == (mine && 64'(line_q) > 64'(watched_q[63:6] - write_i.addr[63:6])));
    end
  end
`endif

endmodule
