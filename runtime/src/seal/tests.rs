//! Tests of sealed datagrams.
