//! Segment objects: many partitions' record batches in one immutable object
