//! Criterion benches of codec, CRC, segment building and apply
