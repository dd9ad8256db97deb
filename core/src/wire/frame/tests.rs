//! Tests of datagram bytes.
