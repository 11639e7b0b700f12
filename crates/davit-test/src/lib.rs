//! Fixtures, filters and contract suites for davit's tests.

#![forbid(unsafe_code)]
