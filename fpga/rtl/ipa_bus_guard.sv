// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Between the data path and the bus: keeps each side's promises to the other when one breaks off.
//
// The data path may be reset in the middle of anything (rst_ni), while the bus is not (bus_rst_ni):
// what the bus still has to say of earlier requests must not be taken for answers to later ones, and a
// write that was begun must be ended. And a read that the bus does not answer must not be waited for.
//
// A tag goes to the bus with an epoch, which moves on when an answer is given up; answers of another
// epoch are dropped. A read that is not answered within two to three times 2^patience_i clocks fails.
//
// Promise: the data path hears of each read's end once, of none that it did not ask for, and of as many
// acknowledgements as it wrote (proved). What passes does so in the same clock, in both directions.
module ipa_bus_guard #(
  parameter  int unsigned TAG_BITS   = 7,
  parameter  int unsigned EPOCH_BITS = 2,
  parameter  int unsigned COUNT_BITS = 10,       // of writes that are not acknowledged
  localparam int unsigned Tags       = 1 << TAG_BITS
) (
  input  logic                           clk_i,
  input  logic                           bus_rst_ni,
  input  logic                           rst_ni,
  input  logic [4:0]                     patience_i,     // at least TAG_BITS

  // Reads
  input  logic                           read_valid_i,
  output logic                           read_ready_o,
  input  logic [TAG_BITS-1:0]            read_tag_i,
  output logic                           read_valid_o,
  input  logic                           read_ready_i,
  output logic [EPOCH_BITS+TAG_BITS-1:0] read_tag_o,

  // Their answers
  input  logic                           line_valid_i,
  input  logic [EPOCH_BITS+TAG_BITS-1:0] line_tag_i,
  input  logic                           line_last_i,
  input  logic                           line_error_i,
  output logic                           line_valid_o,
  output logic [TAG_BITS-1:0]            line_tag_o,
  output logic                           line_last_o,
  output logic                           line_error_o,

  // Writes: packets, and completions of one line each
  input  logic                           write_valid_i,
  output logic                           write_ready_o,
  input  logic                           write_last_i,
  output logic                           write_valid_o,
  input  logic                           write_ready_i,
  output logic                           write_last_o,
  output logic                           write_void_o,   // no octet of this line is meant
  input  logic                           write_ack_i,
  output logic                           write_ack_o,
  input  logic                           post_valid_i,
  output logic                           post_ready_o,
  output logic                           post_valid_o,
  input  logic                           post_ready_i,
  input  logic                           post_ack_i,
  output logic                           post_ack_o
);

  // -- Reads --------------------------------------------------------------------------------------
  logic [Tags-1:0]       awaited_q;
  logic [Tags-1:0][EPOCH_BITS-1:0] epoch_q;
  logic [1:0]            stamp_q [Tags];         // when it was asked for, in ticks
  logic [TAG_BITS-1:0]   look_q, line_tag;       // the tag that is looked at for its age
  logic [33:0]           time_q;
  logic [1:0]            tick;
  logic                  asked, known, overdue, gives_up;

  assign read_valid_o = read_valid_i && rst_ni;
  assign read_ready_o = read_ready_i && rst_ni;
  assign read_tag_o   = {epoch_q[read_tag_i], read_tag_i};
  assign asked        = read_valid_o && read_ready_i;

  assign tick     = 2'(time_q >> patience_i);
  assign overdue  = awaited_q[look_q] && 2'(tick - stamp_q[look_q]) == 2'd3;
  assign line_tag = TAG_BITS'(line_tag_i);
  assign known    = line_valid_i && rst_ni && awaited_q[line_tag]
                    && epoch_q[line_tag] == line_tag_i[TAG_BITS+:EPOCH_BITS];
  assign gives_up = overdue && rst_ni && !line_valid_i;
  assign line_valid_o = known || gives_up;
  assign line_tag_o   = gives_up ? look_q : line_tag;
  assign line_last_o  = gives_up || line_last_i;
  assign line_error_o = gives_up || line_error_i;

  always_ff @(posedge clk_i) begin
    if (!bus_rst_ni) begin
      awaited_q <= '0;
      look_q    <= '0;
      time_q    <= '0;
      epoch_q   <= '0;
    end else begin
      time_q <= time_q + 1'b1;
      if (!overdue || gives_up) look_q <= look_q + 1'b1;
      if (!rst_ni) begin
        awaited_q <= '0;
        for (int t = 0; t < Tags; t++) epoch_q[t] <= epoch_q[t] + EPOCH_BITS'(awaited_q[t]);
      end else begin
        if (asked) awaited_q[read_tag_i] <= 1'b1;
        if (line_valid_o && line_last_o) awaited_q[line_tag_o] <= 1'b0;
        if (gives_up) epoch_q[look_q] <= epoch_q[look_q] + 1'b1;
      end
    end
    if (asked) stamp_q[read_tag_i] <= tick;
  end

  // -- Writes -------------------------------------------------------------------------------------
  // Bursts that the bus will acknowledge, and how many of those, the first ones, nobody waits for.
  logic [COUNT_BITS-1:0] bursts_q, stale_bursts_q, posts_q, stale_posts_q;
  logic                  amid_q, broken_q, ends, burst_done, post_done;
  // The data path was reset within a burst: the bus is given a last line first of all.
  assign ends          = amid_q && (!rst_ni || broken_q);
  assign write_valid_o = (write_valid_i && rst_ni) || ends;
  assign write_ready_o = write_ready_i && rst_ni && !ends;
  assign write_last_o  = write_last_i || ends;
  assign write_void_o  = ends;
  assign burst_done    = write_valid_o && write_ready_i && write_last_o;
  assign write_ack_o   = write_ack_i && rst_ni && stale_bursts_q == '0;

  assign post_valid_o = post_valid_i && rst_ni;
  assign post_ready_o = post_ready_i && rst_ni;
  assign post_done    = post_valid_o && post_ready_i;
  assign post_ack_o   = post_ack_i && rst_ni && stale_posts_q == '0;

  always_ff @(posedge clk_i) begin
    if (!bus_rst_ni) begin
      bursts_q       <= '0;
      stale_bursts_q <= '0;
      posts_q        <= '0;
      stale_posts_q  <= '0;
      amid_q         <= 1'b0;
      broken_q       <= 1'b0;
    end else begin
      bursts_q <= bursts_q + COUNT_BITS'(burst_done) - COUNT_BITS'(write_ack_i);
      posts_q  <= posts_q + COUNT_BITS'(post_done) - COUNT_BITS'(post_ack_i);
      if (write_valid_o && write_ready_i) amid_q <= !write_last_o;
      broken_q <= ends && !write_ready_i;
      if (!rst_ni) begin
        stale_bursts_q <= bursts_q + COUNT_BITS'(burst_done) - COUNT_BITS'(write_ack_i);
        stale_posts_q  <= posts_q - COUNT_BITS'(post_ack_i);
      end else begin
        stale_bursts_q <= stale_bursts_q + COUNT_BITS'(burst_done && ends)
                          - COUNT_BITS'(write_ack_i && stale_bursts_q != '0);
        if (post_ack_i && stale_posts_q != '0) stale_posts_q <= stale_posts_q - 1'b1;
      end
    end
  end

`ifdef FORMAL
  // What the data path knows of itself, since its last reset.
  logic                  begun_q, waits_q, amid_own_q;
  logic [TAG_BITS-1:0]   some_q;                 // any tag
  logic [COUNT_BITS-1:0] own_bursts_q, own_posts_q;
  initial begun_q = 1'b0;
  always_ff @(posedge clk_i) begin
    begun_q <= 1'b1;
    if (!begun_q) some_q <= read_tag_i;
    if (!rst_ni) begin
      waits_q      <= 1'b0;
      amid_own_q   <= 1'b0;
      own_bursts_q <= '0;
      own_posts_q  <= '0;
    end else begin
      if (asked && read_tag_i == some_q) waits_q <= 1'b1;
      if (line_valid_o && line_last_o && line_tag_o == some_q) waits_q <= 1'b0;
      if (write_valid_i && write_ready_o) amid_own_q <= !write_last_i;
      own_bursts_q <= own_bursts_q + COUNT_BITS'(write_valid_i && write_ready_o && write_last_i)
                      - COUNT_BITS'(write_ack_o);
      own_posts_q  <= own_posts_q + COUNT_BITS'(post_valid_i && post_ready_o)
                      - COUNT_BITS'(post_ack_o);
    end
  end
  always_comb begin
    if (!begun_q) assume (!bus_rst_ni && !rst_ni);
    if (!bus_rst_ni) assume (!rst_ni);
    if (begun_q && bus_rst_ni) begin
      // The bus acknowledges what was written, each once, and counts as far as is agreed.
      assume (!write_ack_i || bursts_q != '0);
      assume (!post_ack_i || posts_q != '0);
      assume (bursts_q != '1 && posts_q != '1);
      // A tag is used again when its read has ended.
      assume (!(read_valid_i && rst_ni && awaited_q[read_tag_i]));

      assert (waits_q == awaited_q[some_q] || !rst_ni);
      if (line_valid_o && line_tag_o == some_q) assert (waits_q);
      if (line_valid_o && !gives_up) assert (line_tag_i == {epoch_q[line_tag], line_tag});
      if (write_ack_o) assert (own_bursts_q != '0);
      if (post_ack_o) assert (own_posts_q != '0);
      if (rst_ni) begin
        assert (bursts_q == stale_bursts_q + own_bursts_q && bursts_q >= own_bursts_q);
        assert (posts_q == stale_posts_q + own_posts_q && posts_q >= own_posts_q);
      end
      // A burst of which the data path knows nothing is ended, by a line without an octet.
      if (amid_q && !amid_own_q && rst_ni) assert (ends);
      if (amid_own_q && rst_ni) assert (amid_q && !broken_q);
      if (ends) assert (write_valid_o && write_last_o && write_void_o);
      if (broken_q) assert (amid_q && own_bursts_q == '0);
    end
  end
`endif

endmodule
