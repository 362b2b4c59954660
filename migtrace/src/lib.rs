//! migtrace.
