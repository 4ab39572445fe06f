// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// What lies in the host's memory: entries of the rings and payloads of admin commands
// (docs/device-abi.md). A structure's octet 0 is in bits 7 to 0, so its fields stand here from the
// last to the first. The same structures in Rust are in fpga/regs/src; ipa_layout_check and a test
// there hold both to the same octets.
package ipa_pkg;

  // A submission. 64 octets.
  typedef struct packed {
    logic [127:0]   iv;
    logic [63:0]    sequence_number;
    logic [31:0]    len;
    logic [31:0]    offset;
    logic [63:0]    buffer;
    logic [31:0]    buffer_len;
    logic [31:0]    sa_generation;
    logic [31:0]    sa_index;
    logic [31:0]    slot_generation;
    logic [31:0]    slot;
    logic [15:0]    entries;
    logic [7:0]     flags;
    logic [7:0]     opcode;
  } submission_t;

  // One piece of a buffer, in a gather list. 16 octets.
  typedef struct packed {
    logic [31:0]    reserved;
    logic [31:0]    len;
    logic [63:0]    iova;
  } gather_entry_t;

  // A completion. 32 octets.
  typedef struct packed {
    logic [7:0]     phase;
    logic [7:0]     status;
    logic [15:0]    position;
    logic [31:0]    len;
    logic [23:0]    reserved;
    logic [7:0]     next_header;
    logic [31:0]    offset;
    logic [63:0]    sequence_number;
    logic [31:0]    slot_generation;
    logic [31:0]    slot;
  } completion_t;

  // An event. 32 octets.
  typedef struct packed {
    logic [7:0]     phase;
    logic [7:0]     kind;
    logic [47:0]    reserved;
    logic [63:0]    card_time;
    logic [63:0]    value;
    logic [31:0]    sa_generation;
    logic [31:0]    sa_index;
  } event_t;

  // An admin command. 64 octets.
  typedef struct packed {
    logic [319:0]   arguments;
    logic [63:0]    payload;
    logic [31:0]    payload_len;
    logic [31:0]    generation;
    logic [31:0]    index;
    logic [15:0]    id;
    logic [7:0]     reserved0;
    logic [7:0]     opcode;
  } command_t;

  // An admin completion. 32 octets.
  typedef struct packed {
    logic [7:0]     phase;
    logic [7:0]     status;
    logic [47:0]    reserved2;
    logic [63:0]    value;
    logic [31:0]    reserved1;
    logic [31:0]    generation;
    logic [31:0]    index;
    logic [15:0]    reserved0;
    logic [15:0]    id;
  } command_completion_t;

  // Outer headers of an SA. 40 octets.
  typedef struct packed {
    logic [23:0]    reserved;
    logic [7:0]     version;
    logic [15:0]    destination_port;
    logic [15:0]    source_port;
    logic [127:0]   destination;
    logic [127:0]   source;
  } outer_t;

  // Limits of an SA. 48 octets.
  typedef struct packed {
    logic [63:0]    hard_time;
    logic [63:0]    hard_packets;
    logic [63:0]    hard_bytes;
    logic [63:0]    soft_time;
    logic [63:0]    soft_packets;
    logic [63:0]    soft_bytes;
  } lifetimes_t;

  // State of a replay window. 520 octets.
  typedef struct packed {
    logic [4095:0]  seen;
    logic [63:0]    top;
  } replay_state_t;

  // Usage of an SA. 48 octets.
  typedef struct packed {
    logic [63:0]    errors;
    logic [63:0]    replayed;
    logic [63:0]    bad_icv;
    logic [63:0]    sequence_number;
    logic [63:0]    bytes;
    logic [63:0]    packets;
  } usage_t;

  // An SA, as it is installed. 1024 octets.
  typedef struct packed {
    logic [2239:0]  reserved1;
    logic [63:0]    cookie;
    replay_state_t replay;
    lifetimes_t lifetimes;
    outer_t outer;
    logic [63:0]    grant_last;
    logic [63:0]    grant_first;
    logic [511:0]   integrity_key;
    logic [255:0]   cipher_key;
    logic [31:0]    salt;
    logic [31:0]    replay_window;
    logic [7:0]     reserved0;
    logic [7:0]     flags;
    logic [7:0]     integrity;
    logic [7:0]     cipher;
    logic [31:0]    spi;
  } sa_context_t;

endpackage
