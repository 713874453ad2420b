//! The disk of the tests.
