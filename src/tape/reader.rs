//! Reading a tape.
