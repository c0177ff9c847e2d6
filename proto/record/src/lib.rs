//! Record batch v2: encode, validate and decode
