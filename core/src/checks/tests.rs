//! Tests of the checks machine.
