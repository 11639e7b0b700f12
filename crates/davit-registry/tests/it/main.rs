//! Tests of the registry server.

mod gc_model;
