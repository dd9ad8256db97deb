//! Examples of the source alone.
