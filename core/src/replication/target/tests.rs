//! Examples of the target alone.
