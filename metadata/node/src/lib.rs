//! One process's part in the metadata log: boot, lead, follow, snapshot, truncate
