// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// What the card's blocks hand to each other.
package ipa_card_pkg;

  typedef enum int unsigned {
    LeadOctets = 16,                             // in front of a packet, for ESP header and IV
    HeadOctets = 112,                            // of a packet, in which its IP headers must end
    MaxPacket  = 16384,                          // octets, sealed or not
    MaxDepth   = 4096,                           // entries of a ring
    MaxWindow  = 1024,
    MaxBuffer  = 131072,
    MaxRules   = 256                             // of inline mode, of each direction
  } limit_e;

  // Of buffers in pieces: how many are under way, and pieces of each.
  typedef enum int unsigned {GatherSlots = 16} slots_e;
  typedef enum int unsigned {MaxGather = 16} gather_e;

  typedef struct packed {
    logic [17:0] len;
    logic [63:0] addr;
  } piece_t;

  // offload_api::queue::Status
  typedef enum logic [7:0] {
    Ok                = 8'd0,
    OkSoftExpired     = 8'd1,
    BadDescriptor     = 8'd2,
    DmaFault          = 8'd3,
    SaStale           = 8'd5,
    WrongNumbering    = 8'd6,
    HardExpired       = 8'd8,
    SequenceExhausted = 8'd9,
    BadIcv            = 8'd10,
    Replayed          = 8'd11,
    TooOld            = 8'd12,
    BadPad            = 8'd13,
    BadNextHeader     = 8'd14,
    BadLength         = 8'd15,
    BadIpHeader       = 8'd16,
    OuterMismatch     = 8'd17,
    Fragment          = 8'd18,
    NoSpace           = 8'd19,
    BadGather         = 8'd21
  } status_t;

  typedef enum logic [7:0] {
    ProtocolIpv4 = 8'd4,
    ProtocolUdp  = 8'd17,
    ProtocolIpv6 = 8'd41,
    ProtocolEsp  = 8'd50,
    ProtocolNone = 8'd59
  } protocol_e;

  // What of an SA does not move. All ones are no limit.
  typedef struct packed {
    logic [63:0] hard_packets;
    logic [63:0] hard_bytes;
    logic [63:0] soft_packets;
    logic [63:0] soft_bytes;
    logic [31:0] spi;
    logic [31:0] generation;
    logic [15:0] window;                         // packets, a multiple of 32; 0 is off
    logic [5:0]  reserved;
    logic        udp;                            // ESP is in UDP (RFC 3948)
    logic        outer_v6;
    logic        outer;                          // outer headers are made, or looked for
    logic        hard_time;                      // that limit is reached
    logic        soft_time;
    logic        draining;
    logic        numbered;                       // each descriptor brings number and IV
    logic        esn;
    logic        transport;
    logic        outbound;
  } sa_config_t;

  // An SA's outer headers, as they lie on the wire: octet 0 in bits 7 to 0. Of IPv4's addresses the first
  // four octets count.
  typedef struct packed {
    logic [31:0]  ports;                         // source, destination
    logic [127:0] destination;
    logic [127:0] source;
  } ends_t;

  // What has been told of an SA, once for each arming.
  typedef struct packed {
    logic [10:0] reserved;
    logic        sequence_end;
    logic        sequence_ending;
    logic        grant_low;
    logic        hard_limit;
    logic        soft_limit;
  } told_t;

  // What of an outbound SA moves.
  typedef struct packed {
    told_t       told;
    logic [15:0] ended;                          // not 0: the 64-bit space is used up
    logic [63:0] low_mark;                       // at or under it the grant is low
    logic [63:0] last;
    logic [63:0] next;
    logic [63:0] number;                       // the highest one used
    logic [63:0] bytes;
    logic [63:0] packets;
  } outbound_t;

  // What of an inbound SA moves, but for the window's bits.
  typedef struct packed {
    told_t       told;
    logic [63:0] top;                            // of the window
    logic [63:0] number;                       // the highest one of a packet that was passed on
    logic [63:0] bytes;
    logic [63:0] packets;
  } inbound_t;

  // Refused packets of an SA.
  typedef struct packed {
    logic [63:0] errors;
    logic [63:0] replayed;
    logic [63:0] bad_icv;
  } refused_t;

  // What an SA has to say: one bit for each notice, in the order in which they are told.
  typedef struct packed {
    logic soft_time;
    logic soft_packets;
    logic soft_bytes;
    logic sequence_ending;
    logic sequence_end;
    logic grant_low;
    logic hard_time;
    logic hard_packets;
    logic hard_bytes;
  } notices_t;

  typedef enum logic [1:0] {Notice, QueueFailed, Note} event_e;

  // To the management: notices of an SA, a queue that stopped, or a line of the error log.
  typedef struct packed {
    event_e      kind;
    logic [15:0] what;                           // notices_t, or the kind of error
    logic [31:0] index;                          // of the SA, or queue
    logic [31:0] generation;
    logic [63:0] value;
  } card_event_t;

  // An operation.
  typedef struct packed {
    sa_config_t  sa;
    logic        sa_found;
    logic        unfetched;                      // its descriptor could not be read
    logic        has_data;                       // its packet was asked for
    logic        gather;                         // its buffer is in pieces, which are kept
    logic        numbered;                       // it brings number and IV
    logic        port;                           // its packet came by a port, and goes on by one
    logic        wire_in;                        // by the wire
    status_t     status;
    logic [7:0]  queue_index;
    logic [7:0]  opcode;
    logic [31:0] slot;
    logic [31:0] slot_generation;
    logic [31:0] sa_index;
    logic [31:0] sa_generation;
    logic [63:0] buffer;                         // or its list
    logic [17:0] room;                           // octets of the buffer
    logic [31:0] offset;
    logic [31:0] octets;                         // by the descriptor's word
    logic [14:0] len;
    logic [63:0] number;
    logic [63:0] iv;                             // octet 0 in bits 7 to 0
  } job_t;

  typedef enum logic [1:0] {Drop, Seal, Open} work_e;

  // How a packet's beats are cut.
  typedef struct packed {
    work_e       work;
    logic [8:0]  beats;                          // that there are
    logic [1:0]  skip;                           // whole beats in front
    logic [5:0]  shift;                          // octets in front, behind those
    logic [8:0]  lines;                          // that are wanted; maybe one more than there are
    logic [14:0] octets;                         // of the stream: ESP header to trailer, or to ICV
  } cut_t;

  // What is put around it.
  typedef struct packed {
    logic        seal;
    logic        esn;
    logic [31:0] sa_index;
    logic [31:0] spi;
    logic [63:0] number;
    logic [63:0] iv;
    logic [14:0] octets;
    logic [14:0] trailer_at;
    logic [39:0] trailer;                        // octet 0 in bits 7 to 0
  } frame_t;

  // What an IP packet says of itself.
  typedef struct packed {
    logic        bad;
    logic        is_v6;
    logic        fragment;
    logic        later;                          // not the first one
    logic [7:0]  protocol;                       // of what transport mode protects
    logic [7:0]  field;                          // the octet that holds it
    logic [7:0]  kept;                           // octets in front of it; 255 and more is 255
    logic [7:0]  upper;                          // protocol behind all headers
    logic [7:0]  upper_at;                       // where that starts, likewise
    logic [16:0] total;
  } facts_t;

  // An operation on its way out. `head` is the IP header that stays, or in tunnel mode the one that is put
  // in front, and `facts` are its.
  typedef struct packed {
    job_t        job;
    work_e       work;
    status_t     status;
    logic [63:0] number;
    logic [14:0] octets;                         // of the stream: ESP header to trailer, or to ICV
    facts_t      facts;
    logic [31:0] ports;                          // of a UDP header behind it, where the SA has one
    logic [8*HeadOctets-1:0] head;
  } order_t;

  // What came out of the engine.
  typedef struct packed {
    logic        icv_good;
    logic        pad_good;
    logic [7:0]  pad_len;
    logic [7:0]  next_header;
    logic [8*HeadOctets-1:0] head;               // of the plaintext
  } opened_t;

  // Beats to write, or to drop.
  typedef struct packed {
    logic        port;                           // addr is one of the frame that leaves
    logic        gather;                         // addr is an offset in pieces that are kept
    logic        front;                          // of the headers that stay, else of the stream
    logic        second;                         // from their second beat on
    logic        keep;                           // the last beat is the next write's first, too
    logic [8:0]  beats;                          // that there are
    logic [5:0]  skip;                           // octets of the first one
    logic [14:0] octets;                         // to be written; 0: all are dropped
    logic [63:0] addr;
    logic        last;                           // of the operation
  } write_t;

  // An operation that is done but for its writes.
  typedef struct packed {
    job_t        job;
    status_t     status;
    logic        writes;
    logic [63:0] number;
    logic [31:0] offset;
    logic [14:0] len;
    logic [7:0]  next_header;
    logic [14:0] counted;                        // octets in the clear
  } done_t;

  // Where a frame of the wire goes.
  typedef enum logic [1:0] {ToNobody, ToCard, ToHost} way_e;

  // A frame of a port, of which all is there.
  typedef struct packed {
    logic                    damaged;            // or too long
    logic [15:0]             kind;               // EtherType, if it is Ethernet
    logic [14:0]             octets;
    logic [8*HeadOctets-1:0] head;               // of the IP packet in it
  } stored_t;

  // What came from the wire since reset.
  typedef struct packed {
    logic [63:0] damaged;                        // or too long
    logic [63:0] keepalives;
    logic [63:0] unknown_spi;                    // of the exceptions
    logic [63:0] exceptions;
    logic [63:0] received_bytes;
    logic [63:0] received;
  } port_counts_t;

  // Of the ports, what the card's data path made of packets since reset.
  typedef struct packed {
    logic [63:0] no_neighbour;
    logic [63:0] too_big;                        // for the wire, or for the card
    logic [63:0] wire_refused;
    logic [63:0] wire_no_rule;
    logic [63:0] host_refused;
    logic [63:0] host_no_rule;
    logic [63:0] host_too_big;
    logic [63:0] host_received_bytes;
    logic [63:0] host_received;
  } path_counts_t;

  // By which packets go through an SA. Addresses are numbers; those of IPv4 have 32 bits.
  typedef struct packed {
    logic [5:0]   reserved;
    logic         protect;                       // else they are dropped
    logic         is_v6;
    logic [7:0]   protocol;                      // 0 is any
    logic [31:0]  sa_generation;
    logic [31:0]  sa_index;
    logic [15:0]  destination_port_last;
    logic [15:0]  destination_port;
    logic [15:0]  source_port_last;
    logic [15:0]  source_port;
    logic [127:0] destination_last;
    logic [127:0] destination;
    logic [127:0] source_last;
    logic [127:0] source;
  } rule_t;

  // What rules look at.
  typedef struct packed {
    logic         is_v6;
    logic         has_ports;
    logic [7:0]   protocol;
    logic [15:0]  destination_port;
    logic [15:0]  source_port;
    logic [127:0] destination;
    logic [127:0] source;
  } flow_t;

  // RFC 4303, appendix A2.2: the number nearest to the window that has these low 32 bits.
  function automatic logic [63:0] full_number(input logic [63:0] top, input logic [15:0] window,
                                              input logic esn, input logic [31:0] low);
    logic [31:0] span, bottom, high;
    span   = window == 0 ? 32'd0 : 32'(window) - 32'd1;
    bottom = top[31:0] - span;
    high   = top[63:32];
    if (top[31:0] >= span) begin
      if (low < bottom) high = high + 32'd1;
    end else if (low >= bottom && high != 0) begin
      high = high - 32'd1;
    end
    return {esn ? high : 32'd0, low};
  endfunction

  // What the window says of a number but for its bit: fresh, to be looked up, or too old.
  typedef enum logic [1:0] {Fresh, Covered, Old} place_e;
  function automatic place_e place(input logic [63:0] top, input logic [15:0] window,
                                   input logic [63:0] number);
    if (number == 0)                         return Old;
    if (window == 0 || number > top)         return Fresh;
    if (top - number >= 64'(window))         return Old;
    return Covered;
  endfunction

  function automatic logic [31:0] swap32(input logic [31:0] word);
    return {word[7:0], word[15:8], word[23:16], word[31:24]};
  endfunction
  function automatic logic [63:0] swap64(input logic [63:0] word);
    return {swap32(word[31:0]), swap32(word[63:32])};
  endfunction
  function automatic logic [15:0] swap16(input logic [15:0] word);
    return {word[7:0], word[15:8]};
  endfunction

  // -- Between the registers and the management (ipa_front) ---------------------------------------
  // What registers say that only the management knows. Counters are those of its own work.
  typedef struct packed {
    logic [31:0] ports;                          // that lead anywhere: none, or all
    logic [31:0] sleeps;                         // bit 0: FEATURES.SLEEPS
    logic [31:0] max_queues;
    logic [31:0] max_sas;
    logic [31:0] error_cause;
    logic [31:0] heartbeat;
    logic [31:0] errors_logged;
    logic [31:0] events_dropped;
    logic [31:0] sas;
    logic [63:0] bad_descriptors;
    logic [63:0] dma_faults;
    logic [63:0] errors;
    logic [63:0] error_info;
    logic [63:0] now;                            // nanoseconds
  } face_t;

  // What the host has asked the management for.
  typedef struct packed {
    logic admin_tail;
    logic wake;
    logic detach;
    logic zeroise;
    logic resets;
  } asked_t;

  // What the host has set.
  typedef struct packed {
    logic [31:0] enable;
    logic [31:0] events_head;
    logic [31:0] events_depth;
    logic [31:0] admin_tail;
    logic [31:0] admin_depth;
    logic [63:0] events_base;
    logic [63:0] admin_completions;
    logic [63:0] admin_submissions;
  } settings_t;

  // What the data path has done since reset.
  typedef struct packed {
    logic [63:0] bad_descriptors;
    logic [63:0] dma_faults;
    logic [63:0] errors;
    logic [63:0] opened_bytes;
    logic [63:0] opened;
    logic [63:0] sealed_bytes;
    logic [63:0] sealed;
  } counters_t;

endpackage
