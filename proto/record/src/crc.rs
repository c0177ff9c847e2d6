//! CRC-32C (Castagnoli), with the processor's own instructions where it has them.

/// CRC-32C of `bytes`, as record batches and segments carry it.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Which implementation runs on this processor, e.g. `x86_64-avx512-vpclmulqdq`; for start-up logs and benches.
pub fn implementation() -> String {
    crc_fast::get_calculator_target(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_of_the_catalogue() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn runs_on_vector_instructions_where_there_are_any() {
        if std::is_x86_feature_detected!("pclmulqdq") && std::is_x86_feature_detected!("sse4.1") {
            let name = implementation();
            assert!(name.starts_with("x86_64-"), "{name}");
            assert!(!name.contains("software") && !name.contains("table"), "{name}");
        }
    }
}
